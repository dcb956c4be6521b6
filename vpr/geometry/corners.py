"""Does a detector find the corners of drawn shapes? Average precision and localisation error against known corners.

The measure of MagicPoint on synthetic shapes (DeTone et al., CVPR workshops 2018) as rpautrat/SuperPoint computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles

NEAR = 2.0  # pixels


@dataclass(frozen=True, eq=False)
class Detections:
    """One image: what was found, and what is there."""

    points: Doubles  # (N, 2)
    scores: Doubles  # (N,)
    corners: Doubles  # (G, 2)


def precision_recall(images: Sequence[Detections], near: float = NEAR) -> tuple[Doubles, Doubles]:
    """Precision and recall as points of all images are taken by falling score; begins at recall 0 and ends at 1.

    A point is right if a corner is at most ``near`` pixels away and no stronger point has claimed that corner, which is
    the first of the image's list that is near enough, not the nearest; weaker points on a claimed corner are wrong.
    Precision is made to fall with recall.
    """
    judged = [_judge(image, near) for image in images]
    scores = np.concatenate([np.empty(0), *(each[0] for each in judged)])
    right = np.concatenate([np.empty(0, dtype=np.bool_), *(each[1] for each in judged)])
    hits = right[np.argsort(-scores, kind="stable")].cumsum()
    corners = sum(len(image.corners) for image in images)
    recall = hits / max(corners, 1)
    precision = hits / np.arange(1, len(hits) + 1)
    precision, recall = np.concatenate([[0.0], precision, [0.0]]), np.concatenate([[0.0], recall, [1.0]])
    return np.maximum.accumulate(precision[::-1])[::-1], recall


def mean_average_precision(images: Sequence[Detections], near: float = NEAR) -> float:
    """Area under precision against recall over the points of all images together."""
    precision, recall = precision_recall(images, near)
    return float((np.diff(recall) * precision[1:]).sum())


def localisation_error(images: Sequence[Detections], threshold: float, near: float = NEAR) -> float:
    """Mean distance to the nearest corner of points scoring above the threshold with one within ``near`` pixels.

    The mean is over the points of all images together; NaN if there is none.
    """
    nearest = [
        _distances(image.points[image.scores > threshold], image.corners).min(axis=1)
        for image in images
        if len(image.corners)
    ]
    errors = np.concatenate([np.empty(0), *nearest])
    return float(errors[errors <= near].mean()) if (errors <= near).any() else np.nan


def _judge(image: Detections, near: float) -> tuple[Doubles, NDArray[np.bool_]]:
    """Scores, falling, and which points are right."""
    order = np.argsort(-image.scores, kind="stable")
    right = np.zeros(len(order), dtype=np.bool_)
    if len(image.corners):
        candidates = _distances(image.points[order], image.corners) <= near
        claims = np.where(candidates.any(axis=1), candidates.argmax(axis=1), -1)
        corner, first = np.unique(claims, return_index=True)
        right[first[corner >= 0]] = True
    return image.scores[order], right


def _distances(points: Doubles, others: Doubles) -> Doubles:
    distances: Doubles = np.linalg.norm(points[:, None] - others[None], axis=2)
    return distances
