"""Area under the curve of the fraction of pairs whose error is below a bound, against that bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def area_under_curve(errors: ArrayLike, bounds: Sequence[float]) -> tuple[float, ...]:
    """One area per bound, as fractions in [0, 1]; NaN where there is no error at all.

    The exact area of SuperGlue, Glue Factory, IMP and LoFTR: the curve begins at (0, 0), goes straight from one sorted
    error to the next, and is level from the last error below the bound to the bound. An error that equals the bound
    is not below it. A pair without a model has the error infinity and counts as a failure.
    """
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    if not len(ordered):
        return (np.nan,) * len(bounds)
    if np.isnan(ordered[-1]) or ordered[0] < 0:
        raise ValueError("an error is negative or not a number; give infinity for a failure")
    fractions = np.arange(len(ordered) + 1) / len(ordered)
    ordered = np.concatenate([[0.0], ordered])
    areas = []
    for bound in bounds:
        below = int(np.searchsorted(ordered, bound))
        x = np.append(ordered[:below], bound)
        y = np.append(fractions[:below], fractions[below - 1])
        areas.append(float(np.trapezoid(y, x) / bound))
    return tuple(areas)


def fraction_within(errors: ArrayLike, bound: float) -> float:
    """The fraction of errors that are at most the bound; NaN where there is none."""
    values = np.asarray(errors, dtype=np.float64)
    return float(np.mean(values <= bound)) if len(values) else np.nan
