"""Image lists with an npz, and dbStruct .mat files."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from vpr.core import ConfigError, DataError
from vpr.datasets import dbstruct, groups, image_lists
from vpr.datasets.ground_truth import write_npz


def as_lists(positives):
    return [rows.tolist() for rows in positives]


# --- image lists


def write_lists(folder, database, queries):
    paths = folder / "toy_imageNames_index.txt", folder / "toy_imageNames_query.txt"
    for path, text in zip(paths, (database, queries), strict=True):
        path.write_bytes(text.encode())
    return paths


def test_lists_by_hand(tmp_path):
    lists = write_lists(tmp_path, "./a/1.jpg\n./a/2.jpg\n./b/1.jpg\n", "./q/1.jpg\n./q/2.jpg")
    write_npz(tmp_path / "toy.npz", np.array([(0.0, 0), (99, 0)]), np.array([(0.0, 9), (0, 10), (0, 11)]), 10)
    dataset = image_lists.read_image_lists(Path("/data"), *lists, tmp_path / "toy.npz")
    assert (dataset.name, dataset.protocol) == ("toy", "within 10 m")
    assert as_lists(dataset.positives) == [[0, 1], []]
    assert dataset.database.positions.tolist() == [[0, 9], [0, 10], [0, 11]]
    assert dataset.database.groups is None
    wider = image_lists.read_image_lists(Path("/data"), *lists, tmp_path / "toy.npz", radius_m=11, group_size=3)
    assert wider.protocol == "within 11 m" and as_lists(wider.positives) == [[0, 1, 2], []]
    assert wider.database.groups.tolist() == [0, 0, 0] and wider.queries.groups is None


def test_names_are_kept_as_written(tmp_path):
    names = [
        "./x/a b,c.jpg",
        "y/ü@1@2@.png",
        "-z//1.jpg",
        "./w/./2.jpg",
        "trailing .jpg",
        "two\u2028lines.jpg",
    ]
    lists = write_lists(tmp_path, "\ufeff" + "\r\n".join(names) + "\r\n\r\n \n", "q.jpg\n")
    dataset = image_lists.read_image_lists(Path("/data"), *lists)
    assert list(dataset.database.names) == names
    assert os.path.join("/data", dataset.database.names[0]) == "/data/./x/a b,c.jpg"
    assert dataset.protocol == "no ground truth" and dataset.positives is None


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "lists no images"),
        ("\n\r\n", "lists no images"),
        ("a.jpg\n\nb.jpg\n", "line 2: blank; remove it, since a blank line would shift the ground truth"),
        ("a.jpg\nb.jpg\n./a.jpg\n", r"line 3: '\./a.jpg' is on line 1 too; list every image once"),
        ("a.jpg\n/b.jpg\n", "line 2: image name '/b.jpg' is not inside its folder"),
        ("a.jpg\n../b.jpg\n", r"line 2: image name '\.\./b.jpg' is not inside its folder"),
        ("a\tb.jpg\n", "line 1: .*holds a control character"),
        ("folder/\n", "line 1: image name 'folder/' is empty"),
    ],
)
def test_lists_that_make_no_sense_are_refused(tmp_path, text, sentence):
    path = write_lists(tmp_path, text, "q.jpg\n")[0]
    with pytest.raises(DataError, match=sentence):
        image_lists.read_image_list(path)


def test_lists_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such image list"):
        image_lists.read_image_list(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xe9.jpg\n")
    for path in (tmp_path / "latin.txt", tmp_path):
        with pytest.raises(DataError, match="not a readable image list"):
            image_lists.read_image_list(path)


@pytest.mark.parametrize("queries, database", [(1, 3), (2, 2)])
def test_lists_and_npz_of_different_length_are_refused(tmp_path, queries, database):
    lists = write_lists(tmp_path, "a.jpg\nb.jpg\n", "q.jpg\n")
    write_npz(tmp_path / "toy.npz", np.zeros((queries, 2)), np.zeros((database, 2)), 25)
    sentence = "lists 2 images, but utmDb of .* has 3" if database == 3 else "lists 1 images, but utmQ of .* has 2"
    with pytest.raises(DataError, match=sentence):
        image_lists.read_image_lists(tmp_path, *lists, tmp_path / "toy.npz")


def test_a_radius_that_is_none_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="radius of -1 m"):
        image_lists.read_image_lists(tmp_path, tmp_path / "a", tmp_path / "b", radius_m=-1)
    with pytest.raises(ConfigError, match="radius of nan m"):
        dbstruct.read_dbstruct(tmp_path / "a.mat", tmp_path, radius_m=float("nan"))


def test_groups():
    assert groups.consecutive(6, 3).tolist() == [0, 0, 0, 1, 1, 1]
    assert groups.consecutive(0, 12).tolist() == []
    assert groups.by_label(["b", "a", "b", ""]).tolist() == [0, 1, 0, 2]
    with pytest.raises(DataError, match="7 database images do not divide into groups of 3"):
        groups.consecutive(7, 3)
    with pytest.raises(ConfigError, match="a group of 0 images"):
        groups.consecutive(6, 0)


# --- dbStruct


def cells(names):
    """Names as MATLAB saves a column cell array of them."""
    column = np.empty((len(names), 1), dtype=object)
    column[:, 0] = names
    return column


def test_a_mat_file_that_unpacks_to_more_than_a_list_takes_is_refused_before_reading(tmp_path, monkeypatch):
    path = tmp_path / "bomb.mat"
    savemat(path, {"filler": np.zeros((1000, 500)), "dbStruct": {"a": 1.0}}, do_compression=True)
    assert path.stat().st_size < 20_000  # unpacks to 4 MB
    monkeypatch.setattr("vpr.datasets.dbstruct.MOST_BYTES", 5_000_000)
    with pytest.raises(DataError, match="dbStruct has 1 fields"):
        dbstruct.read_dbstruct(path, tmp_path)
    monkeypatch.setattr("vpr.datasets.dbstruct.MOST_BYTES", 1_000_000)
    monkeypatch.setattr("scipy.io.loadmat", None)
    with pytest.raises(DataError, match=r"bomb.mat: 0.0 MB that unpack to over 1 MB; no list of images is so large"):
        dbstruct.read_dbstruct(path, tmp_path)


def write_mat(path, database, utm_database, queries, utm_queries, **changes):
    fields = {
        "whichSet": "test",
        "dbImageFns": cells(database),
        "utmDb": np.array(utm_database, dtype=np.float64).T,
        "qImageFns": cells(queries),
        "utmQ": np.array(utm_queries, dtype=np.float64).T,
        "numImages": float(len(database)),
        "numQueries": float(len(queries)),
        "posDistThr": 25.0,
        "posDistSqThr": 625.0,
        "nonTrivPosDistSqThr": 100.0,
    } | changes
    savemat(path, {"dbStruct": fields})
    return path


DATABASE, UTM_DATABASE = ["000/1.jpg", "000/2.jpg", "001/3.jpg"], [(0, 0), (25, 0), (26, 0)]
QUERIES, UTM_QUERIES = ["000/q1.jpg", "q2.jpg"], [(0, 0), (900, 0)]


def write_small(path, **changes):
    return write_mat(path, DATABASE, UTM_DATABASE, QUERIES, UTM_QUERIES, **changes)


def test_dbstruct_by_hand(tmp_path):
    dataset = dbstruct.read_dbstruct(write_small(tmp_path / "toy_test.mat"), tmp_path)
    assert (dataset.name, dataset.protocol) == ("toy_test", "within 25 m")
    assert dataset.database.names == tuple(DATABASE) and dataset.queries.names == tuple(QUERIES)
    assert dataset.database.positions.tolist() == [[0, 0], [25, 0], [26, 0]]
    assert dataset.database.positions.dtype == np.float64
    assert as_lists(dataset.positives) == [[0, 1], []]
    assert dataset.database.root == dataset.queries.root == tmp_path
    wider = dbstruct.read_dbstruct(tmp_path / "toy_test.mat", tmp_path, radius_m=26, group_size=3)
    assert as_lists(wider.positives) == [[0, 1, 2], []] and wider.database.groups.tolist() == [0, 0, 0]


def test_dbstruct_of_one_database_image_and_one_query(tmp_path):
    path = write_mat(tmp_path / "one.mat", ["a.jpg"], [(1, 2)], ["b.jpg"], [(1, 2)])
    assert as_lists(dbstruct.read_dbstruct(path, tmp_path).positives) == [[0]]


def test_queries_of_dbstruct_lie_under_their_own_root(tmp_path):
    path = write_small(tmp_path / "toy.mat")
    (tmp_path / "queries_real").mkdir()
    assert dbstruct.read_dbstruct(path, tmp_path).queries.root == tmp_path / "queries_real"
    assert dbstruct.read_dbstruct(path, tmp_path, tmp_path / "v3").queries.root == tmp_path / "v3"


def test_a_suffix_that_differs_on_disk_is_followed(tmp_path):
    path = write_small(tmp_path / "toy.mat")
    (tmp_path / "000").mkdir()
    (tmp_path / "000/1.png").touch()
    dataset = dbstruct.read_dbstruct(path, tmp_path)
    assert dataset.database.names == ("000/1.png", "000/2.png", "001/3.png")
    assert dataset.queries.names == tuple(QUERIES)  # nothing on disk says otherwise
    (tmp_path / "000/1.jpg").touch()
    assert dbstruct.read_dbstruct(path, tmp_path).database.names == tuple(DATABASE)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"utmDb": np.zeros((3, 2))}, r"field 1 has 3 names, field 2 is float64 of shape \(3, 2\)"),
        ({"utmQ": np.zeros((2, 3))}, "field 3 has 2 names, field 4 is float64 of shape"),
        ({"numImages": 4.0}, "field 5 says 4; expected"),
        ({"numImages": "many"}, "field 5 of dbStruct is .*expected one number"),
        ({"utmDb": np.array([[0, 1, np.inf], [0, 0, 0]])}, "position of '001/3.jpg' is not a finite number"),
        ({"dbImageFns": cells(["a.jpg", 5.0, "b.jpg"])}, "expected the name of an image, found 5"),
        ({"dbImageFns": cells(["a.jpg", "b.jpg", "a.jpg"])}, "image 'a.jpg' is listed twice"),
        ({"posDistThr": np.array([1.0, 2.0])}, "field 7 of dbStruct is"),
    ],
)
def test_dbstruct_that_makes_no_sense_is_refused(tmp_path, changes, sentence):
    with pytest.raises(DataError, match=sentence):
        dbstruct.read_dbstruct(write_small(tmp_path / "toy.mat", **changes), tmp_path)


def test_mat_files_without_a_dbstruct_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        dbstruct.read_dbstruct(tmp_path / "missing.mat", tmp_path)
    savemat(tmp_path / "other.mat", {"x": 1.0, "y": 2.0})
    with pytest.raises(DataError, match="expected one struct named dbStruct, found x, y"):
        dbstruct.read_dbstruct(tmp_path / "other.mat", tmp_path)
    savemat(tmp_path / "short.mat", {"dbStruct": {"whichSet": "test"}})
    with pytest.raises(DataError, match="dbStruct has 1 fields; expected at least 8"):
        dbstruct.read_dbstruct(tmp_path / "short.mat", tmp_path)
    whole = write_small(tmp_path / "whole.mat").read_bytes()
    for name, data in {"empty": b"", "text": b"hello " * 50, "cut": whole[: len(whole) // 2]}.items():
        (tmp_path / f"{name}.mat").write_bytes(data)
        with pytest.raises(DataError, match=r"not a readable .mat file"):
            dbstruct.read_dbstruct(tmp_path / f"{name}.mat", tmp_path)
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\0" * 384)
    with pytest.raises(DataError, match=r"version 7.3 .mat file"):
        dbstruct.read_dbstruct(tmp_path / "new.mat", tmp_path)
