"""Do descriptors find the same point again? Nearest-neighbour average precision and the matching score.

The protocol of SuperPoint (DeTone et al., CVPR workshops 2018) with both ground truths in use: a match is right if the
true homography brings its points within 3 pixels ("true", the paper's), or if RANSAC keeps it ("estimated", what
pytorch-superpoint measures; it needs no truth, and rewards matches that agree in error).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles, Rows
from vpr.geometry.homography import invert, transfer_errors, warp

MAX_DISTANCE = 1.2  # between unit descriptors; further ones never match
RIGHT = 3.0  # pixels


@dataclass(frozen=True, eq=False)
class NearestMatches:
    """Mutual nearest neighbours."""

    pairs: Rows  # (M, 2) point of the first image, point of the second
    distances: Doubles  # (M,) of the unit descriptors, in [0, 2]

    def within(self, distance: float) -> NearestMatches:
        """Those that are nearer than that."""
        kept = self.distances < distance
        return NearestMatches(self.pairs[kept], self.distances[kept])


def mutual_nearest(first: Doubles, second: Doubles) -> NearestMatches:
    """Unit descriptors (N, D) that are each other's nearest."""
    if not len(first) or not len(second):
        return NearestMatches(np.empty((0, 2), dtype=np.int64), np.empty(0))
    distances = np.sqrt(np.maximum(2 - 2 * (first @ second.T), 0))
    forward, backward = distances.argmin(axis=1), distances.argmin(axis=0)
    rows = np.arange(len(first))
    kept = backward[forward] == rows
    return NearestMatches(np.stack([rows[kept], forward[kept]], axis=1), distances[rows, forward][kept])


def right_by_truth(first: Doubles, second: Doubles, homography: Doubles, distance: float = RIGHT) -> NDArray[np.bool_]:
    """Which matches (M, 2) the true homography brings within ``distance`` pixels, measured in the second image."""
    right: NDArray[np.bool_] = transfer_errors(first, second, homography) <= distance
    return right


def right_by_estimate(first: Doubles, second: Doubles) -> NDArray[np.bool_]:
    """Which matches (M, 2) OpenCV's RANSAC keeps, at 3 pixels; none if it finds no homography."""
    nothing = np.zeros(len(first), dtype=np.bool_)
    if len(first) < 4:
        return nothing
    try:
        found, mask = cv2.findHomography(first, second, cv2.RANSAC, RIGHT)
    except cv2.error:  # degenerate points
        return nothing
    return nothing if found is None else mask.ravel().astype(np.bool_)


def average_precision(right: NDArray[np.bool_], scores: Doubles) -> float:
    """Area under precision against recall when matches are taken by falling score; 0 without a correct one.

    Recall is over the correct ones among these matches. Equal scores are taken together (scikit-learn's definition).
    """
    if not right.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    last = np.append(np.diff(scores[order]) != 0, True)  # of each run of equal scores
    precision, recall = hits[last] / (np.flatnonzero(last) + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def nearest_neighbour_ap(matches: NearestMatches, right: NDArray[np.bool_]) -> float:
    """Average precision of the matches by falling similarity; its mean over pairs is SuperPoint's NN mAP."""
    return average_precision(right, -matches.distances)


def matching_score(right: int, shared_first: int, shared_second: int) -> float:
    """Correct matches over the mean number of points that both images show; NaN if they show none."""
    total = shared_first + shared_second
    return 2 * right / total if total else np.nan


def published_matching_score(
    right: int, first: Doubles, second: Doubles, homography: Doubles, size: tuple[int, int]
) -> float:
    """The matching score as pytorch-superpoint divides it, to compare with its tables.

    It counts all points (N, 2) of the first image, and those of the second that fall into the first after their x and
    y were exchanged by mistake.
    """
    exchanged = warp(np.trunc(second[:, ::-1]), invert(homography))
    shown = ((exchanged >= 0) & (exchanged <= np.array(size) - 1)).all(axis=1)
    return matching_score(right, len(first), int(shown.sum()))
