"""The probability that a first candidate is right, learned on one data set and tried on another.

Logistic regression on the standardised confidence (Platt, 1999), by scikit-learn. An isotonic curve fits more shapes,
but needs a thousand queries before it stops following their accidents, says 0 and 1 outside what it has seen, and
would turn the ties it makes into ties of the ranking; two parameters fitted on a hundred queries transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Doubles

Flags = NDArray[np.bool_]
BINS = 10


@dataclass(frozen=True)
class Calibration:
    """p = 1 / (1 + exp(-(slope * (confidence - centre) / spread + offset))); slope is never negative."""

    centre: float
    spread: float
    slope: float
    offset: float
    queries: int  # it was fitted on

    def probability(self, confidence: Doubles) -> Doubles:
        """(Q,) of each confidence; 0 where it is NaN, since without evidence nothing is claimed."""
        logit = self.slope * (confidence - self.centre) / self.spread + self.offset
        probability: Doubles = np.where(np.isfinite(logit), _sigmoid(np.nan_to_num(logit)), 0.0)
        return probability


@dataclass(frozen=True)
class ReliabilityBin:
    """Queries of like probability: what was promised and what was kept."""

    promised: float  # mean probability
    kept: float  # fraction that is right
    queries: int


@dataclass(frozen=True)
class Reliability:
    """Measures of how well probabilities agree with frequencies."""

    brier: float  # mean squared error; 0.25 is what always saying one half gives
    log_loss: float  # mean, in nats
    calibration_error: float  # mean distance of promised and kept, weighted by queries (ECE)
    bins: tuple[ReliabilityBin, ...]


def fit(confidence: Doubles, right: Flags) -> Calibration:
    """Fit on (Q,) confidences of first candidates and whether they are right; NaN is left out.

    Where all are right, or all wrong, or all alike, the probability is constant: (right + 1) / (queries + 2).
    Raises DataError without a query.
    """
    from sklearn.linear_model import LogisticRegression

    known = np.isfinite(confidence)
    values, labels = confidence[known].astype(np.float64), right[known]
    if not len(values):
        raise DataError("no first candidate has a confidence to learn from; calibrate on a run with predictions")
    centre, spread = float(values.mean()), float(values.std())
    found = int(np.count_nonzero(labels))
    if found in (0, len(labels)) or spread == 0:
        even = (found + 1) / (len(labels) + 2)
        return Calibration(centre, spread or 1.0, 0.0, float(np.log(even / (1 - even))), len(values))
    model = LogisticRegression().fit(((values - centre) / spread)[:, None], labels)
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope < 0:  # higher is better everywhere: a confidence that misleads is no evidence
        return Calibration(centre, spread, 0.0, float(np.log(found / (len(labels) - found))), len(values))
    return Calibration(centre, spread, slope, offset, len(values))


def reliability(probability: Doubles, right: Flags, bins: int = BINS) -> Reliability:
    """Measure (Q,) probabilities against the truth, in bins that hold equally many queries. NaN without a query."""
    if not len(probability):
        return Reliability(np.nan, np.nan, np.nan, ())
    truth = right.astype(np.float64)
    safe = np.clip(probability, 1e-12, 1 - 1e-12)
    order = np.argsort(probability, kind="stable")
    made = _bins([part for part in np.array_split(order, bins) if len(part)], probability, truth)
    error = sum(each.queries * abs(each.promised - each.kept) for each in made) / len(probability)
    loss = -(truth * np.log(safe) + (1 - truth) * np.log(1 - safe)).mean()
    return Reliability(float(((probability - truth) ** 2).mean()), float(loss), float(error), made)


def _bins(parts: Sequence[NDArray[np.int64]], probability: Doubles, truth: Doubles) -> tuple[ReliabilityBin, ...]:
    return tuple(
        ReliabilityBin(float(probability[part].mean()), float(truth[part].mean()), len(part)) for part in parts
    )


def _sigmoid(logit: Doubles) -> Doubles:
    from scipy.special import expit

    value: Doubles = expit(logit)
    return value
