"""One state of a map, open for searching: its segments, and which of their rows are not removed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vpr.core import Floats, Rows
from vpr.maps.manifest import Manifest
from vpr.maps.segments import Segment, open_segment
from vpr.maps.vectors import REFINED, has_sketches, search_vectors

Flags = NDArray[np.bool_]


class FoundRow(NamedTuple):
    """One row that was found."""

    segment: int  # its number in the manifest
    row: int
    similarity: float


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A committed state of a map; never changes, and may be searched by several threads."""

    version: int
    count: int  # images
    segments: Mapping[int, Segment]  # by number
    live: Mapping[int, Flags]  # (N,) of the segments that have removed images: which are not

    def search(
        self, vector: Floats, k: int, among: Mapping[int, Rows] | None = None, *, refined: int = REFINED
    ) -> list[FoundRow]:
        """The k rows of the largest similarity with a vector (D,), best first; equal ones in the order of the segments.

        ``among`` restricts the search to rows of segments; they must not be removed. A zero vector finds nothing.
        ``refined`` rows of a large segment are compared by their descriptors, after all have been by their sketches; 0
        compares all. Large segments are searched side by side.
        """
        if not vector.any() or k < 1:
            return []

        def work(number: int) -> list[FoundRow]:
            rows = None if among is None else among[number]
            live = self.live.get(number)
            return _search(self.segments[number], vector, k, rows=rows, live=live, refined=refined)

        numbers = [number for number in self.segments if among is None or len(among.get(number, ()))]
        if sum(has_sketches(self.segments[number].vectors) for number in numbers) > 1:
            with ThreadPoolExecutor(os.cpu_count(), "search") as pool:
                found = [each for part in pool.map(work, numbers) for each in part]
        else:
            found = [each for number in numbers for each in work(number)]
        return sorted(found, key=lambda each: (-each.similarity, each.segment, each.row))[:k]


def open_snapshot(folder: Path, manifest: Manifest, previous: Snapshot | None = None) -> Snapshot:
    """The state that a reading transaction of the manifest sees; segments that are open already are used again.

    Raises DataError for damaged or missing files.
    """
    known = {} if previous is None else previous.segments
    segments, live = {}, {}
    for record in manifest.segments():
        held = known.get(record.id)
        segments[record.id] = held if held is not None and held.record == record else open_segment(folder, record)
        removed = manifest.removed_rows(record.id)
        if len(removed):
            live[record.id] = np.ones(record.count, bool)
            live[record.id][removed] = False
    return Snapshot(manifest.version, manifest.count(), segments, live)


def by_segment(places: NDArray[Any]) -> dict[int, Rows]:
    """Rows by segment of (N, 5) places as the manifest gives them."""
    numbers, rows = places[:, 1].astype(np.int64), places[:, 2].astype(np.int64)
    return {int(number): np.sort(rows[numbers == number]) for number in np.unique(numbers)}


def _search(
    segment: Segment, vector: Floats, k: int, *, rows: Rows | None, live: Flags | None, refined: int
) -> list[FoundRow]:
    count = segment.record.count if rows is None else len(rows)
    mask = live if rows is None else _mask(segment.record.count, rows)
    similarities, places = search_vectors(segment.vectors, vector, min(k, count), mask, refined=refined)
    number = segment.record.id
    return [
        FoundRow(number, *each) for each in zip(places.tolist(), similarities.tolist(), strict=True) if each[0] >= 0
    ]


def _mask(count: int, rows: Sequence[int] | Rows) -> Flags:
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask
