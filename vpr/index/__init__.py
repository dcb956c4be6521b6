"""Vectors to shortlist."""

from vpr.index.faiss_index import FaissIndex, build_index, first_per_group, load_index, shortlist

__all__ = ["FaissIndex", "build_index", "first_per_group", "load_index", "shortlist"]
