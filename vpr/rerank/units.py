"""Re-ranking by other processes: a unit is a block of queries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from vpr.core import Ranking
from vpr.rerank.resumable import Block, Reranks, ranking_arrays
from vpr.runtime.units import Computed, Workers


@dataclass(frozen=True, eq=False)
class RerankMethods:
    """What a worker re-ranks by, and the features of all images, by row."""

    reranker: Reranks[Any]
    queries: Sequence[Any]
    database: Sequence[Any]


@dataclass(frozen=True, eq=False)
class RerankUnit:
    """The shortlists of some queries."""

    key: str
    shortlist: Ranking
    rows: tuple[int, ...]  # of the queries
    k: int | None

    def compute(self, methods: RerankMethods) -> Computed:
        queries = [methods.queries[row] for row in self.rows]
        ranking = methods.reranker.rerank(self.shortlist, queries, methods.database, self.k)
        return Computed(ranking_arrays(ranking))


def reranked_on(
    workers: Workers,
    build: Callable[[], RerankMethods],
    shortlist: Ranking,
    keys: Sequence[str],
    rows: Sequence[list[int]],
    *,
    made_by: str,
    k: int | None,
) -> Generator[Block, None, None]:
    """The results of the queries of each block, by workers; ``keys`` say what the result of a query depends on."""

    def unit(some: Sequence[int]) -> RerankUnit:
        text = "\n".join([made_by, str(k), *(keys[row] for row in some)])
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return RerankUnit(digest, shortlist.part(some), tuple(some), k)

    with closing(workers.compute(build, [unit(some) for some in rows if some])) as results:
        for some in rows:
            yield next(results).arrays if some else {}
        assert next(results, None) is None  # all are stored, and the workers may forget them
