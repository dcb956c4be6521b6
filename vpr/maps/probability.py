"""The probability that a first candidate shows the place of the query: logistic in what its comparison gave.

Two parameters, fitted on images that are not measured on, are part of a map; see vpr.evaluation.calibration for why not
more. By "keypoints", the inliers count over the square root of the keypoints: an image with few has few inliers by
chance, and few where it is right. By "chance", as for maps made before, the inliers beyond those of unrelated images
count (vpr.rerank.verification): of thumbnails, that have few, hardly any answer was believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from vpr.evaluation.calibration import Calibration, Flags, fit
from vpr.maps.answers import Candidate

Measure = Literal["chance", "keypoints"]
_FEW = 30  # keypoints that are added, so that an image with next to none is not believed


@dataclass(frozen=True)
class Probability:
    """p = 1 / (1 + exp(-(slope * x + offset))), x by ``measure_of``."""

    slope: float
    offset: float
    queries: int  # it was fitted on
    origin: str  # on which images
    measure: Measure = "chance"

    def of(self, candidate: Candidate) -> float:
        """Of a first candidate that was compared."""
        x = measure_of(candidate, self.measure)
        return 1 / (1 + math.exp(-min(50.0, max(-50.0, self.slope * x + self.offset))))

    def to_table(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of_table(table: Mapping[str, Any]) -> Probability | None:
        """What ``to_table`` gave; None for an empty table."""
        return Probability(**table) if table else None


def measure_of(candidate: Candidate, measure: Measure) -> float:
    """What the probability is logistic in."""
    if measure == "chance":
        return math.log1p(candidate.evidence)
    return math.log((1 + (candidate.inliers or 0)) / math.sqrt(_FEW + (candidate.keypoints or 0)))


def fit_probability(candidates: Sequence[Candidate], right: Flags, origin: str) -> Probability:
    """Fit on first candidates and whether they are right; queries of no place are wrong."""
    values = np.array([measure_of(each, "keypoints") for each in candidates], dtype=np.float64)
    found: Calibration = fit(values, right)
    slope = found.slope / found.spread
    return Probability(slope, found.offset - slope * found.centre, found.queries, origin, "keypoints")
