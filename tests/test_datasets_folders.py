"""Folders of pictures, positions in file names, ground_truth.csv, and the choice between them."""

import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import utm

from vpr.core import ConfigError, DataError, ImageError, ImageSet
from vpr.datasets import READERS, folders, ground_truth_csv, read_pair, reader, utm_names
from vpr.datasets.ground_truth import check, check_text
from vpr.features.contents import read_contents
from vpr.images import read_image

DATA = Path(__file__).parents[2] / "shared/data/vpr"


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def full_name(latitude, longitude, panorama="", tile=""):
    east, north, number, letter = utm.from_latlon(latitude, longitude)
    place = f"@{east:010.2f}@{north:010.2f}@{number:02d}@{letter}@{latitude:.5f}@{longitude:.5f}"
    return f"{place}@{panorama}@{tile}@@@@@@@.jpg"


def as_lists(positives):
    return [rows.tolist() for rows in positives]


# --- listing


def test_listing_is_recursive_natural_and_by_suffix(tmp_path):
    touch(tmp_path, "10.jpg", "2.JPEG", "a/1.Png", "a/b c/ü,1.tiff", "-x.webp", "a@b/3.pgm", "4.ppm", "5.bmp", "6.TIF")
    touch(tmp_path, ".hidden.jpg", ".cache/7.jpg", "notes.txt", "jpg", "8.jpg.txt", "folder.jpg/9.jpg")
    assert folders.list_images(tmp_path) == (
        "2.JPEG",
        "4.ppm",
        "5.bmp",
        "6.TIF",
        "10.jpg",
        "-x.webp",
        "a/1.Png",
        "a/b c/ü,1.tiff",
        "a@b/3.pgm",
        "folder.jpg/9.jpg",
    )


def test_listing_does_not_depend_on_the_order_on_disk(tmp_path):
    names = ["a1.jpg", "a01.jpg", "a001.jpg", "b.jpg"]
    there, back = touch(tmp_path / "x", *names), touch(tmp_path / "y", *reversed(names))
    assert folders.list_images(there) == folders.list_images(back)


def test_links_are_followed_but_not_round(tmp_path):
    touch(tmp_path / "elsewhere", "1.jpg")
    touch(tmp_path / "set", "a/2.jpg")
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/3.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    (tmp_path / "set/broken.jpg").symlink_to(tmp_path / "gone.jpg")  # listed, so that its loss is reported by name
    (tmp_path / "set/a/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/self").symlink_to(tmp_path / "set/self")
    assert folders.list_images(tmp_path / "set") == ("3.jpg", "a/2.jpg", "broken.jpg", "linked/1.jpg")


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path):
    touch(tmp_path, "file.jpg", "empty/.keep")
    with pytest.raises(DataError, match="no such folder"):
        folders.list_images(tmp_path / "missing")
    with pytest.raises(DataError, match="is a file; give the folder"):
        folders.list_images(tmp_path / "file.jpg")
    with pytest.raises(DataError, match=r"holds no images \(\.avif \.bmp"):
        folders.list_images(tmp_path / "empty")


@pytest.mark.parametrize("name", ["new\nline.jpg", "bell\x07.jpg", os.fsdecode(b"latin\xe9.jpg")])
def test_names_that_no_file_between_the_stages_can_hold_are_refused(tmp_path, name):
    touch(tmp_path, name)
    with pytest.raises(DataError, match="rename the file"):
        folders.read_image_folder(tmp_path)


def test_a_hundred_thousand_names_take_seconds(tmp_path):
    names = [f"@{500_000 + i}.25@{4_000_000 + i}.75@17@T@@@{i // 12}@.jpg" for i in range(100_000)]
    start = time.perf_counter()
    placed = utm_names.parse_all(tmp_path, names)
    positions, zone = utm_names.positions_of(placed, tmp_path, 1)
    assert time.perf_counter() - start < 10
    assert zone == "17N" and positions[-1].tolist() == [599_999.25, 4_099_999.75]


# --- positions in names


def test_short_and_full_names():
    assert utm_names.parse("@12.5@-3e2@x.jpg") == utm_names.Placed(12.5, -300.0, None, "")
    assert utm_names.parse("a@9@9@b/@1@2@anything@at@all.jpg") == utm_names.Placed(1.0, 2.0, None, "")
    assert utm_names.parse("@0@00023.8@@@@@10@@@@@@@@.jpg") == utm_names.Placed(0.0, 23.8, None, "10")
    full = "@0386569.94@6173971.53@33@U@055.69824@0013.19520@pano@02@090@@@@201901@day_forward@.jpg"
    assert utm_names.parse(full) == utm_names.Placed(386569.94, 6173971.53, "33N", "pano", 90.0, "201901")
    assert utm_names.parse("@1@2@54@S@-10@139@None@.jpg") == utm_names.Placed(1.0, 2.0, "54S", "")
    assert utm_names.parse("@1@2@99@Z@@@@.jpg").zone is None
    assert utm_names.parse("@1@2@3@3N@@@@.jpg").zone is None


@pytest.mark.parametrize(
    "name", ["plain.jpg", "@only.jpg", "@1@2.jpg", "x@1@2@.jpg", "a@b@c@d/plain.jpg", "@a/@b/@c/d.jpg"]
)
def test_names_without_a_position(name):
    assert utm_names.parse(name) is None


@pytest.mark.parametrize(
    "name", ["@nan@2@.jpg", "@1@inf@.jpg", "@east@north@.jpg", "@@@@.jpg", "@1,5@2@.jpg", "@1_0@2@.jpg"]
)
def test_positions_that_are_no_numbers_are_refused_by_name(tmp_path, name):
    touch(tmp_path, "sub/" + name)
    with pytest.raises(DataError, match=r"position in the file name 'sub/@.*expected a number, found"):
        folders.read_image_folder(tmp_path)


def test_folders_with_positions_by_hand(tmp_path):
    database = touch(tmp_path / "at@home/pitts30k/images/test/database", "@0@0@a.jpg", "x/@25@0@b.jpg", "@26@0@c.jpg")
    queries = touch(tmp_path / "at@home/pitts30k/images/test/queries", "@0@0@q.jpg", "@900@0@r.jpg")
    dataset = folders.read_folders(database, queries)
    assert (dataset.name, dataset.protocol) == ("pitts30k", "within 25 m")
    assert dataset.database.names == ("@0@0@a.jpg", "@26@0@c.jpg", "x/@25@0@b.jpg")
    assert dataset.database.positions.tolist() == [[0, 0], [26, 0], [25, 0]]
    assert as_lists(dataset.positives) == [[0, 2], []]
    assert as_lists(folders.read_folders(database, queries, 26.0).positives) == [[0, 1, 2], []]
    with pytest.raises(ConfigError, match="radius of -1"):
        folders.read_folders(database, queries, -1.0)


def test_folders_without_positions_have_no_ground_truth(tmp_path):
    dataset = folders.read_folders(touch(tmp_path / "db", "a.jpg"), touch(tmp_path / "q", "b.jpg"))
    assert dataset.protocol == "no ground truth" and dataset.positives is None
    assert dataset.database.positions is None and dataset.queries.positions is None


def test_some_names_with_and_some_without_positions_are_refused(tmp_path):
    mixed = touch(tmp_path / "mixed", "@1@2@a.jpg", "b.jpg", "c.jpg")
    placed, bare = touch(tmp_path / "placed", "@1@2@a.jpg"), touch(tmp_path / "bare", "b.jpg")
    with pytest.raises(DataError, match=r"'b.jpg' has no @east@north@ position.*1 other images have \(2 without\)"):
        folders.read_folders(mixed, placed)
    with pytest.raises(DataError, match=r"'b.jpg' has no @east@north@ position"):
        folders.read_folders(mixed, bare, ground_truth=False)
    with pytest.raises(DataError, match=r"bare: 'b.jpg' has no .*but the images of .*placed have"):
        folders.read_folders(bare, placed)


def test_queries_without_positions_have_an_unknown_recall(tmp_path, caplog):
    placed = touch(tmp_path / "placed", "@1@2@33@N@a.jpg", "@900@2@33@N@c.jpg")
    bare, mixed = touch(tmp_path / "bare", "b.jpg"), touch(tmp_path / "mixed", "b.jpg", "@905@2@33@N@d.jpg", "e.jpg")
    for dataset in (folders.read_folders(placed, bare), read_pair(placed, bare), read_pair(placed, bare / "b.jpg")):
        assert (dataset.protocol, dataset.positives, dataset.queries.positions) == ("no ground truth", None, None)
        assert dataset.database.zone == "33N"
    assert not caplog.records
    some = folders.read_folders(placed, mixed)
    by_name = dict(zip(some.queries.names, as_lists(some.positives), strict=True))
    assert by_name == {"b.jpg": [], "@905@2@33@N@d.jpg": [1], "e.jpg": []}
    assert some.protocol == "within 25 m" and [some.queries.names[row] for row in some.unknown] == ["b.jpg", "e.jpg"]
    found = check(some)
    assert (found.unanswerable, found.unknown, found.positives_per_query) == ((), ("b.jpg", "e.jpg"), (1, 1.0, 1))
    assert "queries whose positives are not known: 2 (b.jpg, e.jpg)" in check_text(found)
    assert "2 of 3 queries have no position in their names" in caplog.text


def test_a_single_image_may_be_queried_or_searched(tmp_path):
    placed = touch(tmp_path / "placed", "@1@2@a.jpg", "@900@2@c.jpg", "notes.txt")
    one = read_pair(placed, placed / "@900@2@c.jpg")
    assert one.queries.names == ("@900@2@c.jpg",) and as_lists(one.positives) == [[1]]
    assert read_pair(placed / "@1@2@a.jpg", placed).database.path(0) == placed / "@1@2@a.jpg"
    with pytest.raises(DataError, match=r"notes.txt: not an image .*; give an image, or a folder of images"):
        read_pair(placed, placed / "notes.txt")
    (tmp_path / "link.jpg").symlink_to(placed / "@1@2@a.jpg")
    assert read_pair(placed, tmp_path / "link.jpg").queries.names == ("link.jpg",)


def test_a_single_query_has_the_positives_that_a_table_lists_for_it(tmp_path):
    root = touch(tmp_path, "database/d1.jpg", "database/d2.jpg", "queries/q1.jpg", "queries/q2.jpg")
    (root / "ground_truth.csv").write_text("query,positives\nqueries/q1.jpg,database/d2.jpg\nqueries/q2.jpg,\n")
    assert as_lists(read_pair(root / "database", root / "queries/q1.jpg").positives) == [[1]]


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_table_with_other_marks_lists_positives(mark, tmp_path):
    root = touch(tmp_path, "database/d1.jpg", "database/d2.jpg", "queries/q1.jpg")
    lines = "\ufeffquery;positives\nqueries/q1.jpg;database/d2.jpg database/d1.jpg\n"
    (root / "ground_truth.csv").write_text(lines.replace(";", mark))
    assert as_lists(read_pair(root / "database", root / "queries").positives) == [[0, 1]]


def test_an_accent_in_either_normal_form_is_one_name(tmp_path):
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    for number, (on_disk, listed) in enumerate([(composed, decomposed), (decomposed, composed)]):
        root = touch(tmp_path / str(number), f"database/{on_disk}", f"queries/{on_disk}")
        (root / "ground_truth.csv").write_text(f"query,positives\nqueries/{listed},database/{listed}\n")
        assert as_lists(read_pair(root / "database", root / "queries").positives) == [[0]]
        assert ImageSet(root / "queries", (listed,)).path(0).exists()
    assert ImageSet(tmp_path, ("\u00e9.jpg",)).path(0) == tmp_path / "\u00e9.jpg"


def test_what_is_left_out_of_a_folder_is_counted_by_suffix(tmp_path, caplog):
    caplog.set_level("INFO")
    touch(tmp_path, "1.jpg", "2.GIF", "3.jfif", "4.jp2", "a.mp4", "b/c.MP4", "d.cr2", "e.txt", "f")
    assert folders.list_images(tmp_path) == ("1.jpg", "2.GIF", "3.jfif", "4.jp2")
    assert caplog.messages == [
        f"{tmp_path}: 4 images; left out: 2 .mp4 (videos; extract their frames first, for instance with ffmpeg), "
        "1 without a suffix, 1 .cr2 (raw files of cameras; convert them to TIFF or JPEG), 1 .txt"
    ]
    assert caplog.records[0].levelname == "WARNING"
    caplog.clear()
    touch(tmp_path / "notes", "1.jpg", "e.txt")
    folders.list_images(tmp_path / "notes")
    assert caplog.records[0].levelname == "INFO"
    with pytest.raises(DataError, match=r"holds no images \(.*\); left out: 1 .mp4 \(videos"):
        folders.list_images(touch(tmp_path / "films", "a.mp4"))


def test_images_that_need_a_decoder_name_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("vpr.images.find_spec", lambda name: None)
    touch(tmp_path, "1.jpg", "2.heic", "3.jxl")
    assert folders.list_images(tmp_path) == ("1.jpg",)
    assert "1 .heic (pip install pillow-heif to read them), 1 .jxl (pip install pillow-jxl-plugin" in caplog.text
    monkeypatch.setattr("vpr.images.find_spec", lambda name: name in ("pillow_heif", "pillow_jxl"))
    assert folders.list_images(tmp_path) == ("1.jpg", "2.heic", "3.jxl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_socket_called_jpg_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "2.jpg"))  # a long path is none of a socket
        (tmp_path / "3.jpg").symlink_to("/dev/zero")
        names = folders.list_images(tmp_path)
        assert names == ("1.jpg", "2.jpg", "3.jpg")
        for name in names:
            with pytest.raises(ImageError, match=f"{name}: not a file but a folder, pipe or device"):
                read_image(tmp_path / name, "grey")
        contents = read_contents(ImageSet(tmp_path, names), tmp_path / "contents.json")
        assert contents.keys == ("", "", "")


def test_queries_whose_places_are_unknown_need_no_positions(tmp_path):
    placed, bare = touch(tmp_path / "placed", "@1@2@a.jpg"), touch(tmp_path / "bare", "b.jpg")
    dataset = folders.read_folders(placed, bare, ground_truth=False)
    assert dataset.database.positions.tolist() == [[1, 2]]
    assert dataset.queries.positions is None and dataset.positives is None
    assert read_pair(placed, bare, ground_truth=False).protocol == "no ground truth"
    assert folders.read_folders(placed, placed, ground_truth=False).positives is None


def test_neighbours_across_a_zone_edge_are_positives(tmp_path, caplog):
    database = touch(tmp_path / "db", full_name(55.0, 12.00011), full_name(55.0, 12.1))
    queries = touch(tmp_path / "q", full_name(55.0, 11.99989))
    dataset = folders.read_folders(database, queries)
    assert dataset.database.zone == dataset.queries.zone == "33N"
    assert as_lists(dataset.positives) == [[0]]
    assert "positions in zones 32N, 33N are brought into one" in caplog.text


def test_latitude_bands_of_one_zone_are_one_zone(tmp_path, caplog):
    # 40 degrees north parts the bands S and T; Tokyo's S is north of the equator
    database, queries = (
        touch(tmp_path / "db", full_name(40.00005, 139.0)),
        touch(tmp_path / "q", full_name(39.99995, 139.0)),
    )
    dataset = folders.read_folders(database, queries)
    assert dataset.database.zone == "54N" and as_lists(dataset.positives) == [[0]] and not caplog.records


def test_two_cities_in_one_folder_are_kept_apart(tmp_path):
    places = [(55.676, 12.568), (37.775, -122.419)]
    database = touch(tmp_path / "db", *(full_name(*place) for place in places))
    queries = touch(tmp_path / "q", *(full_name(*place) for place in places))
    dataset = folders.read_folders(database, queries)
    assert dataset.database.zone is None
    assert as_lists(dataset.positives) == [[0], [1]]
    eastings = [float(name.split("@")[1]) for name in dataset.database.names]
    shifts = dataset.database.positions[:, 0] - eastings
    assert sorted(shifts) == pytest.approx([0.0, 1e7], abs=1e-8)  # each keeps the metres of its own zone


def test_zones_that_some_names_lack(tmp_path):
    placed = touch(tmp_path / "one", "@1@2@33@N@a.jpg", "@1@2@b.jpg")
    assert folders.read_image_folder(placed).zone == "33N"
    placed = touch(tmp_path / "two", "@1@2@33@N@a.jpg", "@1@2@32@N@a.jpg", "@1@2@b.jpg")
    with pytest.raises(DataError, match="names in UTM zones 32N, 33N and names without a zone"):
        folders.read_image_folder(placed)


def test_panoramas_in_names_become_groups(tmp_path):
    names = [full_name(35.0, 139.0, pano, tile) for pano, tile in (("p1", "00"), ("p1", "01"), ("p2", "00"))]
    database, queries = touch(tmp_path / "db", *names), touch(tmp_path / "q", full_name(35.0, 139.0))
    assert folders.read_folders(database, queries).database.groups is None
    grouped = folders.read_folders(database, queries, group_panoramas=True)
    assert grouped.database.groups.tolist() == [0, 0, 1] and grouped.queries.groups is None
    with pytest.raises(DataError, match="has no panorama in its name"):
        folders.read_folders(queries, queries, group_panoramas=True)
    with pytest.raises(DataError, match=r"'a.jpg' has no panorama in its name"):
        folders.read_image_folder(touch(tmp_path / "bare", "a.jpg"), group_panoramas=True)


# --- ground_truth.csv


def write_set(root, csv, database=("d1.jpg", "d2.jpg", "d3.jpg"), queries=("q1.jpg", "q2.jpg")):
    touch(root / "database", *database)
    touch(root / "queries", *queries)
    (root / "ground_truth.csv").write_text(csv, encoding="utf-8")
    return root


HEADER = "query,positives,soft_positives\n"


def test_ground_truth_csv_by_hand(tmp_path, caplog):
    csv = HEADER + "queries/q1.jpg,database/d3.jpg  database/d1.jpg,database/d2.jpg database/d2.jpg\n"
    root = write_set(tmp_path / "toy", csv)
    dataset = ground_truth_csv.read_ground_truth_csv(root)
    assert (dataset.name, dataset.protocol) == ("toy", "ground_truth.csv positives")
    assert as_lists(dataset.positives) == [[0, 2], []]  # q2 is not listed: no positives
    assert "1 of 2 queries are not listed" in caplog.text and caplog.text.rstrip().endswith(": q2.jpg")
    assert all(rows.dtype == np.int64 for rows in dataset.positives)
    soft = ground_truth_csv.read_ground_truth_csv(root, "soft_positives")
    assert soft.protocol == "ground_truth.csv soft_positives" and as_lists(soft.positives) == [[1], []]


def test_ground_truth_csv_with_semicolons_holds_names_with_spaces(tmp_path):
    csv = 'query,positives\nqueries/q 1.jpg,database/d 1.jpg; database/d 2.jpg\n"queries/q,2.jpg",database/d 2.jpg\n'
    root = write_set(tmp_path, csv, ("d 1.jpg", "d 2.jpg"), ("q 1.jpg", "q,2.jpg"))
    assert as_lists(ground_truth_csv.read_ground_truth_csv(root).positives) == [[0, 1], [1]]


@pytest.mark.parametrize(
    "csv, sentence",
    [
        (
            HEADER + "queries/q1.jpg,database/d9.jpg,\n",
            "line 2: positive 'database/d9.jpg' is not an image of the database",
        ),
        (HEADER + "queries/q1.jpg,,\nqueries/q9.jpg,,\n", "line 3: query 'queries/q9.jpg' is not an image of"),
        (HEADER + "queries/q1.jpg,,\n./queries/q1.jpg,,\n", "line 3: query './queries/q1.jpg' is listed twice"),
        (HEADER + "queries/q1.jpg,,\nquery/q1.jpg,,\n", "line 3: query 'query/q1.jpg' is not an image of"),
        ("query,positive\nqueries/q1.jpg,\n", "no column 'positives'; the header has query, positive"),
        ("positives\nx\n", "no column 'query'"),
        (HEADER + "queries/q1.jpg,/d1.jpg,\n", "line 2: image name '/d1.jpg' is not inside its folder"),
        (HEADER + "/q1.jpg,,\n", "line 2: image name '/q1.jpg' is not inside its folder"),
        (HEADER + "queries/q1.jpg,database/d1.jpg\n", "line 2: 2 fields, but the header has 3"),
    ],
)
def test_ground_truth_csv_that_does_not_match_the_disk_is_refused(tmp_path, csv, sentence):
    with pytest.raises(DataError, match=sentence):
        ground_truth_csv.read_ground_truth_csv(write_set(tmp_path, csv))


def test_images_of_a_listed_set_share_one_zone(tmp_path):
    database, query = full_name(55.0, 12.00011), full_name(55.0, 11.99989)
    root = write_set(tmp_path, f"query,positives\n./queries/{query},\n", (database,), (query,))
    dataset = read_pair(root / "database", root / "queries")
    assert dataset.protocol == "ground_truth.csv positives" and as_lists(dataset.positives) == [[]]
    assert dataset.database.zone == dataset.queries.zone == "33N"


def test_ground_truth_csv_may_serve_several_folders_of_queries(tmp_path):
    csv = "query,positives\nqueries/q1.jpg,database/d1.jpg\nnight/n1.jpg,database/d2.jpg\n"
    root = touch(write_set(tmp_path, csv), "night/n1.jpg")
    assert as_lists(ground_truth_csv.read_ground_truth_csv(root).positives) == [[0], []]
    assert as_lists(read_pair(root / "database", root / "night").positives) == [[1]]


# --- the choice


def test_read_pair_takes_the_best_ground_truth_there_is(tmp_path, caplog, monkeypatch):
    csv = "query,positives\nqueries/@0@0@q.jpg,database/@900@0@d.jpg\n"
    root = write_set(tmp_path / "a", csv, ("@0@0@c.jpg", "@900@0@d.jpg"), ("@0@0@q.jpg",))
    listed = read_pair(root / "database", root / "queries")
    assert listed.protocol == "ground_truth.csv positives" and as_lists(listed.positives) == [[1]]
    assert listed.database.positions.tolist() == [[0, 0], [900, 0]]
    monkeypatch.chdir(root / "queries")
    assert as_lists(read_pair(Path("../database"), Path()).positives) == [[1]]
    assert read_pair(root / "database", root / "queries", ground_truth=False).protocol == "no ground truth"

    (root / "ground_truth.csv").write_text("query,positives\nother/q.jpg,other/d.jpg\n")
    near = read_pair(root / "database", root / "queries", 10.0)
    assert near.protocol == "within 10 m" and as_lists(near.positives) == [[0]]
    assert "lists no query in" in caplog.text
    (root / "ground_truth.csv").unlink()
    assert read_pair(root / "database", root / "queries").protocol == "within 25 m"
    with pytest.raises(DataError, match="no such folder"):
        read_pair(tmp_path / "none/database", tmp_path / "none/queries")
    elsewhere = touch(tmp_path / "b", "@0@0@q.jpg")
    assert read_pair(root / "database", elsewhere).protocol == "within 25 m"


def test_readers_are_found_by_exact_name():
    assert reader("folders") is READERS["folders"]
    with pytest.raises(ConfigError, match="unknown reader 'folder'; known: dbstruct, folders, ground_truth_csv"):
        reader("folder")


# --- photographs


EXPECTED = {  # database, queries, queries without positives
    "amos_night": (30, 60),
    "corridor": (111, 111),
    "gardens_point": (200, 400),
    "lund_gps": (22, 7),
    "nordland64_tiny": (298, 298),
    "toy_sanfrancisco": (17, 5),
}


@pytest.mark.photographs
@pytest.mark.parametrize("name", EXPECTED)
def test_sets_of_photographs(name):
    root = DATA / name
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    dataset = read_pair(root / "database", root / "queries")
    assert (len(dataset.database), len(dataset.queries)) == EXPECTED[name]
    assert (dataset.name, dataset.protocol) == (name, "ground_truth.csv positives")
    assert all(dataset.database.path(row).is_file() for row in range(len(dataset.database)))
    soft = reader("ground_truth_csv").read(root, "soft_positives")
    assert all(set(hard) <= set(more) for hard, more in zip(dataset.positives, soft.positives, strict=True))
    assert (dataset.database.zone == "33N") == (name == "lund_gps")


@pytest.mark.photographs
def test_listed_positives_of_lund_are_those_within_25_metres():
    root = DATA / "lund_gps"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    listed = read_pair(root / "database", root / "queries")
    near = folders.read_folders(root / "database", root / "queries", 25.0)
    assert as_lists(near.positives) == as_lists(listed.positives)
