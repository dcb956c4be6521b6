"""Are the points of one image found again in the other? Repeatability and localisation error under a homography.

The protocol of SuperPoint (DeTone et al., CVPR workshops 2018) as its two open implementations run it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vpr.core import Doubles, Rows
from vpr.geometry.homography import invert, warp


@dataclass(frozen=True)
class Repeatability:
    """Repeated keypoints of two images."""

    repeatability: float  # fraction of the points of both images that have a point of the other near them; NaN for none
    localisation_error: float  # mean distance in pixels of those that have; NaN for none


def repeatability(
    first: Doubles,
    first_scores: Doubles,
    second: Doubles,
    second_scores: Doubles,
    homography: Doubles,
    *,
    size: tuple[int, int],
    second_size: tuple[int, int] | None = None,
    points: int = 1000,
    distance: float = 3.0,
) -> Repeatability:
    """Of the points (N, 2) that both images of (width, height) show, the strongest of each; ``distance`` is near.

    A point of the second image counts if the homography's inverse sends it into the first; the points of the first are
    moved to the second and count if they fall into it. Only then the strongest are chosen, so that points seen by one
    image only take no place. All distances are measured in the second image.
    """
    second_size = second_size or size
    moved = warp(first, homography)
    shown = inside(moved, second_size)
    shown_second = inside(warp(second, invert(homography)), size)
    moved = moved[strongest(first_scores, shown, points)]
    second = second[strongest(second_scores, shown_second, points)]
    total = len(moved) + len(second)
    if not len(moved) or not len(second):
        return Repeatability(0.0 if total else np.nan, np.nan)
    near = [d[d <= distance] for d in (_nearest(moved, second), _nearest(second, moved))]
    found = len(near[0]) + len(near[1])
    error = float(np.concatenate(near).mean()) if found else np.nan
    return Repeatability(found / total, error)


def shared_by_both(
    first: Doubles, second: Doubles, homography: Doubles, size: tuple[int, int], second_size: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points of each image the other image shows too."""
    return inside(warp(first, homography), second_size), inside(warp(second, invert(homography)), size)


def inside(points: Doubles, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points (N, 2) lie at 0 <= x < width, 0 <= y < height."""
    within: NDArray[np.bool_] = np.all((points >= 0) & (points < size), axis=1)
    return within


def strongest(scores: Doubles, chosen: NDArray[np.bool_], count: int) -> Rows:
    """Rows of the chosen points with the highest scores, rising; of equal ones those that come last.

    Both implementations have this order, and what RANSAC draws depends on it.
    """
    rows = np.flatnonzero(chosen)
    kept: Rows = rows[np.argsort(scores[rows], kind="stable")[len(rows) - min(count, len(rows)) :]]
    return kept


def _nearest(points: Doubles, others: Doubles) -> Doubles:
    distances: Doubles = cKDTree(others).query(points)[0]
    return distances
