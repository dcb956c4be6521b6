"""The probability that a first candidate shows the place of the query: logistic in the logarithm of its evidence.

Evidence are the inliers beyond those that unrelated images give (vpr.rerank.verification). Two parameters, fitted on
images that are not measured on, are part of a map; see vpr.evaluation.calibration for why not more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vpr.evaluation.calibration import Calibration, Flags, fit


@dataclass(frozen=True)
class Probability:
    """p = 1 / (1 + exp(-(slope * log(1 + evidence) + offset)))."""

    slope: float
    offset: float
    queries: int  # it was fitted on
    origin: str  # on which images

    def of(self, evidence: float) -> float:
        """Of a first candidate with this evidence."""
        return 1 / (1 + math.exp(-min(50.0, max(-50.0, self.slope * math.log1p(evidence) + self.offset))))

    def to_table(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of_table(table: Mapping[str, Any]) -> Probability | None:
        """What ``to_table`` gave; None for an empty table."""
        return Probability(**table) if table else None


def fit_probability(evidence: Sequence[float], right: Flags, origin: str) -> Probability:
    """Fit on the evidence of first candidates and whether they are right; queries of no place are wrong."""
    found: Calibration = fit(np.log1p(np.asarray(evidence, dtype=np.float64)), right)
    slope = found.slope / found.spread
    return Probability(slope, found.offset - slope * found.centre, found.queries, origin)
