"""A query's candidates, read from the store while the query before it is on the GPU."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from vpr.core import NO_ROW, Ranking
from vpr.runtime.threads import one_thread_each

F = TypeVar("F")


def read_ahead(
    shortlist: Ranking, k: int, queries: Sequence[F], database: Sequence[F]
) -> Generator[tuple[F, Mapping[int, F]], None, None]:
    """Each query's features and, by their rows, those of its first k candidates, in memory a GPU copies from.

    One query ahead: of 100 candidates with 1024 points of 256 dimensions, 200 MB are in memory.
    """

    def read(query: int) -> tuple[F, Mapping[int, F]]:
        rows = shortlist.rows[query, :k]
        return queries[query], {row: pinned(database[row]) for row in rows[rows != NO_ROW].tolist()}

    with one_thread_each(1) as reader:
        upcoming = reader.submit(read, 0) if len(shortlist) else None
        for query in range(len(shortlist)):
            assert upcoming is not None
            at_hand = upcoming.result()
            if query + 1 < len(shortlist):
                upcoming = reader.submit(read, query + 1)
            yield at_hand


def pinned(features: F) -> F:
    """The same features (a dataclass) with their tensors in page-locked memory; without CUDA as they are."""
    if not torch.cuda.is_available():
        return features
    of: Any = features
    moved: F = replace(of, **{field.name: _pinned(getattr(of, field.name)) for field in fields(of)})
    return moved


def _pinned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    return tuple(_pinned(each) for each in value) if isinstance(value, tuple) else value
