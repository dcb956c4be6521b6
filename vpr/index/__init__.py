"""Vectors to shortlist."""

from vpr.index.faiss_index import (
    FaissIndex,
    Vectors,
    build_index,
    first_per_group,
    kept_index,
    load_index,
    require_factory,
    shortlist,
)

__all__ = [
    "FaissIndex",
    "Vectors",
    "build_index",
    "first_per_group",
    "kept_index",
    "load_index",
    "require_factory",
    "shortlist",
]
