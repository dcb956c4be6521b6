"""Which database images are positives of a query: those within a radius in metres."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

from vpr.core import ConfigError, DataError, Doubles, ImageSet, Rows


def positives_within(queries: ImageSet, database: ImageSet, radius_m: float) -> tuple[Rows, ...]:
    """Per query, the rows of the database images at most ``radius_m`` metres away, ascending.

    Exact: a row is in if and only if dx * dx + dy * dy <= radius_m * radius_m in float64.
    Raises DataError without positions or in different zones, ConfigError for a radius that is none.
    """
    here, there = _comparable(queries, database)
    require_radius(radius_m)
    # The tree rounds while it descends, so it gets a little more room and the rule itself decides.
    found = cKDTree(there).query_ball_point(here, radius_m * (1 + 1e-9) + 1e-6, return_sorted=True)
    counts = np.array([len(rows) for rows in found], dtype=np.int64)
    rows = np.fromiter((row for few in found for row in few), np.int64, counts.sum())
    owner = np.repeat(np.arange(len(here)), counts)
    difference = here[owner] - there[rows]
    near = difference[:, 0] ** 2 + difference[:, 1] ** 2 <= radius_m * radius_m
    ends = np.cumsum(np.bincount(owner[near], minlength=len(here)))
    return tuple(np.split(rows[near], ends[:-1])) if len(here) else ()


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
