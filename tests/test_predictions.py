"""Predictions files and recall tables: exact text, round trips, and other systems' readers."""

import csv
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vpr.core import DataError, Dataset, Evidence, ImageSet, Ranking
from vpr.datasets.shortlists import read_shortlist
from vpr.evaluation.comparison import summarise
from vpr.report.pairs import (
    hloc_pairs,
    kapture_pairs,
    patchnetvlad_pairs,
    unrepresentable,
    write_hloc,
    write_kapture,
    write_patchnetvlad,
)
from vpr.report.predictions import prediction_lines, read_predictions, write_predictions
from vpr.report.ranking_csv import write_ranking_csv
from vpr.report.tables import recall_lines, text_table, write_recalls, write_recalls_json
from vpr.runtime.files import read_json

NAN = float("nan")


def dataset(queries=("./q1.jpg", "./q2.jpg"), database=("./db0.jpg", "./db1.jpg", "./db17.jpg"), **kwargs):
    return Dataset("town", "within 25 m", ImageSet(Path("/data"), database), ImageSet(Path("/data"), queries), **kwargs)


def placed():
    positions = np.array([[0.0, 0.0], [3.0, 4.0], [1000.0, 0.0]])
    database = ImageSet(Path("/data"), ("a.jpg", "b.jpg", "c.jpg"), positions, "33N")
    queries = ImageSet(Path("/data"), ("q.jpg", "r é.jpg"), np.array([[0.0, 0.0], [1000.0, 1e-4]]), "33N")
    return Dataset("town", "within 25 m", database, queries, (np.array([0, 1]), np.array([2])))


def ranked(evidence=None):
    scores = np.array([[0.8123, 1 / 3, 1e-5], [12345678, -np.inf, -np.inf]], dtype=np.float32)
    return Ranking(np.array([[2, 0, 1], [1, -1, -1]]), scores, evidence)


EVIDENCE = Evidence(
    np.array([[0.5, 0.25, NAN], [0.1, NAN, NAN]], dtype=np.float32),
    np.array([[100, 0, -1], [7, -1, -1]], dtype=np.int32),
    np.array([[60, 0, -1], [-1, -1, -1]], dtype=np.int32),
    np.array([0.0125, NAN]),
)


def test_patchnetvlad_file_byte_for_byte(tmp_path):
    write_patchnetvlad(tmp_path / "NetVLAD_predictions.txt", dataset(), ranked(), root="/data/")
    assert (tmp_path / "NetVLAD_predictions.txt").read_bytes() == (
        b"# kapture format: 1.0\n"
        b"# query_image, map_image\n"
        b"/data/./q1.jpg, /data/./db17.jpg\n"
        b"/data/./q1.jpg, /data/./db0.jpg\n"
        b"/data/./q1.jpg, /data/./db1.jpg\n"
        b"/data/./q2.jpg, /data/./db1.jpg\n"
    )


def test_patchnetvlad_uses_the_folder_of_each_side_by_default():
    assert "\n/data/./q2.jpg, /data/./db1.jpg\n" in "".join(patchnetvlad_pairs(dataset(), ranked()))


def test_kapture_file_by_hand(tmp_path):
    write_kapture(tmp_path / "pairs.txt", dataset(), ranked())
    assert (tmp_path / "pairs.txt").read_text() == (
        "# kapture format: 1.1\n"
        "# query_image, map_image, score\n"
        "q1.jpg, db17.jpg, 0.8123\n"
        "q1.jpg, db0.jpg, 0.33333334\n"
        "q1.jpg, db1.jpg, 1e-05\n"
        "q2.jpg, db1.jpg, 1.2345678e+07\n"
    )


def in_two_folders(database="set/database", queries="set/queries"):
    """One name on both sides, as data sets of traverses have it."""
    there, here = ImageSet(Path("/data") / database, ("1.jpg", "2.jpg")), ImageSet(Path("/data") / queries, ("1.jpg",))
    ranking = Ranking(np.array([[1, 0]]), np.array([[0.5, 0.25]], np.float32))
    return Dataset("town", "within 25 m", there, here), ranking


def test_pairs_files_tell_a_query_from_a_database_image_of_the_same_name():
    assert list(hloc_pairs(*in_two_folders())) == [
        "queries/1.jpg database/2.jpg",
        "\nqueries/1.jpg database/1.jpg",
    ]
    assert list(kapture_pairs(*in_two_folders()))[1] == "queries/1.jpg, database/2.jpg, 0.5\n"
    assert next(hloc_pairs(*in_two_folders("set", "set/queries_real"))) == "queries_real/1.jpg 2.jpg"
    assert next(hloc_pairs(*in_two_folders("a/day", "b/night"))) == "b/night/1.jpg a/day/2.jpg"
    trees = in_two_folders("mapping/sensors/records_data", "query/sensors/records_data")
    assert list(kapture_pairs(*trees))[1] == "1.jpg, 2.jpg, 0.5\n"  # kapture's own names
    with pytest.raises(DataError, match=r"'my queries/1\.jpg' holds a space"):
        hloc_pairs(*in_two_folders("database", "my queries"))


def test_long_files_are_written_line_by_line(tmp_path):
    """2,500 queries with 20 candidates are 5 MB of text."""
    queries = ImageSet(Path("/data/q"), tuple(f"q{row}.jpg" for row in range(2_500)))
    database = ImageSet(Path("/data/db"), tuple(f"db{row}.jpg" for row in range(20)), np.ones((20, 2)), "33N")
    data = Dataset("town", "none", database, queries)
    scores = np.tile(-np.arange(20, dtype=np.float32), (2_500, 1))
    ranking = Ranking(np.tile(np.arange(20), (2_500, 1)), scores)
    for write in (write_predictions, write_hloc, write_kapture):
        tracemalloc.start()
        write(tmp_path / "out", data, ranking)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.5e6  # the names, and one line


def test_candidates_carry_their_positions(tmp_path):
    """The Eiffel Tower, for a query whose place is not known."""
    tower = ImageSet(Path("/data/db"), ("tower.jpg",), np.array([[448251.795, 5411932.678]]), "31N")
    data = Dataset("paris", "no ground truth", tower, ImageSet(Path("/data/q"), ("q.jpg",)))
    line = json.loads(next(prediction_lines(data, Ranking(np.array([[0]]), np.ones((1, 1), np.float32)))))
    assert (line["east_m"], line["north_m"], line["zone"]) == (448251.795, 5411932.678, "31N")
    assert (line["latitude"], line["longitude"]) == pytest.approx((48.85820, 2.29450), abs=5e-5)
    assert line["correct"] is None and "distance_m" not in line


def test_positions_of_regions_side_by_side_are_those_of_their_own_zones():
    """Copenhagen and San Francisco in one set: the second region is moved, but its answers are not."""
    cities = ImageSet(
        Path("/data/db"), ("cph.jpg", "sf.jpg"), np.array([[347000.5, 6172000.0], [10551000.25, 4180000.0]])
    )
    data = Dataset("msls", "none", cities, ImageSet(Path("/data/q"), ("q.jpg",)))
    ranking = Ranking(np.array([[0, 1]]), np.array([[2, 1]], np.float32))
    found = [json.loads(line) for line in prediction_lines(data, ranking)]
    assert [(line["east_m"], line["north_m"]) for line in found] == [(347000.5, 6172000.0), (551000.25, 4180000.0)]


def test_kapture_reads_our_file(tmp_path):
    csv = pytest.importorskip("kapture.io.csv")
    write_kapture(tmp_path / "pairs.txt", dataset(), ranked())
    with (tmp_path / "pairs.txt").open() as file:
        table = csv.table_from_file(file)
    triples = [(query, candidate, np.float32(score)) for query, candidate, score in table]  # as its tools unpack it
    assert triples[1] == ("q1.jpg", "db0.jpg", np.float32(1 / 3))
    assert len(triples) == 4


def test_hloc_file_by_hand(tmp_path):
    write_hloc(tmp_path / "pairs.txt", dataset(), ranked())
    text = (tmp_path / "pairs.txt").read_text()
    assert text == "q1.jpg db17.jpg\nq1.jpg db0.jpg\nq1.jpg db1.jpg\nq2.jpg db1.jpg"
    assert [line.split() for line in text.split("\n")][3] == ["q2.jpg", "db1.jpg"]


@pytest.mark.parametrize(
    ("name", "pair_format", "reason"),
    [
        ("a,b.jpg", "kapture", "holds a comma"),
        ("a,b.jpg", "patchnetvlad", "holds a comma"),
        ("#1.jpg", "kapture", "begins with #"),
        (" a.jpg", "kapture", "begins or ends with a space"),
        ("a b.jpg", "hloc", "holds a space"),
        ("a\u00a0b.jpg", "hloc", "holds a space"),
    ],
)
def test_names_that_a_format_cannot_hold(name, pair_format, reason):
    assert reason in unrepresentable(["fine.jpg", name], pair_format)
    write = {"kapture": kapture_pairs, "patchnetvlad": patchnetvlad_pairs, "hloc": hloc_pairs}[pair_format]
    with pytest.raises(DataError, match=f"town: image name .* {reason}"):
        write(dataset(database=(name, "b.jpg", "c.jpg")), ranked())


def test_names_that_a_format_can_hold():
    assert unrepresentable(["a b.jpg", "é#.jpg"], "kapture") is None
    assert unrepresentable(["a,b.jpg", "#.jpg"], "hloc") is None


def test_no_query_gives_headers_only():
    empty = Ranking(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32))
    none = dataset(queries=())
    assert "".join(patchnetvlad_pairs(none, empty)) == "# kapture format: 1.0\n# query_image, map_image\n"
    assert list(hloc_pairs(none, empty)) == []
    assert list(prediction_lines(none, empty)) == []


def test_prediction_lines_by_hand():
    data = placed()
    without_zone = replace(data, database=replace(data.database, zone=None), queries=replace(data.queries, zone=None))
    lines = list(prediction_lines(without_zone, ranked(EVIDENCE)))
    assert lines == [
        '{"query": "q.jpg", "rank": 1, "candidate": "c.jpg", "score": 0.8123, "similarity": 0.5, "matches": 100, '
        '"inliers": 60, "distance_m": 1000.0, "east_m": 1000.0, "north_m": 0.0, "correct": false, "elapsed_ms": 12.5}',
        '{"query": "q.jpg", "rank": 2, "candidate": "a.jpg", "score": 0.33333334, "similarity": 0.25, "matches": 0, '
        '"inliers": 0, "distance_m": 0.0, "east_m": 0.0, "north_m": 0.0, "correct": true}',
        '{"query": "q.jpg", "rank": 3, "candidate": "b.jpg", "score": 1e-05, "distance_m": 5.0, "east_m": 3.0, '
        '"north_m": 4.0, "correct": true}',
        '{"query": "r é.jpg", "rank": 1, "candidate": "b.jpg", "score": 12345678.0, "similarity": 0.1, "matches": 7, '
        '"distance_m": 997.008, "east_m": 3.0, "north_m": 4.0, "correct": false}',
    ]


def test_what_is_not_known_is_left_out_and_without_ground_truth_correct_is_null():
    first = json.loads(next(prediction_lines(dataset(), ranked())))
    assert list(first) == ["query", "rank", "candidate", "score", "correct"]
    assert first["correct"] is None


@pytest.mark.parametrize("evidence", [None, EVIDENCE])
def test_predictions_come_back_as_they_went(tmp_path, evidence):
    write_predictions(tmp_path / "predictions.jsonl", placed(), ranked(evidence))
    back = read_predictions(tmp_path / "predictions.jsonl", placed())
    np.testing.assert_array_equal(back.rows, ranked().rows)
    np.testing.assert_array_equal(back.scores, ranked().scores)
    assert (back.evidence is None) == (evidence is None)
    if evidence is not None:
        for name in ("similarity", "matches", "inliers", "elapsed_s"):
            np.testing.assert_array_equal(getattr(back.evidence, name), getattr(evidence, name))


def test_random_scores_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.normal(size=(2, 3)) * 10.0 ** rng.integers(-30, 30, (2, 1))).astype(np.float32)
    ranking = Ranking(np.array([[0, 1, 2], [2, 1, 0]]), scores)
    write_predictions(tmp_path / "p.jsonl", placed(), ranking)
    np.testing.assert_array_equal(read_predictions(tmp_path / "p.jsonl", placed()).scores, scores)


def test_width_of_a_shortlist_that_no_query_filled_can_be_given(tmp_path):
    write_predictions(tmp_path / "p.jsonl", placed(), ranked())
    assert read_predictions(tmp_path / "p.jsonl", placed(), width=5).rows.tolist()[0] == [2, 0, 1, -1, -1]


def test_an_empty_file_ranks_nothing(tmp_path):
    (tmp_path / "p.jsonl").touch()
    assert read_predictions(tmp_path / "p.jsonl", placed()).rows.shape == (2, 0)


GOOD = '{"query": "q.jpg", "rank": 1, "candidate": "c.jpg", "score": 1}'


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([GOOD, "{"], "line 2: not a line of predictions.jsonl"),
        (["[1]"], "line 1: not a line of predictions.jsonl"),
        ([GOOD.replace("q.jpg", "x.jpg")], "line 1: 'x.jpg' is neither given nor an image of town"),
        ([GOOD.replace("score", "scores")], "'score' is neither given"),
        ([GOOD.replace('"rank": 1', '"rank": 9')], "rank 9 in a database of 3"),
        ([GOOD.replace('"rank": 1', '"rank": 2')], "not 1, 2, 3"),
        ([GOOD, GOOD], "missing or repeated"),
        ([GOOD, GOOD.replace('"rank": 1', '"rank": 2').replace('"score": 1', '"score": 2')], "scores rise"),
        ([GOOD.replace('"score": 1', '"score": NaN')], "not a number"),
    ],
)
def test_files_that_are_not_predictions_are_refused_with_the_place(tmp_path, lines, sentence):
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"p.jsonl.*{sentence}"):
        read_predictions(tmp_path / "p.jsonl", placed())


def summary(stages=2, positives=([0, 1], [2], [])):
    rows = np.array([[2, 0, 1], [2, 1, 0], [0, 1, 2]])
    scores = np.zeros((3, 3), np.float32)
    rankings = {"NetVLAD": Ranking(rows, scores), "PatchNetVLAD": Ranking(rows[:, [1, 0, 2]], scores)}
    truth = tuple(np.array(right, dtype=np.int64) for right in positives)
    town = dataset(queries=("q1", "q2", "q3"), positives=truth)
    return summarise(town, dict(list(rankings.items())[:stages]), [1, 2])


def test_recalls_file_has_patchnetvlads_lines(tmp_path):
    write_recalls(tmp_path / "recalls.txt", summary().recalls)
    assert (tmp_path / "recalls.txt").read_text() == (
        "Recall NetVLAD@1: 0.3333\nRecall NetVLAD@2: 0.6667\n"
        "Recall PatchNetVLAD@1: 0.3333\nRecall PatchNetVLAD@2: 0.6667\n"
    )


def test_recalls_json_holds_denominators_intervals_and_changes(tmp_path):
    write_recalls_json(tmp_path / "recalls.json", summary())
    found = read_json(tmp_path / "recalls.json")
    assert (found["queries"], found["queries_without_positives"], found["protocol"]) == (3, 1, "within 25 m")
    assert found["stages"]["NetVLAD"]["over_all_queries"]["1"]["value"] == pytest.approx(1 / 3)
    assert found["stages"]["NetVLAD"]["over_answerable_queries"]["1"]["value"] == 0.5
    assert found["ceiling"] == pytest.approx(2 / 3)
    assert [change["helped"] for change in found["changes"]] == [1, 0]
    assert found["changes"][0]["mcnemar_p"] == 1


def test_recall_of_no_query_is_null_in_json_and_na_in_text(tmp_path):
    nothing = summary(positives=([], [], []))
    write_recalls_json(tmp_path / "recalls.json", nothing)
    value = read_json(tmp_path / "recalls.json")["stages"]["NetVLAD"]["over_answerable_queries"]["1"]["value"]
    assert value is None
    assert "n/a [n/a, n/a]" in text_table(nothing)


def test_text_table_is_aligned_and_complete():
    lines = text_table(summary()).splitlines()
    assert "town, within 25 m" in lines[0]
    assert "1 of them without a positive" in lines[0]
    table = lines[2:9]
    assert len({len(line) for line in table}) == 1
    assert [line.split("  ")[0] for line in table[1:]] == [
        "NetVLAD",
        "PatchNetVLAD",
        "NetVLAD, answerable queries",
        "PatchNetVLAD, answerable queries",
        "ceiling: perfect re-ranking",
        "helped / harmed",
    ]
    assert table[1].split()[1:] == ["33.3", "[0.0,", "100.0]", "66.7"]
    assert table[6].split()[-6:] == ["1", "/", "1", "0", "/", "0"]


def test_one_stage_has_no_change_to_show():
    assert "helped" not in text_table(summary(stages=1))
    assert "answerable" not in text_table(summary(stages=1, positives=([0], [1], [2])))


def test_recall_lines_keep_the_order_of_the_stages():
    assert recall_lines({}) == ""
    assert recall_lines(summary().recalls).index("NetVLAD@2") < recall_lines(summary().recalls).index("PatchNetVLAD@1")


def test_the_ranking_as_a_table_by_hand(tmp_path):
    write_ranking_csv(tmp_path / "ranking.csv", placed(), ranked(EVIDENCE))
    lines = (tmp_path / "ranking.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("query,rank,candidate,score,similarity,matches,inliers,distance_m,latitude,longitude,")
    rows = list(csv.DictReader(lines))
    assert [(row["query"], row["rank"], row["candidate"]) for row in rows] == [
        ("q.jpg", "1", "c.jpg"),
        ("q.jpg", "2", "a.jpg"),
        ("q.jpg", "3", "b.jpg"),
        ("r é.jpg", "1", "b.jpg"),
    ]
    assert [row["correct"] for row in rows] == ["false", "true", "true", "false"]
    assert (rows[0]["score"], rows[0]["matches"], rows[0]["inliers"], rows[0]["zone"]) == ("0.8123", "100", "60", "33N")
    assert (rows[2]["similarity"], rows[2]["matches"], rows[1]["distance_m"]) == ("", "", "0.0")
    same = read_shortlist(tmp_path / "ranking.csv", placed())
    assert same.ranking.rows.tolist() == ranked().rows.tolist()
    assert (same.ranking.scores == ranked().scores).all()


def test_a_table_without_truth_and_positions_has_empty_cells(tmp_path):
    names = dataset(('a,"b".jpg', "q2.jpg"))
    write_ranking_csv(tmp_path / "ranking.csv", names, ranked())
    rows = list(csv.DictReader((tmp_path / "ranking.csv").read_text().splitlines()))
    assert rows[0]["query"] == 'a,"b".jpg' and rows[0]["latitude"] == rows[0]["correct"] == rows[0]["inliers"] == ""
    assert len(rows) == 4


def test_a_table_of_no_query_is_a_header(tmp_path):
    nothing = Ranking(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float32))
    write_ranking_csv(tmp_path / "ranking.csv", dataset(()), nothing)
    assert len((tmp_path / "ranking.csv").read_text().splitlines()) == 1
