"""Queries whose positives are known: those that count in a recall."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vpr.core import Dataset, Ranking, Rows


def known_queries(dataset: Dataset) -> Rows:
    """Rows of the queries whose positives are known, ascending; all of them in most data sets."""
    return np.setdiff1d(np.arange(len(dataset.queries)), np.array(dataset.unknown, dtype=np.int64))


def with_known_queries(dataset: Dataset, stages: Mapping[str, Ranking]) -> tuple[Dataset, Mapping[str, Ranking]]:
    """The data set and its rankings without the queries whose positives are not known."""
    if not dataset.unknown:
        return dataset, stages
    rows = known_queries(dataset)
    positives = None if dataset.positives is None else tuple(dataset.positives[row] for row in rows)
    kept = Dataset(dataset.name, dataset.protocol, dataset.database, dataset.queries.part(rows), positives)
    return kept, {label: ranking.part(rows) for label, ranking in stages.items()}
