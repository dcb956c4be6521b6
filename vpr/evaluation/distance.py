"""Distances on the ground between queries and their candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vpr.core import NO_ROW, Dataset, Doubles, Rows


def distances_m(dataset: Dataset, rows: Rows, queries: Rows | None = None) -> Doubles | None:
    """Metres from each query to the database rows beside it; (Q, K), NaN at pads. All queries, or those given.

    None if a side has no positions, or if the two sides lie in different UTM zones: their coordinates
    cannot be compared.
    """
    places, origins = dataset.database.positions, dataset.queries.positions
    if places is None or origins is None or dataset.database.zone != dataset.queries.zone:
        return None
    if not len(places):
        return np.full(rows.shape, np.nan)
    origins = origins if queries is None else origins[queries]
    distances = np.linalg.norm(places[rows] - origins[:, None], axis=2)
    return np.where(rows == NO_ROW, np.nan, distances)


def recall_within(metres: Doubles, k: int, radii_m: Sequence[float]) -> tuple[float, ...]:
    """Fraction of queries with one of their first k candidates within each radius; (Q, K) metres, NaN at pads.

    The curve of recall against the distance that counts as right. NaN without queries.
    """
    if not len(metres):
        return (np.nan,) * len(radii_m)
    nearest = np.where(np.isnan(metres[:, :k]), np.inf, metres[:, :k]).min(axis=1, initial=np.inf)
    return tuple(float((nearest <= radius).mean()) for radius in radii_m)
