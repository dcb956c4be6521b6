"""Believing a first candidate: thresholds, calibration, distances and groups of queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vpr.core import DataError, Dataset, Evidence, ImageSet, Ranking
from vpr.evaluation.acceptance import CONFIDENCES, accept, confidences
from vpr.evaluation.calibration import fit, reliability
from vpr.evaluation.clusters import by_group, query_groups, stretches, tiles
from vpr.evaluation.distance import recall_within

NONE = -np.inf
# Four queries: two candidates, two alike, a lone one, none.
RANKING = Ranking(
    np.array([[4, 2], [1, 0], [3, -1], [-1, -1]]),
    np.array([[9, 5], [7, 7], [3, NONE], [NONE, NONE]], dtype=np.float32),
    Evidence(
        np.array([[0.5, 0.75], [0.25, 0], [0, 0], [0, 0]], dtype=np.float32),
        np.array([[20, 9], [8, 8], [-1, -1], [-1, -1]], dtype=np.int32),
        np.array([[12, 7], [0, 3], [-1, -1], [-1, -1]], dtype=np.int32),
        np.full(4, np.nan),
    ),
)


def flags(text: str) -> np.ndarray:
    return np.array([letter == "+" for letter in text])


# --- confidences of the first candidate


def test_confidences_by_hand():
    found = {name: values.tolist() for name, values in confidences(RANKING).items()}
    nan = pytest.approx(np.nan, nan_ok=True)
    assert found["score"] == [9, 7, 3, nan]
    assert found["margin"] == [4, 0, 0, nan]  # alike, and nothing to compare with
    assert found["inliers"] == [12, 0, nan, nan]
    assert found["similarity"][:3] == [0.5, 0.25, 0]


def test_what_no_stage_measured_is_not_a_confidence():
    bare = Ranking(RANKING.rows, RANKING.scores)
    assert set(confidences(bare)) == {"score", "margin"}
    assert set(CONFIDENCES) == {"score", "margin", "inliers", "similarity"}


def test_a_ranking_of_nothing_has_no_confidence():
    assert confidences(Ranking(np.zeros((3, 0), np.int64), np.zeros((3, 0), np.float32))) == {}


# --- precision and recall of accepting


def test_accepting_by_hand():
    # From the surest: right, right, wrong, right; a fifth answerable query has no candidate.
    got = accept(np.array([0.9, 0.8, 0.7, 0.6, np.nan]), flags("++-+-"), answerable=5)
    assert got is not None
    assert got.thresholds.tolist() == [0.6, 0.7, 0.8, 0.9]
    assert got.precision.tolist() == pytest.approx([3 / 4, 2 / 3, 1, 1])
    assert got.recall.tolist() == pytest.approx([3 / 5, 2 / 5, 2 / 5, 1 / 5])
    assert (got.recall_at_full_precision, got.threshold_at_full_precision) == (pytest.approx(2 / 5), 0.8)
    assert got.average_precision == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert got.auc_pr == pytest.approx((1 + 1 + 3 / 4) / 5)


def test_equal_confidences_are_accepted_together():
    got = accept(np.array([0.5, 0.5, 0.1]), flags("+-+"), answerable=3)
    assert got is not None
    assert got.precision.tolist() == pytest.approx([2 / 3, 1 / 2])
    assert (got.recall_at_full_precision, got.threshold_at_full_precision) == (0, None)


def test_the_order_of_the_queries_does_not_matter():
    rng = np.random.default_rng(0)
    confidence, right = rng.random(50).round(1), rng.random(50) < 0.6
    shuffled = rng.permutation(50)
    one, other = accept(confidence, right, 50), accept(confidence[shuffled], right[shuffled], 50)
    assert one is not None and other is not None
    assert one.recall.tolist() == other.recall.tolist() and one.auc_pr == other.auc_pr


def test_perfect_order_accepts_every_right_one():
    got = accept(np.array([3.0, 2.0, 1.0]), flags("++-"), answerable=2)
    assert got is not None and (got.auc_pr, got.recall_at_full_precision) == (1, 1)


@pytest.mark.parametrize(("right", "answerable"), [("--", 2), ("--", 0)])
def test_nothing_right_has_no_curve(right, answerable):
    assert accept(np.array([1.0, 2.0]), flags(right), answerable) is None


# --- calibration


def test_calibration_finds_the_curve_it_was_drawn_from():
    rng = np.random.default_rng(1)
    confidence = rng.normal(40, 10, 4000)
    truth = 1 / (1 + np.exp(-(confidence - 35) / 5))
    right = rng.random(4000) < truth
    learnt = fit(confidence, right)
    assert learnt.probability(np.array([25.0, 35.0, 45.0])) == pytest.approx([0.12, 0.5, 0.88], abs=0.03)
    elsewhere = rng.normal(30, 10, 4000)
    kept = rng.random(4000) < 1 / (1 + np.exp(-(elsewhere - 35) / 5))
    assert reliability(learnt.probability(elsewhere), kept).calibration_error < 0.03


def test_a_probability_never_falls_with_the_confidence():
    learnt = fit(np.arange(20.0), np.arange(20) < 10)  # misleads
    assert learnt.slope == 0
    assert learnt.probability(np.array([0.0, 100.0])) == pytest.approx([0.5, 0.5])
    assert (np.diff(fit(np.arange(20.0), np.arange(20) > 8).probability(np.linspace(-50, 50, 99))) >= 0).all()


@pytest.mark.parametrize(
    ("confidence", "right", "expected"),
    [([1.0, 2.0], "++", 3 / 4), ([1.0, 2.0], "--", 1 / 4), ([2.0, 2.0], "+-", 1 / 2), ([2.0], "+", 2 / 3)],
)
def test_without_contrast_the_probability_is_constant(confidence, right, expected):
    learnt = fit(np.array(confidence), flags(right))
    assert learnt.probability(np.array([-5.0, 5.0, np.nan])) == pytest.approx([expected, expected, 0])


def test_calibration_needs_a_confidence():
    with pytest.raises(DataError, match="no first candidate has a confidence"):
        fit(np.array([np.nan]), flags("+"))


def test_reliability_by_hand():
    got = reliability(np.array([0.8, 0.2, 0.6, 0.4]), flags("+-++"), bins=2)
    assert got.brier == pytest.approx((0.04 + 0.04 + 0.16 + 0.36) / 4)
    assert got.log_loss == pytest.approx(-np.log([0.8, 0.8, 0.6, 0.4]).mean())
    assert [(b.promised, b.kept, b.queries) for b in got.bins] == [
        (pytest.approx(0.3), 0.5, 2),
        (pytest.approx(0.7), 1.0, 2),
    ]
    assert got.calibration_error == pytest.approx((0.2 + 0.3) / 2)


def test_reliability_of_certainty_and_of_nothing_is_defined():
    assert np.isfinite(reliability(np.array([0.0, 1.0]), flags("+-")).log_loss)
    assert np.isnan(reliability(np.zeros(0), flags("")).brier)
    assert len(reliability(np.array([0.5]), flags("+")).bins) == 1


# --- recall against the distance


def test_recall_within_by_hand():
    metres = np.array([[30.0, 4.0], [10.0, np.nan], [np.nan, np.nan]])
    assert recall_within(metres, 1, (5, 10, 30)) == pytest.approx((0, 1 / 3, 2 / 3))
    assert recall_within(metres, 2, (5, 10)) == pytest.approx((1 / 3, 2 / 3))
    assert recall_within(metres[:, :0], 1, (5,)) == (0,)
    assert np.isnan(recall_within(metres[:0], 1, (5,))[0])


# --- groups of queries


def test_tiles_share_a_number_exactly_when_they_share_a_square():
    found = tiles(np.array([[0.0, 0.0], [99.9, 99.9], [100.0, 0.0], [-0.1, 0.0], [50.0, 1.0]]), 100.0)
    assert found[0] == found[1] == found[4]
    assert len({*found[[0, 2, 3]].tolist()}) == 3


def test_groups_of_the_data_set_come_before_squares():
    root = Path("r")
    database = ImageSet(root, ("d",))
    bare = ImageSet(root, ("a", "b"))
    placed = ImageSet(root, ("a", "b"), np.array([[0.0, 0.0], [500.0, 0.0]]))
    grouped = ImageSet(root, ("a", "b"), placed.positions, groups=np.array([4, 4]))
    assert query_groups(Dataset("d", "", database, bare)) is None
    found = query_groups(Dataset("d", "", database, placed))
    assert found is not None and found[0].tolist() == [0, 1] and found[1] == "squares of 100 m"
    found = query_groups(Dataset("d", "", database, grouped))
    assert found is not None and found[0].tolist() == [4, 4] and found[1] == "groups of the data set"


def test_names_that_count_frames_are_grouped_by_stretches():
    left = [f"queries/day_left_{i:03}.jpg" for i in range(50)]
    night = [f"queries/night_{i:03}.jp2" for i in range(100, 150)]
    found = stretches(left + night)
    assert found is not None
    assert found[:50].tolist() == [0] * 20 + [1] * 20 + [2] * 10
    assert found[50:].tolist() == [3] * 20 + [4] * 20 + [5] * 10
    backwards = stretches(left[::-1])
    assert backwards is not None and backwards.tolist() == [0] * 10 + [1] * 20 + [2] * 20  # numbered as they come
    root = Path("r")
    groups = query_groups(Dataset("d", "", ImageSet(root, ("d",)), ImageSet(root, tuple(left))))
    assert groups is not None and groups[1] == "stretches of 20 frames"


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.jpg" for i in range(39)],  # too few
        [f"{1000 * i}.jpg" for i in range(50)],  # identifiers
        [*(f"{i}.jpg" for i in range(50)), "other.jpg"],
        [f"2015-11-{1 + i % 30:02}.jpg" for i in range(30)],  # dates
        [],
    ],
)
def test_names_that_count_no_frames_make_no_groups(names):
    assert stretches(names) is None


def test_groups_of_one_give_the_bootstrap_over_queries():
    rng = np.random.default_rng(3)
    hits = rng.random(150) < 0.8
    loop = np.quantile([hits[rng.integers(0, 150, 150)].mean() for _ in range(4000)], [0.025, 0.975])
    got = by_group(hits, np.arange(150), samples=4000)
    assert got.value == hits.mean()
    assert (got.low, got.high) == pytest.approx(loop, abs=0.011)


def test_groups_that_agree_within_widen_the_interval():
    hits = np.repeat(np.arange(20) % 2 == 0, 10)
    single, grouped = by_group(hits, np.arange(200)), by_group(hits, np.repeat(np.arange(20), 10))
    assert grouped.value == single.value == 0.5
    assert grouped.high - grouped.low > 2.5 * (single.high - single.low)


def test_large_groups_weigh_more_and_order_does_not_matter():
    values, groups = np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 2])
    got = by_group(values, groups)
    assert (got.value, got.low, got.high) == (0.75, 0, 1)
    assert by_group(values[::-1], groups[::-1]) == got


def test_no_query_and_one_group():
    assert np.isnan(by_group([], np.zeros(0, np.int64)).value)
    assert by_group([1.0, 0.0], np.array([1, 1])).low == 0.5


def test_many_groups_are_drawn_in_parts_with_one_result(monkeypatch):
    values, groups = np.arange(40.0), np.arange(40)
    whole = by_group(values, groups, samples=200)
    monkeypatch.setattr("vpr.evaluation.clusters._CELLS", 400)
    assert by_group(values, groups, samples=200) == whole
