"""Runs read back from their folders: the report made again, and two runs compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_hostile import call
from test_report import AFTER, BEFORE, TRUTH, matches, picture, ranking, report, town

from vpr.core import DataError, Dataset, ImageSet
from vpr.evaluation.identity import truth_digest
from vpr.evaluation.paired import compare_runs, require_same_question
from vpr.report.dataset_file import read_dataset, write_dataset
from vpr.report.differences import comparison_text, difference_lines, settings_that_differ
from vpr.report.finished import calibrated, read_run
from vpr.report.outputs import remake, write_outputs

MADE_AGAIN = ("recalls.txt", "recalls.json", "statistics.json", "report.html")


def nothing(*_):
    return None


def finished(folder: Path, **changes) -> Path:
    folder.mkdir()
    write_outputs(folder, report(**changes), picture, matches)
    return folder


# --- what a run was about


def test_a_data_set_comes_back_with_all_its_digits(tmp_path):
    rng = np.random.default_rng(0)
    places = rng.random((3, 2)) * 1e6
    database = ImageSet(tmp_path / "d", ("a/é.jpg", "./b.jpg", "c.jpg"), places, "33N", np.array([4, 4, 9]))
    queries = ImageSet(tmp_path / "q", ("q.jpg", "r.jpg"), places[:2] + 0.1, "33N")
    dataset = Dataset("town", "within 25 m", database, queries, (np.array([0, 2]), np.array([], dtype=np.int64)))
    write_dataset(tmp_path / "dataset.json", dataset)
    back = read_dataset(tmp_path / "dataset.json")
    assert (back.name, back.protocol, back.database.names) == (dataset.name, dataset.protocol, database.names)
    np.testing.assert_array_equal(back.database.positions, places)
    np.testing.assert_array_equal(back.queries.positions, queries.positions)
    assert back.database.groups.tolist() == [4, 4, 9] and back.queries.groups is None
    assert [rows.tolist() for rows in back.positives] == [[0, 2], []]
    assert truth_digest(back) == truth_digest(dataset)


def test_without_truth_positions_or_images_a_data_set_comes_back_too(tmp_path):
    bare = Dataset("x", "no ground truth", ImageSet(tmp_path, ()), ImageSet(tmp_path, ("q",)))
    write_dataset(tmp_path / "d.json", bare)
    back = read_dataset(tmp_path / "d.json")
    assert (back.positives, back.database.positions, len(back.database)) == (None, None, 0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "damaged"), ('{"format": 7}', "format 7, expected 1"), ("[]", "damaged"), ('{"format": 1}', "damaged")],
)
def test_a_damaged_data_set_is_refused(tmp_path, text, sentence):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=f"dataset.json: {sentence}"):
        read_dataset(tmp_path / "dataset.json")


def test_the_digest_changes_with_what_is_asked_and_with_nothing_else():
    town_digest = truth_digest(town())
    assert truth_digest(replace(town(), name="x", protocol="y")) == town_digest
    assert truth_digest(town(positives=(*TRUTH[:5], np.array([1])))) != town_digest
    assert truth_digest(town(names=("x.jpg", *town().queries.names[1:]))) != town_digest
    names = tuple(f"./{name}" for name in town().queries.names)
    assert truth_digest(town(names=names)) == town_digest
    grouped = [replace(town(), database=replace(town().database, groups=np.array(g))) for g in ([1, 1, 2, 3, 3],) * 2]
    renumbered = replace(town(), database=replace(town().database, groups=np.array([9, 9, 4, 0, 0])))
    assert truth_digest(grouped[0]) == truth_digest(renumbered) != town_digest


# --- the report made again


def test_tables_and_page_are_made_again_byte_for_byte(tmp_path, monkeypatch):
    folder = finished(tmp_path / "run")
    before = {name: (folder / name).read_bytes() for name in MADE_AGAIN}
    for name in MADE_AGAIN:
        (folder / name).unlink()
    monkeypatch.setattr("vpr.report.outputs.pictures_of", lambda *_: picture)  # the images exist in no folder
    remake(folder, read_run(folder))
    assert {name: (folder / name).read_bytes() for name in MADE_AGAIN} == before
    assert b"12 of 36 matches verified" in before["report.html"]


def test_a_run_without_truth_or_second_stage_is_made_again(tmp_path):
    folder = finished(tmp_path / "run", dataset=town(positives=None), stages={"only": BEFORE})
    run = read_run(folder)
    assert list(run.stages) == ["only"] and run.summary is None and run.statistics is None
    remake(folder, run)
    assert not (folder / "recalls.json").exists()


def test_images_that_are_gone_leave_boxes(tmp_path):
    folder = finished(tmp_path / "run")
    remake(folder, read_run(folder))
    assert "image cannot be read" in (folder / "report.html").read_text()


def test_a_pad_only_ranking_keeps_its_width(tmp_path):
    folder = finished(tmp_path / "run", stages={"a": ranking([[-1] * 4] * 6), "b": AFTER})
    assert read_run(folder).stages["a"].width == 4


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda run: (run / "run.json").unlink(), "run.json: no such file; give the folder of a finished run"),
        (lambda run: (run / "run.json").write_text("{"), "run.json: damaged"),
        (lambda run: (run / "run.json").write_text("{}"), "does not name the stages"),
        (lambda run: (run / "run.json").write_text('{"stages": [{}]}'), "run.json: damaged"),
        (lambda run: (run / "dataset.json").unlink(), "dataset.json: no such file"),
        (lambda run: (run / "predictions.jsonl").unlink(), "predictions.jsonl: no such file"),
        (lambda run: (run / "shortlist.jsonl").write_text("{}\n"), "shortlist.jsonl, line 1"),
        (lambda run: (run / "settings.toml").unlink(), "settings.toml: no such file"),
    ],
)
def test_folders_that_are_no_finished_run_are_refused(tmp_path, spoil, sentence):
    folder = finished(tmp_path / "run")
    spoil(folder)
    with pytest.raises(DataError, match=sentence):
        read_run(folder)


def test_damaged_matches_are_named(tmp_path):
    folder = finished(tmp_path / "run")
    (folder / "shown_matches.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"shown_matches.npz: damaged"):
        remake(folder, read_run(folder))


def test_statistics_say_what_was_measured(tmp_path):
    folder = finished(tmp_path / "run", bytes_per_image={"local features": 1024.5})
    found = json.loads((folder / "statistics.json").read_text())
    assert found["groups"] == "squares of 100 m" and found["group_count"] == 6
    assert found["bytes_per_image"] == {"local features": 1024.5}
    after = found["stages"]["SuperGlue"]
    assert after["latency_ms"] == {"p50": 350.0, "p95": 575.0, "queries": 6}
    assert after["recall_by_group"]["1"]["value"] == pytest.approx(2 / 6)
    assert set(after["first_candidate"]) == {"score", "margin", "inliers", "similarity"}
    # All six first candidates score alike, two of them are right, five queries can be answered.
    curve = after["first_candidate"]["score"]
    assert curve["average_precision"] == pytest.approx(2 / 6)
    assert curve["auc_pr"] == pytest.approx(2 / 6 * 2 / 5)
    assert curve["recall_at_100_precision"] == 0 and curve["threshold_at_100_precision"] is None
    assert found["stages"]["NetVLAD"]["latency_ms"] is None


def test_calibration_is_fitted_there_and_tried_here():
    (trial, *_) = calibrated(report(), report())
    assert (trial.confidence, trial.fitted_on, trial.fitted.queries) == ("score", "Old town", 6)
    assert trial.tried.bins[0].promised == pytest.approx((2 + 1) / (6 + 2))  # all alike: a constant
    with pytest.raises(DataError, match="nothing to calibrate with"):
        calibrated(report(), report(town(positives=None)))


# --- two runs


def compared(before=BEFORE, after=AFTER, one=None, other=None):
    return compare_runs(one or town(), before, other or town(), after, (1, 2))


def test_two_runs_by_hand():
    first, second = compared().changes
    assert (first.change.helped, first.change.harmed) == ((1,), (2,))
    assert (first.before, first.after, first.change.difference.value) == (2 / 6, 2 / 6, 0)
    assert first.by_group.low < 0 < first.by_group.high
    assert second.change.k == 2 and second.change.harmed == (2,)
    lost = compared().queries[2]
    assert (lost.query, lost.before, lost.after) == ("q2.jpg", 1, 3)
    assert (lost.first_before, lost.first_after) == ("d2.jpg", "d0.jpg")
    assert compared().queries[4].after is None


def test_the_order_of_the_queries_in_the_second_run_does_not_matter():
    order = np.array([3, 5, 0, 1, 4, 2])
    shuffled = town(names=tuple(f"q{row}.jpg" for row in order), positives=tuple(TRUTH[row] for row in order))
    after = ranking(AFTER.rows[order])
    assert compared(after=after, other=shuffled) == compared(after=ranking(AFTER.rows))


def test_without_positions_there_is_no_interval_by_group():
    found = compared(one=town(placed=False), other=town(placed=False))
    assert found.groups is None and found.changes[0].by_group is None
    assert "by group" not in comparison_text(found, ("a", "b"), [])


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (replace(town(), protocol="within 5 m"), "different protocols: 'within 25 m' and 'within 5 m'"),
        (
            town(names=("x.jpg", *town().queries.names[1:])),
            r"different queries \(6 and 6\): only in the first: q0.jpg;",
        ),
        (town(names=town().queries.names[:5], positives=TRUTH[:5]), r"different queries \(6 and 5\)"),
        (town(positives=None), "no ground truth"),
        (town(positives=(*TRUTH[:5], np.array([1]))), "same images and protocol, but other positions"),
        (
            replace(town(), database=ImageSet(Path("/"), tuple(f"d{i}.jpg" for i in range(1, 6)))),
            r"different database images.*only in the second: d5.jpg",
        ),
    ],
)
def test_runs_that_were_asked_something_else_are_refused(other, sentence):
    with pytest.raises(DataError, match=sentence):
        require_same_question(town(), other)


def test_the_text_says_what_changed_and_whether_it_may_be_chance():
    text = comparison_text(compared(), ("fast", "slow"), ["rerank.k: 5 -> 20"], most=1)
    assert "  rerank.k: 5 -> 20" in text
    assert "At recall@1 the difference may be chance (p = 1)." in text
    assert "Harmed at 1:\n  q2.jpg: rank 1 -> rank 3; first was d2.jpg, is d0.jpg" in text
    table = [line for line in text.splitlines() if line.startswith("recall@")]
    assert [line.split()[:5] for line in table] == [
        ["recall@1", "33.3", "33.3", "1", "1"],
        ["recall@2", "66.7", "50.0", "0", "1"],
    ]
    same = comparison_text(compared(BEFORE, BEFORE), ("a", "b"), [])
    assert "No query changed at recall@1." in same and "The settings are the same." in same


def many(right: int, total: int = 40):
    return ranking([[0, 1, 2, 3] if query < right else [1, 0, 2, 3] for query in range(total)])


def test_a_sure_difference_is_called_better_or_worse_and_doubted_by_group():
    apart = town(names=tuple(f"q{i}" for i in range(40)), positives=(np.array([0]),) * 40)
    assert "the second run is better" in comparison_text(compared(many(10), many(30), apart, apart), ("a", "b"), [])
    assert "the second run is worse" in comparison_text(compared(many(30), many(10), apart, apart), ("a", "b"), [])
    # All that changed lie in one of two places, so drawing places leaves room for no difference.
    two = replace(apart.queries, groups=np.repeat([0, 1], 20))
    together = replace(apart, queries=two)
    text = comparison_text(compared(many(20), many(40), together, together), ("a", "b"), [])
    assert "better" in text and "the queries that changed lie together" in text


def test_lines_hold_the_queries_that_changed():
    found = [json.loads(line) for line in difference_lines(compared())]
    assert [line["query"] for line in found] == ["q1.jpg", "q2.jpg"]
    assert found[1] == {
        "query": "q2.jpg",
        "first_right_before": 1,
        "first_right_after": 3,
        "candidate_before": "d2.jpg",
        "candidate_after": "d0.jpg",
    }


def test_settings_that_differ_are_named_with_their_section():
    one, other = "[a]\nk = 1\nsame = 2\n[a.b]\nx = 1\n", "[a]\nk = 3\nsame = 2\n"
    assert settings_that_differ(one, other) == ["a.b.x: 1 -> absent", "a.k: 1 -> 3"]
    assert settings_that_differ(one, one) == []


# --- the commands


def test_report_and_compare_as_commands(small_city, tmp_path, capsys):
    for name, more in (("a", []), ("b", ["--set", "rerank.k=2", "--set", "rerank.score=inliers"])):
        folders = ["--database", str(small_city[0]), "--queries", str(small_city[1])]
        call(["run", *folders, "--out", str(tmp_path / name), *more])
    page = (tmp_path / "a" / "report.html").read_bytes()
    (tmp_path / "a" / "report.html").unlink()
    capsys.readouterr()
    call(["report", str(tmp_path / "a")])
    assert "recall in percent over 5 queries" in capsys.readouterr().out
    assert (tmp_path / "a" / "report.html").read_bytes() == page
    call(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.jsonl")])
    said = capsys.readouterr().out
    assert "rerank.k: 50 -> 2" in said and "McNemar" in said
    assert (tmp_path / "c.jsonl").exists()
    call(["report", str(tmp_path / "a"), "--calibrate-on", str(tmp_path / "b")])
    assert "Calibration of inliers, fitted on 5 queries of set" in capsys.readouterr().out
    found = json.loads((tmp_path / "a" / "statistics.json").read_text())
    assert found["calibration"][0]["fitted_on"] == "set"
    sizes = found["bytes_per_image"]
    assert list(sizes) == ["local features", "global descriptors"] and sizes["local features"] > 1000
