"""Which database images are positives of a query: those within a radius in metres."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from vpr.core import ConfigError, DataError, Doubles, ImageSet, Rows

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

PAIRS_AT_ONCE = 1 << 18  # the tree gives Python lists, which take 40 bytes a pair, against 8 in an array


def positives_within(queries: ImageSet, database: ImageSet, radius_m: float) -> tuple[Rows, ...]:
    """Per query, the rows of the database images of its region at most ``radius_m`` metres away, ascending.

    Exact: a row is in if and only if dx * dx + dy * dy <= radius_m * radius_m in float64.
    Raises DataError without positions or in different zones, ConfigError for a radius that is none.
    """
    from scipy.spatial import cKDTree

    here, there = _comparable(queries, database)
    require_radius(radius_m)
    if not len(here) or not len(there):
        return (np.empty(0, dtype=np.int64),) * len(here)
    tree = cKDTree(there)
    # The tree rounds while it descends, so it gets a little more room and the rule itself decides.
    reach_m = radius_m * (1 + 1e-9) + 1e-6
    counts = tree.query_ball_point(here, reach_m, return_length=True)
    found: list[Rows] = []
    for start, end in _blocks(counts):
        found += _block(tree, here[start:end], there, radius_m, reach_m)
    if queries.regions is not None and database.regions is not None:
        regions = database.regions
        return tuple(rows[regions[rows] == own] for rows, own in zip(found, queries.regions, strict=True))
    return tuple(found)


def positives_where_placed(
    queries: ImageSet, positions: Doubles, database: ImageSet, radius_m: float
) -> tuple[tuple[Rows, ...], tuple[int, ...]]:
    """The positives of the queries that have a position, and the rows of those that have none, with no positives.

    ``positions`` (Q, 2) of the queries are metres of the database's frame; NaN where there is none.
    """
    placed = np.isfinite(positions).all(axis=1)
    rows = np.flatnonzero(placed)
    some = ImageSet(queries.root, tuple(queries.names[row] for row in rows), positions[rows], database.zone)
    found = dict(zip(rows.tolist(), positives_within(some, database, radius_m), strict=True))
    positives = tuple(found.get(row, np.empty(0, dtype=np.int64)) for row in range(len(queries)))
    return positives, tuple(np.flatnonzero(~placed).tolist())


def _blocks(counts: Rows) -> Iterator[tuple[int, int]]:
    """Ranges of queries with at most ``PAIRS_AT_ONCE`` pairs together, or one query."""
    start = pairs = 0
    for query, count in enumerate(counts.tolist()):
        if pairs + count > PAIRS_AT_ONCE and query > start:
            yield start, query
            start, pairs = query, 0
        pairs += count
    yield start, len(counts)


def _block(tree: cKDTree, here: Doubles, there: Doubles, radius_m: float, reach_m: float) -> list[Rows]:
    """The positives of a few queries, as views of one array."""
    near = tree.query_ball_point(here, reach_m, return_sorted=True)
    counts = np.array([len(rows) for rows in near], dtype=np.int64)
    rows = np.fromiter(chain.from_iterable(near), np.int64, int(counts.sum()))
    owner = np.repeat(np.arange(len(here)), counts)
    difference = here[owner] - there[rows]
    kept = difference[:, 0] ** 2 + difference[:, 1] ** 2 <= radius_m * radius_m
    ends = np.cumsum(np.bincount(owner[kept], minlength=len(here)))
    return np.split(rows[kept], ends[:-1])


def require_radius(radius_m: float) -> None:
    if not (math.isfinite(radius_m) and radius_m >= 0):
        raise ConfigError(f"radius of {radius_m} m: expected a finite number of metres, 0 or more")


def _comparable(queries: ImageSet, database: ImageSet) -> tuple[Doubles, Doubles]:
    for images, role in ((queries, "queries"), (database, "database")):
        if images.positions is None:
            raise DataError(f"{images.root}: the {role} have no positions, so none can be within a radius")
    if queries.zone and database.zone and queries.zone != database.zone:
        raise DataError(
            f"{queries.root}: queries in UTM zone {queries.zone}, database in {database.zone}; "
            "bring both into one zone before comparing them"
        )
    assert queries.positions is not None and database.positions is not None
    return queries.positions.astype(np.float64), database.positions.astype(np.float64)
