"""Queries whose positives are not known count in no recall, and their number stands beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import textured, write_picture
from test_hostile import call

from vpr.core import DataError, Dataset, Evidence, ImageSet, Ranking
from vpr.evaluation.comparison import summarise
from vpr.evaluation.known import known_queries, with_known_queries
from vpr.evaluation.paired import compare_runs
from vpr.evaluation.statistics import measure
from vpr.report.dataset_file import read_dataset, write_dataset
from vpr.report.outcomes import Outcome, outcomes
from vpr.report.predictions import prediction_lines
from vpr.report.tables import text_table


def names(count: int, prefix: str) -> ImageSet:
    return ImageSet(Path("root"), tuple(f"{prefix}{i}.jpg" for i in range(count)))


def ranking(rows: list[list[int]]) -> Ranking:
    scores = np.tile(np.arange(len(rows[0]), 0, -1), (len(rows), 1)).astype(np.float32)
    evidence = Evidence(scores, scores.astype(np.int32), scores.astype(np.int32), np.ones(len(rows)))
    return Ranking(np.array(rows), scores, evidence)


NONE, FIRST, SECOND = (np.array(rows, dtype=np.int64) for rows in ([], [0], [1]))
# Right; unknown; helped by the second stage; without positives; unknown.
MIXED = Dataset("x", "rule", names(3, "d"), names(5, "q"), (FIRST, NONE, SECOND, NONE, NONE), (1, 4))
BEFORE = ranking([[0, 1], [0, 1], [0, 1], [0, 1], [1, 0]])
AFTER = ranking([[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]])


def test_the_recall_is_that_of_the_known_queries() -> None:
    summary = summarise(MIXED, {"a": BEFORE, "b": AFTER}, (1, 2))
    known, stages = with_known_queries(MIXED, {"a": BEFORE, "b": AFTER})
    alone = summarise(known, stages, (1, 2))
    assert known_queries(MIXED).tolist() == [0, 2, 3] and len(known.queries) == 3 and known.unknown == ()
    for label in ("a", "b"):
        assert summary.recalls[label] == alone.recalls[label]
    assert [e.value for e in summary.recalls["a"].over_all] == pytest.approx([1 / 3, 2 / 3])
    assert (summary.recalls["a"].queries, summary.recalls["a"].unanswerable, summary.unknown) == (3, 1, 2)
    assert summary.changes[0].helped == (2,) and alone.changes[0].helped == (1,)  # rows of the whole set
    assert summary.ceiling == alone.ceiling == pytest.approx(2 / 3)
    assert "over 3 queries, 1 of them without a positive in the database; 2 more are left out" in text_table(summary)


def test_statistics_and_comparisons_leave_them_out() -> None:
    known, stages = with_known_queries(MIXED, {"a": AFTER})
    curve, expected = (
        measure(*each, (1,)).stages["a"].acceptance["score"] for each in ((MIXED, {"a": AFTER}), (known, stages))
    )
    assert curve.auc_pr == expected.auc_pr and np.array_equal(curve.precision, expected.precision)
    found = compare_runs(MIXED, BEFORE, MIXED, AFTER, (1,))
    assert found.changes[0].before == pytest.approx(1 / 3) and found.changes[0].after == pytest.approx(2 / 3)
    assert [each.query for each in found.queries] == ["q0.jpg", "q2.jpg", "q3.jpg"]


def test_nothing_is_said_to_be_right_or_wrong_of_them() -> None:
    lines = [json.loads(line) for line in prediction_lines(MIXED, AFTER)]
    assert {line["query"]: line["correct"] for line in lines if line["rank"] == 1} == {
        "q0.jpg": True, "q1.jpg": None, "q2.jpg": True, "q3.jpg": False, "q4.jpg": None,
    }  # fmt: skip
    fates = outcomes(BEFORE, AFTER, MIXED.positives, MIXED.unknown)
    assert [fates[row] for row in (1, 4)] == [Outcome.UNKNOWN] * 2 and Outcome.UNANSWERABLE in fates


def test_they_come_back_from_the_file(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset.json", MIXED)
    assert read_dataset(tmp_path / "dataset.json").unknown == (1, 4)
    with pytest.raises(DataError, match="5 queries, but one of unknown positives beyond them"):
        Dataset("x", "rule", names(3, "d"), names(5, "q"), MIXED.positives, (5,))


def test_a_run_counts_them_beside_the_recall(small_city: tuple[Path, Path], tmp_path: Path) -> None:

    database, queries = small_city
    settings = ("--set", "global_descriptor.method=thumbnail", "--set", "rerank.k=0")
    call(["run", "--database", str(database), "--queries", str(queries), "--out", str(tmp_path / "all"), *settings])
    write_picture(queries / "somewhere.png", textured(77))
    call(["run", "--database", str(database), "--queries", str(queries), "--out", str(tmp_path / "some"), *settings])
    before, after = (json.loads((tmp_path / name / "recalls.json").read_text()) for name in ("all", "some"))
    assert (before["queries_left_out"], after["queries_left_out"]) == (0, 1)
    assert before["queries"] == after["queries"] == 5
    assert before["stages"] == after["stages"]
    assert "Queries whose positives are not known, in no recall: 1." in (tmp_path / "some/report.html").read_text()
