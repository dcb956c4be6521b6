"""Re-ranking of many queries in blocks that survive a kill: a query that was re-ranked is never re-ranked again.

A result is found again by its query's features, its shortlist and the features of the candidates, so that a changed
shortlist, database or grouping costs the queries that it changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vpr.core import NO_ROW, Evidence, Origin, Ranking
from vpr.features.shards import ShardFolder, read_arrays
from vpr.runtime.progress import Progress

BLOCK = 16  # queries per file, and the most that a kill loses

Block: TypeAlias = Mapping[str, NDArray[Any]]  # arrays of the ranking of some queries

F = TypeVar("F")
F_contra = TypeVar("F_contra", contravariant=True)


class Reranks(Protocol[F_contra]):
    """A re-ranker by local features, patches, or whatever ``F`` is."""

    def rerank(
        self, shortlist: Ranking, queries: Sequence[F_contra], database: Sequence[F_contra], k: int | None = None
    ) -> Ranking: ...


class Reranked(NamedTuple):
    """The predictions, and for how many queries they were found in the folder."""

    ranking: Ranking
    reused: int


def rerank_into(
    folder: Path,
    origin: Origin,
    *,
    reranker: Reranks[F],
    shortlist: Ranking,
    queries: Sequence[F],
    database: Sequence[F],
    query_keys: Sequence[str],
    database_keys: Sequence[str],
    k: int | None = None,
    computing: Callable[[Sequence[str], Sequence[list[int]]], Generator[Block, None, None]] | None = None,
) -> Reranked:
    """Re-rank block by block into the folder, and return all of it; what is there already is read.

    ``k`` candidates are compared, by default as many as the re-ranker's settings say.
    The keys are the images' content keys. ``computing`` gives the results of the queries of each block in the place of
    ``reranker``, from digests of what each depends on. Raises DataError if the folder holds blocks of another origin or
    a damaged one.
    """
    keys = [_key(shortlist, query, key, database_keys) for query, key in enumerate(query_keys)]
    job = ShardFolder(folder, origin, keys, BLOCK)
    with job.writing():
        stored = job.stored()
        lacking = {query for query, key in enumerate(keys) if key not in stored}
        names = []
        done = len(keys) - len(lacking)
        slices = job.slices()
        blocks = [[query for query in items if query in lacking] for items in slices]

        def here() -> Generator[Block, None, None]:
            for todo in blocks:
                asked = [queries[query] for query in todo]
                yield ranking_arrays(reranker.rerank(shortlist.part(todo), asked, database, k)) if todo else {}

        results = here() if computing is None else computing(keys, blocks)
        with Progress("re-rank", len(keys), "query", initial=done) as progress, closing(results):
            for items, todo, fresh in zip(slices, blocks, results, strict=True):
                name = job.name_of(items, {})
                if not job.path(name).exists():
                    rows = {query: {key: array[i] for key, array in fresh.items()} for i, query in enumerate(todo)}
                    for query in items:
                        if query not in rows:
                            found = stored[keys[query]]
                            arrays = read_arrays(job.path(found.shard))
                            rows[query] = {key: array[found.place] for key, array in arrays.items()}
                    first = rows[items.start]
                    job.write(items, {key: np.stack([rows[query][key] for query in items]) for key in first})
                    progress.update(len(todo))
                names.append(name)
        job.finish(names)
    return Reranked(_join([read_arrays(job.path(name)) for name in names]), done)


def _key(shortlist: Ranking, query: int, content: str, database_keys: Sequence[str]) -> str:
    """A digest of all that the re-ranking of one query depends on, the methods apart."""
    rows = shortlist.rows[query]
    digest = hashlib.blake2b(content.encode(), digest_size=16)
    digest.update(rows.tobytes() + shortlist.scores[query].tobytes())
    for row in rows[rows != NO_ROW].tolist():
        digest.update(database_keys[row].encode() + b"\n")
    return digest.hexdigest()


def ranking_arrays(ranking: Ranking) -> dict[str, NDArray[Any]]:
    """The arrays of a ranking and of its evidence, of one row a query."""
    arrays: dict[str, NDArray[Any]] = {"rows": ranking.rows, "scores": ranking.scores}
    if ranking.evidence is not None:
        arrays |= vars(ranking.evidence)
    return arrays


def _join(blocks: Sequence[dict[str, NDArray[Any]]]) -> Ranking:
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    rows, scores = joined.pop("rows"), joined.pop("scores")
    return Ranking(rows, scores, Evidence(**joined) if joined else None)
