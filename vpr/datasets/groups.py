"""Group numbers, which the cut-outs of one panorama share, and regions, within which queries are searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vpr.core import ConfigError, DataError, Dataset, Rows


def by_label(labels: Sequence[str]) -> Rows:
    """(N,) numbers, equal exactly where the labels are, counted in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def consecutive(count: int, size: int) -> Rows:
    """(count,) numbers of groups of ``size`` neighbouring rows, as Tokyo 24/7 lists its 12 cut-outs a panorama."""
    if size < 1:
        raise ConfigError(f"a group of {size} images makes no sense; give 1 or more")
    if count % size:
        raise DataError(f"{count} database images do not divide into groups of {size}; give the size that was cut")
    return np.arange(count, dtype=np.int64) // size


def without_regions(dataset: Dataset) -> Dataset:
    """The data set with every query searched in the whole database."""
    return with_regions(dataset, None, None)


def with_regions(dataset: Dataset, database: Rows | None, queries: Rows | None) -> Dataset:
    """The data set with every query searched among the database images of its region."""
    return replace(
        dataset,
        database=replace(dataset.database, regions=database),
        queries=replace(dataset.queries, regions=queries),
    )
