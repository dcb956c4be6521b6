"""Distances on the ground between queries and their candidates."""

from __future__ import annotations

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
