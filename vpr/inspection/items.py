"""What is shown of a run: its items (pairs of images, or queries), their metrics, and matches of single ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vpr.core import ConfigError
from vpr.report.drawing import Correspondences
from vpr.report.outcomes import spread


@dataclass(frozen=True, eq=False)
class InspectedPair:
    """Two images with their matches."""

    title: str
    facts: str
    paths: tuple[Path, Path]
    names: tuple[str, str]
    sizes: tuple[tuple[int, int], tuple[int, int]]  # width, height of the images that the points lie in
    matches: Correspondences  # with all keypoints; what counts as an inlier is said in ``facts``


class InspectedRun(Protocol):
    """A finished run of one kind."""

    kind: str  # "queries" or "pairs"
    names: tuple[str, ...]  # of the items, each once
    rightness: str  # what makes an item right, in words

    @property
    def metrics(self) -> Mapping[str, Sequence[float]]:
        """By name, one value an item: NaN where it is unknown, inf for a failure."""

    @property
    def main(self) -> str:
        """The metric that is shown first."""

    @property
    def right(self) -> Sequence[bool | None]:
        """Whether an item was answered right; None where it is not known."""

    def pairs(self, item: int) -> list[InspectedPair]:
        """The pairs of images that show an item, matched again; [] where an image cannot be read."""


@dataclass(frozen=True, eq=False)
class Items:
    """Items that all runs have, by their rows in each run."""

    names: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]  # per run, one row an item


def each_once(names: Sequence[str]) -> tuple[str, ...]:
    """Names with a number behind those that come again."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)


def in_common(runs: Sequence[InspectedRun], titles: Sequence[str]) -> Items:
    """Items of the first run that the others have as well; raises ConfigError if there are none."""
    if len({run.kind for run in runs}) > 1:
        said = ", ".join(f"{title}: {run.kind}" for title, run in zip(titles, runs, strict=True))
        raise ConfigError(f"the runs are of different kinds ({said}); give two of vpr run, or two of vpr evaluate")
    places = [{name: row for row, name in enumerate(run.names)} for run in runs]
    names = tuple(name for name in runs[0].names if all(name in each for each in places))
    if not names:
        raise ConfigError(f"{' and '.join(titles)}: no {runs[0].kind} in common; give runs on the same data")
    return Items(names, tuple(tuple(each[name] for name in names) for each in places))


def chosen_items(items: Items, runs: Sequence[InspectedRun], count: int) -> list[int]:
    """Items whose matches are shown: half where the runs differ most, or the run is wrong, the others evenly spread."""
    rights = [[run.right[row] for row in rows] for run, rows in zip(runs, items.rows, strict=True)]
    values = [[_finite(run.metrics[run.main][row]) for row in rows] for run, rows in zip(runs, items.rows, strict=True)]

    def interest(item: int) -> tuple[bool, float]:
        if len(runs) == 1:
            return rights[0][item] is False, 0.0
        return rights[0][item] != rights[1][item], abs(values[0][item] - values[1][item])

    everything = range(len(items.names))
    first = sorted(everything, key=interest, reverse=True)[: (min(count, len(everything)) + 1) // 2]
    rest = sorted(set(everything) - set(first), key=lambda item: values[0][item])
    return sorted([*first, *spread(rest, count - len(first))])


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
