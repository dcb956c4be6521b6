"""Scores of a pair from its verified matches. Every score is 0 without evidence and never negative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vpr.core import Doubles


@dataclass(frozen=True)
class PairEvidence:
    """Matches and verification of a query and one candidate."""

    matches: int  # correspondences before verification
    inliers: int  # those that one geometry explains
    confidence: float  # sum of the matcher's confidences over the inliers
    by_chance: float  # inliers that as many unrelated matches would give


def inliers(pair: PairEvidence) -> float:
    """Number of inliers, as the field counts them; 20 to 60 of a fundamental matrix are no evidence."""
    return float(pair.inliers)


def inliers_above_chance(pair: PairEvidence) -> float:
    """Inliers beyond what unrelated matches give; 0 for a pair that chance explains."""
    return max(0.0, pair.inliers - pair.by_chance)


def confidence_sum(pair: PairEvidence) -> float:
    """Sum of the confidences of the inliers: many confident matches count more than many uncertain ones."""
    return pair.confidence


def inlier_ratio(pair: PairEvidence) -> float:
    """Inliers over matches, where there are more inliers than chance gives; in [0, 1]."""
    return pair.inliers / pair.matches if pair.inliers > pair.by_chance else 0.0


def same_place(inliers: int, by_chance: float) -> bool:
    """Whether there are clearly more inliers than unrelated images give."""
    return inliers > 1.5 * by_chance + 10


SCORES: dict[str, Callable[[PairEvidence], float]] = {
    "confidence_sum": confidence_sum,
    "inlier_ratio": inlier_ratio,
    "inliers": inliers,
    "inliers_above_chance": inliers_above_chance,
}


def fuse(scores: Doubles, weights: Sequence[float]) -> Doubles:
    """Weighted sum of scales, each standardised over the candidates; (K, S) to (K,).

    As Patch-NetVLAD fuses its patch sizes (Hausler et al., CVPR 2021), but a scale on which all candidates score alike
    says nothing and adds nothing, where the published code divides 0 by 0.
    """
    if not len(scores):
        return np.zeros(0)
    deviation = scores - scores.mean(axis=0)
    spread = np.broadcast_to(scores.std(axis=0), scores.shape)
    alike = np.broadcast_to(np.ptp(scores, axis=0) == 0, scores.shape)
    standard = np.divide(deviation, spread, out=np.zeros_like(scores), where=~alike & (spread > 0))
    fused: Doubles = standard @ np.asarray(weights, dtype=np.float64)
    return fused
