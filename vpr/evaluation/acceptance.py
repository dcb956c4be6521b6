"""When to believe the first candidate: precision and recall of accepting it above a threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import NO_ROW, Doubles, Ranking

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Acceptance:
    """Precision and recall of accepting first candidates above a confidence, for every useful threshold."""

    thresholds: Doubles  # (T,) rising
    precision: Doubles  # (T,) right among the accepted
    recall: Doubles  # (T,) accepted and right, over the answerable queries; falls
    average_precision: float  # area by steps, recall over the right first candidates (scikit-learn, VPR-Bench)
    auc_pr: float  # the same area with recall over the answerable queries: never above recall@1
    recall_at_full_precision: float  # largest recall without any wrong acceptance; 0 if the surest is wrong
    threshold_at_full_precision: float | None  # where that is; None if the surest is wrong


def score(ranking: Ranking) -> Doubles:
    """Name of the score that the stage ranks by."""
    return _firsts(ranking.scores)


def margin(ranking: Ranking) -> Doubles:
    """Score of the first candidate less that of the second; 0 where there is no second: nothing was compared."""
    if ranking.width < 2:
        return np.where(_none(ranking), np.nan, 0.0)
    lone = ranking.rows[:, 1] == NO_ROW
    second = np.where(lone, _firsts(ranking.scores), ranking.scores[:, 1].astype(np.float64))
    return _firsts(ranking.scores) - second


def inliers(ranking: Ranking) -> Doubles:
    """Verified matches of the first candidate; NaN where none were sought."""
    if ranking.evidence is None:
        return np.full(len(ranking), np.nan)
    counts = _firsts(ranking.evidence.inliers)
    return np.where(_none(ranking) | (counts < 0), np.nan, counts)


def similarity(ranking: Ranking) -> Doubles:
    """Similarity of the global descriptors of query and first candidate."""
    return np.full(len(ranking), np.nan) if ranking.evidence is None else _firsts(ranking.evidence.similarity)


CONFIDENCES: Mapping[str, Callable[[Ranking], Doubles]] = {
    "score": score,
    "margin": margin,
    "inliers": inliers,
    "similarity": similarity,
}


def confidences(ranking: Ranking) -> dict[str, Doubles]:
    """(Q,) every confidence that is known of at least one first candidate; NaN where it is not."""
    found = {name: read(ranking) for name, read in CONFIDENCES.items()}
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def accept(confidence: Doubles, right: Flags, answerable: int) -> Acceptance | None:
    """Precision and recall over the thresholds; (Q,) confidence of the first candidates and whether they are right.

    A query whose confidence is NaN is never accepted. None if no first candidate is right or no query is answerable.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    known = np.isfinite(confidence)
    confidence, right = confidence[known], right[known]
    found = int(np.count_nonzero(right))
    if not found or not answerable:
        return None
    precision, recall, thresholds = precision_recall_curve(right, confidence)
    precision, recall = precision[:-1], recall[:-1] * found / answerable  # the last point accepts nothing
    area = float(average_precision_score(right, confidence))
    precise = np.flatnonzero(precision == 1.0)
    return Acceptance(
        thresholds.astype(np.float64),
        precision,
        recall,
        area,
        area * found / answerable,
        float(recall[precise[0]]) if len(precise) else 0.0,
        float(thresholds[precise[0]]) if len(precise) else None,
    )


def _none(ranking: Ranking) -> Flags:
    return ranking.rows[:, 0] == NO_ROW if ranking.width else np.ones(len(ranking), dtype=np.bool_)


def _firsts(values: NDArray[np.generic]) -> Doubles:
    """The first column; NaN without candidates or where it is not finite."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    first = values[:, 0].astype(np.float64)
    return np.where(np.isfinite(first), first, np.nan)
