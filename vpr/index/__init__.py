"""Vectors to shortlist."""

from vpr.index.faiss_index import (
    FaissIndex,
    Vectors,
    build_index,
    first_per_group,
    kept_index,
    load_index,
    require_enough_rows,
    require_factory,
    shortlist,
)
from vpr.index.regions import own_region, region_indexes

__all__ = [
    "FaissIndex",
    "Vectors",
    "build_index",
    "first_per_group",
    "kept_index",
    "load_index",
    "own_region",
    "region_indexes",
    "require_enough_rows",
    "require_factory",
    "shortlist",
]
