"""Homographies from points and line segments."""

import numpy as np
import pytest

from vpr.geometry.homography import corner_error, warp
from vpr.geometry.line_homography import PointAndLineMatches, errors_of, homography_from

TRUTH = np.array([[1.1, 0.08, -20.0], [-0.05, 0.95, 15.0], [2e-4, -1e-4, 1.0]])
SIZE = (640, 480)


def matched(points, lines, wrong=0.0, noise=0.0, slide=0.0, seed=0):
    """Matches of TRUTH; segments slide along their lines, and a share of both kinds is replaced at random."""
    random = np.random.default_rng(seed)
    first = random.uniform([0, 0], SIZE, (points, 2))
    ends = random.uniform([0, 0], SIZE, (lines, 2, 2))
    second, others = warp(first, TRUTH), warp(ends.reshape(-1, 2), TRUTH).reshape(-1, 2, 2)
    others = others + slide * (others[:, ::-1] - others) * random.uniform(0, 1, (lines, 2, 1))
    noisy = []
    for each in (second, others):
        lost = (random.random(len(each)) < wrong).reshape(-1, *[1] * (each.ndim - 1))
        moved = each + random.normal(0, noise, each.shape)
        noisy.append(np.where(lost, random.uniform(0, 480, each.shape), moved))
    return PointAndLineMatches(first, noisy[0], ends, noisy[1])


@pytest.mark.parametrize(("points", "lines"), [(40, 0), (0, 40), (20, 20), (3, 1)])
def test_either_kind_or_both_give_the_homography(points, lines):
    found = homography_from(matched(points, lines, slide=0.4), 3.0, samples=200)
    assert corner_error(found, TRUTH, SIZE, "outer") < 1e-3


def test_wrong_matches_are_left_out():
    found = homography_from(matched(60, 60, wrong=0.4, noise=0.5, slide=0.3), 3.0, samples=500)
    assert corner_error(found, TRUTH, SIZE, "outer") < 2


def test_lines_help_where_points_are_few_and_noisy():
    errors = {
        lines: np.median(
            [
                corner_error(
                    homography_from(matched(8, lines, noise=0.7, seed=seed), 3.0, samples=100), TRUTH, SIZE, "outer"
                )
                for seed in range(7)
            ]
        )
        for lines in (0, 40)
    }
    assert errors[40] < 0.7 * errors[0]


def test_the_error_of_a_segment_is_that_of_its_line():
    ends = np.array([[[0.0, 0.0], [10.0, 0.0]]])
    nothing = np.zeros((0, 2))
    moved = PointAndLineMatches(
        nothing, nothing, ends, np.array([[[50.0, 2.0], [70.0, 2.0]]])
    )  # along itself, and 2 off
    assert errors_of(moved, np.eye(3)) == pytest.approx([2.0])


def test_too_few_or_unrelated_matches_have_none():
    assert homography_from(matched(2, 1), 3.0) is None
    assert homography_from(matched(0, 0), 3.0) is None
    same = PointAndLineMatches(np.zeros((6, 2)), np.zeros((6, 2)), np.zeros((0, 2, 2)), np.zeros((0, 2, 2)))
    found = homography_from(same, 3.0, samples=20)
    assert found is None or np.isfinite(found).all()
