"""Known data sets found below a folder, and looked over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import textured, write_picture
from test_datasets_kapture import write_tree
from test_datasets_lists import write_mat
from test_datasets_msls import write_side
from test_hostile import call

from vpr.core import DataError
from vpr.datasets import PROTOCOLS, describe, find, judge, layouts, missing_images, protocol
from vpr.datasets.ground_truth import write_npz
from vpr.datasets.locating import _EXPECTED, _LOCATORS
from vpr.datasets.readers import READERS


def utm(row, east=0.0):
    return f"@{500000 + 10 * row + east:.2f}@4000000.00@33@N@@@{row // 2}@@@@@@@@.jpg"


def two_folders(above, database="database", queries="queries", count=4):
    for row in range(count):
        write_picture(above / database / utm(row), textured(row, 20, 30))
    write_picture(above / queries / utm(0, 1.0), textured(9, 20, 30))
    return above


@pytest.mark.parametrize("above", ["", "images/test", "test", "processed/test"])
def test_the_two_folders_are_found_where_downloaders_put_them(tmp_path, above):
    two_folders(tmp_path / above)
    dataset = find(protocol("pitts30k"), tmp_path)
    assert (len(dataset.database), len(dataset.queries)) == (4, 1)
    assert dataset.database.groups is None


def test_names_of_the_folders_belong_to_the_protocol(tmp_path):
    two_folders(tmp_path / "images/test", "gallery", "queries_night")
    assert len(find(protocol("svox-night"), tmp_path).database) == 4
    with pytest.raises(DataError, match="no layout of svox-sun lies there; expected one of: the folders gallery and"):
        find(protocol("svox-sun"), tmp_path)


def test_panoramas_are_grouped_where_the_protocol_keeps_one(tmp_path):
    two_folders(tmp_path)
    assert find(protocol("tokyo247@nms"), tmp_path).database.groups.tolist() == [0, 0, 1, 1]
    assert find(protocol("tokyo247"), tmp_path).database.groups is None


def test_frames_need_no_positions_in_the_names(tmp_path):
    for row in range(3):
        write_picture(tmp_path / "database" / f"{row}.png", textured(row, 20, 30))
        write_picture(tmp_path / "queries" / utm(row).replace(".jpg", ".png"), textured(row, 20, 30))
    record = replace(protocol("nordland@3450-pm2"), database=3, queries=3)
    assert [rows.tolist() for rows in judge(find(record, tmp_path), record).positives] == [[0, 1, 2]] * 3


def test_image_lists_and_their_npz_are_found(tmp_path):
    for row in range(24):
        write_picture(tmp_path / "d" / f"{row}.jpg", textured(row, 20, 30))
    write_picture(tmp_path / "q.jpg", textured(3, 20, 30))
    (tmp_path / "t_imageNames_index.txt").write_text("".join(f"./d/{row}.jpg\n" for row in range(24)))
    (tmp_path / "t_imageNames_query.txt").write_text("./q.jpg\n")
    write_npz(tmp_path / "t.npz", np.zeros((1, 2)), np.zeros((24, 2)), 25)
    dataset = find(protocol("tokyo247@nms"), tmp_path)
    assert dataset.database.groups.tolist() == [0] * 12 + [1] * 12
    assert missing_images(dataset.database) == []
    (tmp_path / "d/3.jpg").unlink()
    (tmp_path / "d/5.jpg").write_bytes(b"")
    assert missing_images(dataset.database) == ["./d/3.jpg", "./d/5.jpg"]
    write_npz(tmp_path / "u.npz", np.zeros((1, 2)), np.zeros((24, 2)), 25)
    with pytest.raises(DataError, match=r"t.npz and u.npz are both there; call the one to use tokyo247.npz"):
        find(protocol("tokyo247@nms"), tmp_path)
    write_npz(tmp_path / "tokyo247.npz", np.ones((1, 2)), np.zeros((24, 2)), 25)
    assert find(protocol("tokyo247@nms"), tmp_path).queries.positions.tolist() == [[1, 1]]


def test_a_dbstruct_is_found_with_the_images_that_it_names(tmp_path, capsys):
    names = [f"000/{row}.jpg" for row in range(24)]
    write_mat(tmp_path / "tokyo247.mat", names, [(row, 0) for row in range(24)], ["q.jpg"], [(30, 0)])
    assert find(protocol("tokyo247@nms"), tmp_path).database.groups.tolist() == [0] * 12 + [1] * 12
    record = replace(protocol("tokyo247"), database=24, queries=1)
    dataset = judge(find(record, tmp_path), record)
    assert dataset.database.names == tuple(names) and len(dataset.positives[0]) == 19  # within 25 m of 30
    for name in names:
        write_picture(tmp_path / name, textured(0, 20, 30))
    assert missing_images(dataset.database) == []
    assert missing_images(dataset.queries) == ["q.jpg"]
    write_mat(tmp_path / "other.mat", names, [(row, 0) for row in range(24)], ["q.jpg"], [(30, 0)])
    assert len(find(record, tmp_path).database) == 24  # the file called as the protocol is
    (tmp_path / "tokyo247.mat").rename(tmp_path / "another.mat")
    with pytest.raises(DataError, match=r"another.mat and other.mat are both there; call the one to use tokyo247.mat"):
        find(record, tmp_path)


def test_msls_is_found_by_its_cities(tmp_path):
    for city in ("cph", "sf"):
        write_side(tmp_path / f"train_val/{city}/database", [(f"{city}1", 0, 0, False, True)])
        write_side(tmp_path / f"train_val/{city}/query", [(f"{city}2", 10, 0, False, True)])
    record = replace(protocol("msls-val@11k"), database=2, queries=2)
    dataset = judge(find(record, tmp_path), record)
    assert [rows.tolist() for rows in dataset.positives] == [[0], [1]]
    assert missing_images(dataset.queries) == [f"train_val/{city}/query/images/{city}2.jpg" for city in ("cph", "sf")]


def test_kapture_trees_are_found(tmp_path):
    record = replace(protocol("pitts30k"), readers=("kapture",), database=1, queries=1)
    with pytest.raises(DataError, match="the kapture trees mapping and query"):
        find(record, tmp_path)
    for side, longitude in (("mapping", 12.00011), ("query", 11.99989)):
        write_tree(tmp_path / side, "1, c0, a.jpg\n", records_gnss=f"1, g, {longitude}, 55.0, 0, 0, 0\n")
    assert [rows.tolist() for rows in judge(find(record, tmp_path), record).positives] == [[0]]


def test_an_empty_folder_and_a_missing_one_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="no layout of eynsham"):
        find(protocol("eynsham"), tmp_path)
    with pytest.raises(DataError, match="no such folder; give the folder that holds Eynsham"):
        find(protocol("eynsham"), tmp_path / "nowhere")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_layout_of_every_protocol_is_described(name):
    record = protocol(name)
    assert all(layout in describe(record) for layout in layouts(record))
    assert f"vpr datasets check {name} ROOT" in describe(record)


def test_every_reader_can_be_located():
    """All but that of MSLS's test cities, which have no protocol: their truth is not published."""
    assert set(_LOCATORS) == set(_EXPECTED) == set(READERS) - {"msls_test"}


def test_check_says_what_is_there_and_what_is_missing(tmp_path, capsys):
    two_folders(tmp_path / "images/test")
    call(["datasets", "check", "eynsham", str(tmp_path)])
    said = capsys.readouterr().out
    assert "4 database images, 1 queries" in said and "queries without positives: 0" in said
    assert "every image is there; judged by eynsham, within 25 m [" in said
    assert "How many images eynsham has is not known in full" in said
    (tmp_path / "images/test/database" / utm(2)).write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        call(["datasets", "check", "eynsham", str(tmp_path)])
    assert ended.value.code == 1
    streams = capsys.readouterr()
    assert f"missing: {tmp_path / 'images/test/database' / utm(2)}" in streams.out
    assert "1 images of eynsham are missing or empty" in streams.err


def test_check_refuses_other_counts(tmp_path, capsys):
    two_folders(tmp_path)
    with pytest.raises(SystemExit):
        call(["datasets", "check", "pitts30k", str(tmp_path)])
    assert "4 database images, but pitts30k has 10000" in capsys.readouterr().err


def test_list_prints_the_hash_beside_every_name(capsys):
    call(["datasets", "list"])
    assert "pitts30k                 549b02ca0f19ab42  Pittsburgh, within 25 m" in capsys.readouterr().out
