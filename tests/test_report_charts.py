"""The page's charts, its zooming map, its kinds of failure, and its size."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import textured
from test_report import AFTER, BEFORE, FATES, check, matches, nothing, picture, ranking, report, town

from vpr.core import Dataset, Evidence, ImageSet, Ranking
from vpr.evaluation.acceptance import accept
from vpr.evaluation.statistics import RADII_M, measure
from vpr.report.charts import BOTTOM, LEFT, RIGHT, TOP, acceptance_chart, acceptance_rows, distance_chart, histograms
from vpr.report.drawing import Correspondences
from vpr.report.figures import position_map
from vpr.report.gallery import MAX_LINES, SIDE, fineness
from vpr.report.outcomes import FAILURES, Outcome, outcomes
from vpr.report.page import render


def points(path: str) -> list[list[float]]:
    return [[float(number) for number in point.split()] for point in path[1:].split("L")]


def bars(path: str) -> list[list[float]]:
    """Left, base, right, height of each bar."""
    return [[float(number) for number in bar] for bar in re.findall(r"M(\S+) (\S+)H(\S+)v(\S+)H\S+z", path)]


# --- charts


def test_precision_curve_by_hand():
    curve = accept(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), answerable=4)
    chart = acceptance_chart({"inliers": curve})
    width, height = RIGHT - LEFT, BOTTOM - TOP
    expected = [[LEFT, TOP], [LEFT + width / 4, TOP], [LEFT + width / 4, BOTTOM - height / 2]]
    expected.append([LEFT + width / 2, BOTTOM - height * 2 / 3])
    np.testing.assert_allclose(points(chart.lines[0].path), expected, atol=0.06)
    assert chart.lines[0].label == "verified matches"
    assert acceptance_chart({}) is None
    (row,) = acceptance_rows({"inliers": curve})
    assert (row.recall_at_full_precision, row.threshold) == ("25.0", "0.9")


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    rng = np.random.default_rng(0)
    curve = accept(rng.random(5000), rng.random(5000) < 0.5, answerable=5000)
    found = points(acceptance_chart({"score": curve}).lines[0].path)
    assert len(found) <= 202
    assert found[-1][0] == pytest.approx(LEFT + (RIGHT - LEFT) * curve.recall[0], abs=0.1)


def test_histogram_by_hand():
    scores = np.array([[0.0], [24.0], [24.0], [12.0]], dtype=np.float32)
    stage = Ranking(np.zeros((4, 1), np.int64), scores)
    score, margin = histograms(stage, np.array([False, True, True, False]))
    assert (score.right_count, score.wrong_count, score.title) == (2, 2, "score")
    ((left, base, right, height),) = bars(score.right)
    assert right == pytest.approx(RIGHT) and height < 0 and base == score.middle  # the last bin, above the line
    assert (right - left) == pytest.approx((RIGHT - LEFT) / 24, abs=0.1)
    wrong = bars(score.wrong)
    assert [bar[0] for bar in wrong] == pytest.approx([LEFT, LEFT + (RIGHT - LEFT) / 2], abs=0.1)
    assert wrong[0][3] == pytest.approx(-height / 2, abs=0.1)  # one wrong is half as tall as two right
    assert margin.title.startswith("margin")


def test_one_confidence_for_all_has_a_histogram():
    flat = Ranking(np.zeros((3, 1), np.int64), np.full((3, 1), 7, np.float32))
    assert len(bars(histograms(flat, np.array([True, True, True]))[0].right)) == 1


def test_recall_against_distance_rises_and_needs_positions():
    chart = distance_chart(measure(town(), {"a": BEFORE, "b": AFTER}, (1,)))
    assert [line.label for line in chart.lines] == ["a", "b"]
    heights = [y for _, y in points(chart.lines[0].path)]
    assert heights == sorted(heights, reverse=True) and len(heights) == len(RADII_M)
    assert distance_chart(measure(town(placed=False), {"a": BEFORE}, (1,))) is None


# --- kinds of failure


def verified(inliers) -> Ranking:
    rows = np.arange(len(inliers[0]))[None].repeat(len(inliers), axis=0)
    counts = np.array(inliers, dtype=np.int32)
    scores = -rows.astype(np.float32)
    return Ranking(rows, scores, Evidence(scores, counts, counts, np.full(len(inliers), np.nan)))


@pytest.mark.parametrize(
    ("inliers", "fate"),
    [
        ([50, 40, 0], Outcome.AMBIGUOUS),  # exactly 80 %
        ([50, 39, 0], Outcome.WRONG),
        ([20, 60, 0], Outcome.AMBIGUOUS),  # even more
        ([22, 20, 0], Outcome.WRONG),  # as many as chance gives
        ([22, 21, 0], Outcome.AMBIGUOUS),
        ([50, -1, -1], Outcome.WRONG),  # the right one was not looked at
    ],
)
def test_a_place_is_ambiguous_where_both_are_verified_alike(inliers, fate):
    stage = verified([inliers])
    assert outcomes(stage, stage, [np.array([1])]) == (fate,)
    assert outcomes(stage, stage, [np.array([0])]) == (Outcome.KEPT,)
    assert outcomes(stage, stage, [np.array([9])]) == (Outcome.MISSED,)


def test_every_failure_has_a_section_and_a_shape():
    assert set(FAILURES) == {Outcome.MISSED, Outcome.LOST, Outcome.AMBIGUOUS, Outcome.WRONG}
    alike = verified([[50, 50, 50, 50, 50]] * 6)
    after = Ranking(np.pad(AFTER.rows, ((0, 0), (0, 1)), constant_values=4), alike.scores, alike.evidence)
    page = render(report(stages={"a": BEFORE, "b": after}), picture, matches)
    for outcome in ("kept", "rescued", "lost", "ambiguous", "unanswerable"):
        assert f'class="mark {outcome}"' in page
    assert "Ambiguous place" in check(page).text


# --- the map


def test_marks_know_their_first_candidate():
    found = position_map(town(), [Outcome(fate) for fate in FATES], frozenset(), AFTER)
    at = {mark.query: mark for mark in found.marks}
    x, y = (float(number) for number in re.match(r"M0 0l(\S+) (\S+)", at[3].first).groups())
    # Query 3 is at (907, 127), seen from its first candidate; its neighbour, query 0, at (7, 7).
    per_metre = (at[3].x - at[0].x) / 900
    assert (x, y) == pytest.approx((-907 * per_metre, 127 * per_metre), abs=0.3)  # to the west, and down to the south
    assert "\nfirst candidate d0.jpg, 916 m away" in at[3].title
    alone = position_map(town(), [Outcome(fate) for fate in FATES], frozenset(), ranking([[-1] * 4] * 6))
    assert {mark.first for mark in alone.marks} == {""}


def test_cards_and_marks_lead_to_each_other_where_there_is_a_map():
    page = check(render(report(), picture, matches))
    assert "#m2" in page.links and "m2" in page.ids and {"zoom1", "zoom16"} <= set(page.ids)
    assert "on the map" not in check(render(report(town(placed=False)), picture, matches)).text


def test_intervals_by_place_stand_where_places_are_known():
    assert "intervals by squares of 100 m: 6" in check(render(report(), picture, matches)).text
    assert "intervals by" not in check(render(report(town(placed=False)), picture, matches)).text


def test_hash_and_ground_truth_stand_in_the_head():
    text = check(render(report(), picture, matches)).text
    assert re.search(r"Protocol: within 25 m \[[0-9a-f]{16}\]\. Ground truth [0-9a-f]{16}\.", text)


def test_sizes_are_told():
    text = check(render(report(bytes_per_image={"local features": 2048.0}), picture, matches)).text
    assert "Local features: 2.0 KiB per image on disk." in text


def test_nothing_right_makes_a_page_without_a_curve():
    truth = (np.array([4]),) * 6
    text = check(render(report(town(positives=truth)), nothing, nothing)).text
    assert "How far to believe" not in text


# --- the size of the page


def test_few_cards_are_fine_and_many_are_small():
    assert fineness(24) == (SIDE, MAX_LINES)
    sizes = [fineness(count) for count in (0, 100, 101, 250, 251, 10_000)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1][0] == 160


def test_five_hundred_failures_stay_below_fifteen_megabytes():
    names = tuple(f"day/sequence_{row:03d}/image_{row:06d}.jpg" for row in range(700))
    rows = np.tile(np.arange(4), (700, 1))
    before, after = rows.copy(), rows.copy()
    after[500:] = [1, 0, 2, 3]  # 200 rescued, 125 of them shown
    truth = tuple(np.array([3 if row < 500 else 1]) for row in range(700))
    scores = np.tile(-np.arange(4, dtype=np.float32), (700, 1))
    database = ImageSet(Path("/"), tuple(f"d{row}.jpg" for row in range(4)))
    dataset = Dataset("large", "within 25 m", database, ImageSet(Path("/"), names), truth)
    pictures = [textured(seed, 480, 640) for seed in range(8)]
    spread = np.random.default_rng(0).random((600, 2)).astype(np.float32) * [640, 480]
    found = Correspondences(spread, spread[::-1].copy(), np.arange(600) < 300)
    page = render(
        replace(report(dataset, {"a": Ranking(before, scores), "b": Ranking(after, scores)}), failures=500),
        lambda role, row: pictures[row % 8],
        lambda query, row: found,
    )
    assert page.count('class="card"') == 625
    assert len(page.encode()) < 15e6
