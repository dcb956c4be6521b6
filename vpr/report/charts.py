"""Geometry of the small charts: precision against recall, histograms of confidences, recall against distance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles, Ranking
from vpr.evaluation.acceptance import Acceptance, confidences
from vpr.evaluation.statistics import RADII_M, Statistics
from vpr.report.figures import Tick
from vpr.report.tables import percent

WIDTH, HEIGHT = 420, 260
LEFT, TOP, RIGHT, BOTTOM = 44.0, 12.0, 408.0, 216.0
POINTS = 200  # of a curve: more could not be told apart
BINS = 24
WORDS = {
    "score": "score",
    "margin": "margin to the second",
    "inliers": "verified matches",
    "similarity": "similarity of the global descriptors",
}


@dataclass(frozen=True)
class ChartLine:
    label: str
    path: str


@dataclass(frozen=True)
class Chart:
    """Lines in a box, in the units of its viewBox."""

    title: str
    x_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[ChartLine, ...]


@dataclass(frozen=True)
class Histogram:
    """Right first candidates above the middle line, wrong ones below, on one scale."""

    title: str
    middle: float
    right: str  # paths of bars
    wrong: str
    right_count: int
    wrong_count: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def acceptance_chart(curves: Mapping[str, Acceptance]) -> Chart | None:
    """Precision against recall of accepting the first candidate, a line per confidence; None without any."""
    if not curves:
        return None
    lines = tuple(ChartLine(WORDS[name], _steps(curve)) for name, curve in curves.items())
    ticks = tuple(Tick(_x(step / 5), f"{20 * step}") for step in range(6))
    heights = tuple(Tick(_y(step / 5), f"{20 * step}") for step in range(6))
    return Chart("Precision of accepting the first candidate", "recall, % of answerable queries", ticks, heights, lines)


def distance_chart(statistics: Statistics) -> Chart | None:
    """Recall@1 against the distance that counts as right; None without positions."""
    lines = [
        ChartLine(label, _joined([(_log_x(radius), _y(value)) for radius, value in zip(RADII_M, found, strict=True)]))
        for label, found in ((label, stage.within) for label, stage in statistics.stages.items())
        if found is not None and not any(map(math.isnan, found))
    ]
    if not lines:
        return None
    ticks = tuple(Tick(_log_x(radius), f"{radius:g}") for radius in (1, 2, 5, 10, 25, 50, 100))
    heights = tuple(Tick(_y(step / 5), f"{20 * step}") for step in range(6))
    return Chart("Recall@1 against distance", "counts as right within, m", ticks, heights, tuple(lines))


def histograms(ranking: Ranking, right: NDArray[np.bool_]) -> list[Histogram]:
    """One per confidence of the first candidates; (Q,) whether each is right."""
    return [_histogram(name, values, right) for name, values in confidences(ranking).items()]


def _histogram(name: str, values: Doubles, right: NDArray[np.bool_]) -> Histogram:
    known = np.isfinite(values)
    values, right = values[known], right[known]
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    above, below = (np.histogram(values[flags], edges)[0] for flags in (right, ~right))
    tallest = max(int(above.max()), int(below.max()), 1)
    middle = round(BOTTOM - (BOTTOM - TOP) * below.max() / max(above.max() + below.max(), 1), 1)
    scale = (BOTTOM - TOP) / max(int(above.max() + below.max()), 1)
    steps = [(edge - edges[0]) / (edges[-1] - edges[0]) for edge in edges]
    step = _round_step((edges[-1] - edges[0]) / 4)
    marks = np.arange(math.ceil(edges[0] / step), math.floor(edges[-1] / step) + 1) * step
    return Histogram(
        WORDS[name],
        middle,
        _bars(above, steps, middle, -scale),
        _bars(below, steps, middle, scale),
        int(np.count_nonzero(right)),
        int(np.count_nonzero(~right)),
        tuple(Tick(_x((mark - edges[0]) / (edges[-1] - edges[0])), f"{mark:.4g}") for mark in marks.tolist()),
        tuple(
            Tick(round(middle + sign * scale * count, 1), str(count))
            for sign, most, count in ((-1, above.max(), tallest), (1, below.max(), tallest))
            if most == count
        ),
    )


def _bars(counts: NDArray[np.int64], steps: Sequence[float], middle: float, scale: float) -> str:
    """One closed path per bin that is not empty."""
    return "".join(
        f"M{_x(left)} {middle}H{_x(right)}v{count * scale:.1f}H{_x(left)}z"
        for count, left, right in zip(counts.tolist(), steps[:-1], steps[1:], strict=True)
        if count
    )


def _steps(curve: Acceptance) -> str:
    """From the surest threshold to the least sure."""
    shown = np.unique(np.linspace(0, len(curve.thresholds) - 1, POINTS).round().astype(int))[::-1]
    points = [(_x(curve.recall[at]), _y(curve.precision[at])) for at in shown.tolist()]
    return _joined([(_x(0.0), points[0][1]), *points])


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def _x(fraction: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * float(fraction), 1)


def _log_x(radius: float) -> float:
    return _x(math.log(radius / RADII_M[0]) / math.log(RADII_M[-1] / RADII_M[0]))


def _y(fraction: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * float(fraction), 1)


def _round_step(length: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is not shorter."""
    power = 10.0 ** math.floor(math.log10(length))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= length * (1 - 1e-9))


@dataclass(frozen=True)
class AcceptanceRow:
    """A line of the table of confidences."""

    label: str
    auc_pr: float
    average_precision: float
    recall_at_full_precision: str
    threshold: str


def acceptance_rows(curves: Mapping[str, Acceptance]) -> list[AcceptanceRow]:
    return [
        AcceptanceRow(
            WORDS[name],
            curve.auc_pr,
            curve.average_precision,
            percent(curve.recall_at_full_precision),
            "" if curve.threshold_at_full_precision is None else f"{curve.threshold_at_full_precision:.4g}",
        )
        for name, curve in curves.items()
    ]
