"""Geometry of the page's vector figures, in the units of their viewBox; the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vpr.core import NO_ROW, Dataset, Doubles, Ranking
from vpr.evaluation.known import with_known_queries
from vpr.evaluation.recall import RecallTable, recall_at
from vpr.report.outcomes import TITLES, Outcome, spread
from vpr.report.tables import length_text, with_interval

MAX_MARKS = 3000  # queries with a mark of their own on the map; more would neither be seen nor load quickly
TICK_SPACE = 26  # between the labels of an axis
CURVE_KS = 48  # places at which a curve is measured
MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN = 720, 560, 16
_DRAWN_LAST = (  # the rare and the bad lie on top
    Outcome.UNKNOWN,
    Outcome.KEPT,
    Outcome.UNANSWERABLE,
    Outcome.RESCUED,
    Outcome.WRONG,
    Outcome.AMBIGUOUS,
    Outcome.MISSED,
    Outcome.LOST,
)


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    label: str
    path: str
    band: str  # closed path round the intervals
    dots: tuple[Dot, ...]  # at the k of the recall table


@dataclass(frozen=True)
class Curves:
    """Recall against k, k on a logarithmic axis."""

    left: float
    top: float
    right: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    ceiling: float | None  # y of the ceiling; None if there was no query


@dataclass(frozen=True)
class Mark:
    query: int
    outcome: Outcome
    x: float
    y: float
    title: str
    first: str = ""  # path to the first candidate, from the mark


@dataclass(frozen=True)
class MapFigure:
    """Queries over the database, north up, one scale for both axes."""

    width: float
    height: float
    database: str  # path of dots
    marks: tuple[Mark, ...]
    bar: float  # length of the scale bar
    bar_label: str
    omitted: int  # queries without a mark, see MAX_MARKS
    placed: bool = True  # whether marks stand at the queries' positions; else at those of their first candidates


def recall_curves(dataset: Dataset, stages: Mapping[str, Ranking], ks: Sequence[int], ceiling: float) -> Curves | None:
    """Curves with bands of all stages; None without ground truth, queries or candidates."""
    dataset, stages = with_known_queries(dataset, stages)
    stages = {label: ranking for label, ranking in stages.items() if ranking.width}
    if dataset.positives is None or not len(dataset.queries) or not stages:
        return None
    widest = max(ranking.width for ranking in stages.values())
    shown = [k for k in ks if k <= widest]
    tables = {}
    for label, ranking in stages.items():
        grid = np.geomspace(1, ranking.width, CURVE_KS).round().astype(int).tolist()
        marked = [k for k in shown if k <= ranking.width]
        tables[label] = recall_at(ranking, dataset.positives, [*grid, *marked], dataset.database)
    lowest = min(estimate.low for table in tables.values() for estimate in table.over_all)
    axes = _Axes(top_k=max(widest, 2), floor=math.floor(10 * min(lowest, ceiling, 0.9)) / 10)
    return Curves(
        axes.left,
        axes.top,
        axes.right,
        axes.bottom,
        axes.x_ticks({1, *shown, widest}),
        tuple(Tick(axes.y(value), f"{100 * value:.0f}") for value in axes.values()),
        tuple(axes.line(label, table, shown) for label, table in tables.items()),
        axes.y(ceiling),
    )


@dataclass(frozen=True)
class _Axes:
    top_k: int
    floor: float  # recall at the bottom of the plot
    left: float = 44
    top: float = 12
    right: float = 548
    bottom: float = 280

    def x(self, k: float) -> float:
        return round(self.left + (self.right - self.left) * math.log(k) / math.log(self.top_k), 1)

    def y(self, recall: float) -> float:
        return round(self.bottom - (self.bottom - self.top) * (recall - self.floor) / (1 - self.floor), 1)

    def x_ticks(self, ks: Collection[int]) -> tuple[Tick, ...]:
        """Ticks from the right, so that the last k has its label, without those whose labels would touch."""
        ticks: list[Tick] = []
        for k in sorted(ks, reverse=True):
            if not ticks or ticks[-1].at - self.x(k) > TICK_SPACE:
                ticks.append(Tick(self.x(k), str(k)))
        return tuple(reversed(ticks))

    def values(self) -> list[float]:
        step = 0.2 if self.floor < 0.4 else 0.1 if self.floor < 0.8 else 0.05
        count = math.floor((1 - self.floor) / step + 1e-9)
        return [1 - i * step for i in range(count, -1, -1)]

    def line(self, label: str, table: RecallTable, marked: Sequence[int]) -> Line:
        points = list(zip(table.ks, table.over_all, strict=True))
        path = "M" + "L".join(f"{self.x(k)} {self.y(estimate.value)}" for k, estimate in points)
        upper = [f"{self.x(k)} {self.y(estimate.high)}" for k, estimate in points]
        lower = [f"{self.x(k)} {self.y(estimate.low)}" for k, estimate in reversed(points)]
        dots = tuple(
            Dot(self.x(k), self.y(estimate.value), f"{label}: recall@{k} {with_interval(estimate)} %")
            for k, estimate in points
            if k in marked
        )
        return Line(label, path, "M" + "L".join(upper + lower) + "Z", dots)


def position_map(
    dataset: Dataset, fates: Sequence[Outcome], linked: frozenset[int], predictions: Ranking | None = None
) -> MapFigure | None:
    """Where the queries are and what became of them; None if the two sides cannot be drawn on one map.

    Queries in ``linked`` always have a mark. With predictions a mark also knows its first candidate, and queries
    without positions stand there.
    """
    database, queries = dataset.database, dataset.queries
    there, placed = database.positions, queries.positions is not None
    if there is None or not len(queries) or (placed and database.zone != queries.zone):
        return None
    marked: Sequence[int] = range(len(queries))
    if queries.positions is not None:
        here = queries.positions
    elif predictions is not None and predictions.width:
        here = there[predictions.rows[:, 0]]  # of a query without a candidate, which has no mark, the last row's
        marked = np.flatnonzero(predictions.rows[:, 0] != NO_ROW).tolist()
    else:
        return None
    scale, size, place = _projection(np.concatenate([there, here]))
    chosen = sorted({*spread(marked, MAX_MARKS), *(linked & set(marked))})
    at = place(here).round(1)
    found = place(there).round(1)

    def mark(row: int) -> Mark:
        x, y = at[row].tolist()
        title = f"{queries.names[row]}: {TITLES[fates[row]][0]}"
        first = NO_ROW if predictions is None or not predictions.width else int(predictions.rows[row, 0])
        if first == NO_ROW:
            return Mark(row, fates[row], x, y, title)
        if not placed:
            return Mark(row, fates[row], x, y, f"{title}\nfirst candidate {database.names[first]}")
        away = length_text(float(np.linalg.norm(there[first] - here[row])))
        way = found[first] - at[row]
        title += f"\nfirst candidate {database.names[first]}, {away} away"
        return Mark(row, fates[row], x, y, title, f"M0 0l{way[0]:.1f} {way[1]:.1f}")

    marks = [mark(row) for row in chosen]
    marks.sort(key=lambda mark: _DRAWN_LAST.index(mark.outcome))
    dots = np.unique(place(there).round().astype(np.int64), axis=0).tolist()
    length = _round_length(0.25 * size[0] / scale)
    return MapFigure(
        *size,
        "".join(f"M{x} {y}h0" for x, y in dots),
        tuple(marks),
        length * scale,
        f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m",
        len(marked) - len(chosen),
        placed,
    )


def _projection(positions: Doubles) -> tuple[float, tuple[float, float], Callable[[Doubles], Doubles]]:
    """Units per metre, (width, height) of the map, and the function from metres to units."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    extent = np.maximum(high - low, 1.0)  # a single place has a map too
    scale = float(min((np.array([MAP_WIDTH, MAP_HEIGHT]) - 2 * MAP_MARGIN) / extent))
    size = (float(MAP_WIDTH), max(120.0, round(float(extent[1]) * scale + 2 * MAP_MARGIN, 1)))
    middle = (low + high) / 2

    def place(points: Doubles) -> Doubles:
        placed: Doubles = np.array(size) / 2 + (points - middle) * np.array([scale, -scale])
        return placed

    return scale, size, place


def _round_length(length: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= length)
