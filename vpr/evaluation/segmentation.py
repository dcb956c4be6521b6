"""Measures of semantic segmentation from one matrix of counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.categories import IGNORED
from vpr.core import DataError, Doubles, Image

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by true class (row) and predicted class (column)."""

    counts: Counts  # (C, C + 1); the last column is for pixels without a prediction

    @staticmethod
    def none(classes: int) -> Confusion:
        return Confusion(np.zeros((classes, classes + 1), np.int64))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of the pixels whose class is right; 0 without any."""
        return float(np.diagonal(self.counts).sum() / max(1, self.counts.sum()))

    @property
    def class_accuracy(self) -> Doubles:
        """(C,) fraction of each true class that is found; not a number for a class that does not occur."""
        return _ratio(np.diagonal(self.counts), self.counts.sum(axis=1))

    @property
    def iou(self) -> Doubles:
        """(C,) intersection over union of each class; not a number where it is neither true nor predicted."""
        hits = np.diagonal(self.counts)
        return _ratio(hits, self.counts.sum(axis=0)[:-1] + self.counts.sum(axis=1) - hits)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur in the truth; 0 if none does (Everingham et al., IJCV 2015)."""
        occurs = self.counts.sum(axis=1) > 0
        return float(self.iou[occurs].mean()) if occurs.any() else 0.0


def confusion(truth: Image, predicted: Image, classes: int) -> Confusion:
    """The counts of two masks (H, W) of class ids; pixels whose truth is IGNORED do not count.

    A prediction that is IGNORED is wrong. Raises DataError for masks of different sizes, and for ids that are no class.
    """
    if truth.shape != predicted.shape:
        raise DataError(f"a mask of {predicted.shape} compared with one of {truth.shape}; both need one size")
    counted = truth != IGNORED
    first, second = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    highest = max(first.max(initial=0), second[second != IGNORED].max(initial=0))
    if highest >= classes:
        raise DataError(f"a mask holds the id {highest}, but there are {classes} classes")
    cells = (classes + 1) * first + np.minimum(second, classes)
    return Confusion(np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1))


def _ratio(part: Counts, whole: Counts) -> Doubles:
    nothing = np.full(len(whole), np.nan)
    return np.asarray(np.divide(part, whole, out=nothing, where=whole > 0), np.float64)
