"""Data sets whose recall would mean nothing, and the sentences that say so."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import textured, write_picture
from test_hostile import call

from vpr.core import Dataset, ImageSet
from vpr.datasets import hint, judge, protocol, warn, warnings_of
from vpr.datasets.frames import frames_of, numbers_of
from vpr.datasets.protocols import resembling
from vpr.positives import positives_within


def images(names, positions=None, root=Path("/nowhere")):
    return ImageSet(root, tuple(names), None if positions is None else np.array(positions, dtype=np.float64))


def placed(database, queries, radius_m=25.0, prefix=""):
    there = images([f"{prefix}d{row}.jpg" for row in range(len(database))], database)
    here = images([f"{prefix}q{row}.jpg" for row in range(len(queries))], queries)
    return Dataset("town", f"within {radius_m:g} m", there, here, positives_within(here, there, radius_m))


PARIS = np.array([[48.8566, 2.3522], [48.8606, 2.3376], [48.8530, 2.3499]])
UTM = np.array([[448251.8, 5411932.7], [448300.1, 5411900.2], [452000.0, 5410000.0]])


# --- positions and positives


def test_a_sound_set_has_no_warnings():
    assert warnings_of(placed(UTM, UTM + 3.0)) == []
    assert warnings_of(Dataset("town", "none", images(["a.jpg"]), images(["q.jpg"]))) == []


def test_degrees_taken_as_metres():
    found = warnings_of(placed(PARIS, PARIS + 0.001))
    assert found[0].startswith(
        "the positions of 3 database images look like degrees but are read as metres (row 0, d0.jpg"
    )
    assert "the positions of 3 queries look like degrees" in found[1]
    assert "all 3 database images are positives of all 3 queries" in found[2]


def test_degrees_in_a_single_name():
    name = "@48.8566@2.3522@a.jpg"
    one = Dataset("town", "none", images([name], [[48.8566, 2.3522]]), images(["q.jpg"]))
    assert "look like degrees" in warnings_of(one)[0]


@pytest.mark.parametrize(
    "positions",
    [
        np.random.default_rng(0).normal(size=(20, 2)),  # a room, in metres from its middle
        [[0, 0], [25, 0], [50, 0]],
        [[30, 40], [55, 40]],  # whole metres
        UTM,
    ],
)
def test_metres_are_not_taken_for_degrees(positions):
    assert not any("degrees" in text for text in warnings_of(placed(positions, [[90_000, 90_000]])))


def test_rows_at_zero_are_named_if_the_others_are_elsewhere():
    with_zeros = np.concatenate([UTM, np.zeros((5, 2))])
    found = warnings_of(placed(with_zeros, UTM))
    assert found == [
        "5 of 8 database images lie at 0, 0, as missing positions do: row 3 d3.jpg, row 4 d4.jpg, row 5 d5.jpg "
        "and 2 more"
    ]
    assert warnings_of(placed([[0, 0], [100, 0]], [[0, 0]])) == []


def test_east_and_north_exchanged():
    found = warnings_of(placed(UTM[:, ::-1], UTM[:, ::-1] + 3))
    assert "east and north of 3 database images look exchanged" in found[0] and len(found) == 2


def test_latitude_and_longitude_exchanged_in_names():
    names = ["@387000@3950000@54@S@139.7@35.7@a@.jpg", "@387100@3950000@54@S@35.7@139.7@b@.jpg"]
    tokyo = Dataset("tokyo", "none", images(names, [[387000, 3950000], [387100, 3950000]]), images(["q.jpg"]))
    assert warnings_of(tokyo) == [
        "latitude and longitude look exchanged in the names of 1 of 2 database images (a latitude beyond 90 degrees): "
        f"row 0 {names[0]}"
    ]


def test_every_database_image_a_positive_of_every_query():
    found = warnings_of(placed(UTM, UTM, 1e6))
    assert found == [
        "all 3 database images are positives of all 3 queries, so every ranking has a recall of 100 %; check "
        "the positions and the radius"
    ]


# --- queries that are database images


def files(root, contents):
    root.mkdir(parents=True)
    for name, data in contents.items():
        (root / name).write_bytes(data)
    return images(contents, root=root)


def test_queries_of_equal_content_and_links_are_found_and_equal_sizes_are_not_enough(tmp_path):
    large = b"x" * 20_000
    middle = large[:10_000] + b"y" + large[10_001:]  # differs between the ends
    database = files(tmp_path / "db", {"a.jpg": large, "b.jpg": b"one", "c.jpg": b"", "d.jpg": b"link"})
    queries = files(tmp_path / "q", {"copy.jpg": b"one", "other.jpg": b"two", "middle.jpg": middle, "empty.jpg": b""})
    (tmp_path / "q/linked.jpg").symlink_to(tmp_path / "db/d.jpg")
    queries = replace(queries, names=(*queries.names, "linked.jpg", "absent.jpg"))
    found = warnings_of(Dataset("town", "none", database, queries))
    assert found == [
        "2 of 6 queries are database images (same file or same content), so each finds itself: copy.jpg is b.jpg, "
        "linked.jpg is d.jpg; recall says nothing about them"
    ]


def test_one_folder_as_both(tmp_path):
    both = files(tmp_path / "db", {"a.jpg": b"one", "b.jpg": b"two"})
    assert "2 of 2 queries are database images" in warnings_of(Dataset("town", "none", both, both))[0]


def test_a_run_says_it_beside_the_recall(small_city, tmp_path, capsys):
    database, queries = small_city
    for path in sorted(database.iterdir())[:2]:
        shutil.copy(path, queries / path.name)
    call(["run", "--database", str(database), "--queries", str(queries), "--out", str(tmp_path / "out")])
    streams = capsys.readouterr()
    assert "Warning:     2 of 7 queries are database images" in streams.out
    assert "2 of 7 queries are database images" in json.loads((tmp_path / "out/run.json").read_text())["warnings"]


def test_warnings_are_logged_with_the_name_of_the_set(caplog):
    warn(placed(UTM, UTM, 1e6))
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "/nowhere: no such folder, so none of 3 queries can be read" in caplog.text
    assert caplog.text.count("town: all 3 database images are positives") == 1


def test_missing_images_are_counted_and_a_wrong_root_is_named(tmp_path, caplog):
    database = files(tmp_path / "db", {"a.jpg": b"one", "b.jpg": b"two"})
    (tmp_path / "db/b.jpg").unlink()
    elsewhere = images(["c.jpg"], root=tmp_path / "db")
    found = warn(Dataset("town", "none", database, elsewhere))
    assert found == [
        f"1 of 2 database images are not in {tmp_path}/db: row 1 b.jpg",
        f"1 of 1 queries are not in {tmp_path}/db: row 0 c.jpg; is it the folder that the names are relative to?",
    ]


# --- frames


def sequence(numbers, folder="summer"):
    return images([f"{folder}/images-{number:05}.png" for number in numbers])


def frames_record(database, queries, frames=1, step=1):
    record = protocol("nordland@27592-pm10")
    return replace(record, database=database, queries=queries, frames=frames, query_step=step)


def test_a_missing_frame_and_a_stray_one_do_not_shift_the_others(caplog):
    """Counted by rows, every query after the gap would have lost its positives; the numbers of images are equal."""
    database, queries = list(range(202, 222)), [*range(202, 207), *range(208, 222), 999]
    dataset = Dataset("n", "", sequence(database), sequence(queries, "winter"))
    judged = judge(dataset, frames_record(20, 20, frames=0))
    assert [rows.tolist() for rows in judged.positives[3:7]] == [[3], [4], [6], [7]]
    assert judged.positives[-1].tolist() == []
    assert "1 frames of the queries are not in the database: 999" in caplog.text
    assert "1 frames of the database are not among the queries: 207" in caplog.text


def test_stretches_left_out_of_both_sides_do_not_count(caplog):
    numbers = [*range(10), *range(500, 510)]  # a tunnel between
    dataset = Dataset("n", "", sequence(numbers), sequence(numbers, "winter"))
    judged = judge(dataset, frames_record(20, 20))
    assert [rows.tolist() for rows in judged.positives[8:12]] == [[7, 8, 9], [8, 9, 10], [9, 10, 11], [10, 11, 12]]
    assert not caplog.records


@pytest.mark.parametrize("queries", [range(1, 41, 10), range(1, 5)], ids=["by frame", "one by one"])
def test_every_tenth_frame_by_either_numbering(queries):
    dataset = Dataset("n", "", sequence(range(1, 41)), sequence(queries, "winter"))
    assert frames_of(dataset, 10).queries.tolist() == [0, 10, 20, 30]


def test_rows_are_counted_where_names_say_nothing(caplog):
    dataset = Dataset("n", "", images(["a.png", "b.png"]), images(["c.png", "d.png"]))
    assert frames_of(dataset).queries.tolist() == [0, 1]
    assert numbers_of(["a/1.png", "b/1.png"]) is None and numbers_of(["@1@2@3@.png"]) is None
    apart = Dataset("n", "", sequence(range(100)), sequence(range(500, 600)))
    assert frames_of(apart).queries.tolist() == list(range(100))
    assert "only 0 of 100 queries have a number that a database image has" in frames_of(apart).remarks[0]


def test_check_refuses_misaligned_frames(tmp_path, capsys, monkeypatch):
    record = frames_record(4, 4)
    monkeypatch.setattr("vpr.datasets.protocol", lambda name: record)
    for folder, numbers in (("database", (1, 2, 3, 4)), ("queries", (1, 3, 4, 5))):
        for number in numbers:
            write_picture(tmp_path / folder / f"{number}.png", textured(number, 20, 30))
    with pytest.raises(SystemExit):
        call(["datasets", "check", record.name, str(tmp_path)])
    streams = capsys.readouterr()
    assert "every image is there" not in streams.out
    assert "1 frames of the queries are not in the database: 5; 1 frames of the database are not among" in streams.err


# --- which protocol a set looks like


def test_a_set_is_known_by_its_numbers_of_images():
    dataset = Dataset("n", "within 25 m", sequence(range(75_984)), sequence(range(315)))
    assert [record.name for record in resembling(dataset)] == ["tokyo247", "tokyo247@nms"]
    assert "one image per panorama; NetVLAD" in hint(dataset) and "choose with --protocol tokyo247" in hint(dataset)
    assert hint(replace(dataset, protocol="tokyo247, within 25 m [0123456789abcdef]")) == ""
    assert hint(Dataset("n", "", sequence(range(3)), sequence(range(2)))) == ""


def test_a_set_is_known_by_the_names_in_its_lists():
    """Nordland's numbers of images belong to several protocols; the lists to one."""
    dataset = Dataset("n", "", sequence(range(27_592)), sequence(range(27_592)))
    assert len(resembling(dataset)) == 2
    record = protocol("nordland@27592-pm7")
    assert len(record.lists) == 1


def test_ground_truth_made_of_degrees_in_columns_of_metres_is_remarked(tmp_path, capsys):
    rows = [f"d{row}.jpg,database,{lat},{lon}" for row, (lat, lon) in enumerate(PARIS.tolist())]
    (tmp_path / "p.csv").write_text("\n".join(["name,role,utm_east,utm_north", *rows, "q.jpg,query,48.8567,2.3523"]))
    call(["gt", "make", str(tmp_path / "p.csv"), "--out", str(tmp_path / "p.npz")])
    said = capsys.readouterr().out
    assert "warning: the positions of 3 database images look like degrees but are read as metres" in said
    assert "warning: all 3 database images are positives of all 1 queries" in said
