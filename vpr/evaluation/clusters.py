"""Bootstrap over groups of queries: neighbours on one street succeed and fail together, so they are drawn together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from vpr.core import Dataset, Doubles, Rows
from vpr.evaluation.bootstrap import SAMPLES, Estimate, interval

TILE_M = 100.0  # side of the squares that stand for places
STRETCH = 20  # frames of a sequence that stand for a place where nothing says where they were taken
SPARSE = 10  # numbers in names are frames if not more than 1 in this many is there
_CELLS = 1 << 22  # of the table of draws that is in memory at once


def query_groups(dataset: Dataset, tile_m: float = TILE_M) -> tuple[Rows, str] | None:
    """(Q,) group of each query, and what the groups are, in words; None if nothing says which queries belong together.

    Groups that came with the data set go first (panoramas, sequences), then squares of the ground, then stretches of
    the sequences that the names count through.
    """
    queries = dataset.queries
    if queries.groups is not None:
        return queries.groups, "groups of the data set"
    if queries.positions is not None:
        return tiles(queries.positions, tile_m), f"squares of {tile_m:g} m"
    frames = stretches(queries.names)
    return None if frames is None else (frames, f"stretches of {STRETCH} frames")


def tiles(positions: Doubles, side_m: float) -> Rows:
    """(N,) number of the square of the ground in which each of the (N, 2) positions lies."""
    squares = np.floor(positions / side_m).astype(np.int64)
    numbers: Rows = np.unique(squares, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return numbers


def stretches(names: Sequence[str], length: int = STRETCH) -> Rows | None:
    """(N,) number of the stretch of consecutive frames that each name belongs to; None if the names count no frames.

    The last number of a name is its frame, what surrounds the number is the sequence. A sequence has at least two
    stretches' worth of frames, and not many gaps: a date or an identifier is no frame.
    """
    found = [re.fullmatch(r"(.*?)(\d+)(\D*)", name.rpartition(".")[0] or name, re.DOTALL) for name in names]
    sequences: dict[tuple[str, str], list[int]] = defaultdict(list)
    for match in found:
        if match is None:
            return None
        sequences[match[1], match[3]].append(int(match[2]))
    for frames in sequences.values():
        span = max(frames) - min(frames) + 1
        if span < 2 * length or span > SPARSE * len(frames):
            return None
    numbers: dict[tuple[str, str, int], int] = {}
    rows = [numbers.setdefault((m[1], m[3], int(m[2]) // length), len(numbers)) for m in found if m is not None]
    return np.array(rows, dtype=np.int64) if rows else None


def by_group(values: ArrayLike, groups: Rows, samples: int = SAMPLES, seed: int = 0) -> Estimate:
    """Mean of (Q,) values with the 95 % percentile interval of drawing whole groups with replacement.

    A draw has as many groups as there are; its mean is over the queries in it, so large groups weigh more. With one
    query per group this is the bootstrap over queries. NaN for no query.
    """
    return each_by_group([values], groups, samples, seed)[0]


def each_by_group(
    rows: Sequence[ArrayLike], groups: Rows, samples: int = SAMPLES, seed: int = 0
) -> tuple[Estimate, ...]:
    """``by_group`` of each row of values, all from the same draws."""
    values = np.array([np.asarray(row, dtype=np.float64) for row in rows]).reshape(len(rows), -1)
    if not values.size:
        return (Estimate(np.nan, np.nan, np.nan),) * len(rows)
    member = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(member).astype(np.float64)
    sums = np.array([np.bincount(member, weights=row) for row in values])
    random = np.random.default_rng(seed)
    even = np.full(len(sizes), 1 / len(sizes))
    step = max(1, _CELLS // len(sizes))
    means = []
    for first in range(0, samples, step):
        drawn = random.multinomial(len(sizes), even, size=min(step, samples - first))
        means.append((drawn @ sums.T) / (drawn @ sizes)[:, None])
    low, high = interval(np.concatenate(means))
    return tuple(
        Estimate(float(row.mean()), float(down), float(up)) for row, down, up in zip(values, low, high, strict=True)
    )
