"""Re-ranking of many queries in blocks that survive a kill: a finished block is never computed again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tqdm import tqdm

from vpr.core import DataError, Evidence, Origin, Ranking
from vpr.features.shards import ShardFolder

BLOCK = 16  # queries per file, and the most that a kill loses

F = TypeVar("F")
F_contra = TypeVar("F_contra", contravariant=True)


class Reranks(Protocol[F_contra]):
    """A re-ranker by local features, patches, or whatever ``F`` is."""

    def rerank(self, shortlist: Ranking, queries: Sequence[F_contra], database: Sequence[F_contra]) -> Ranking: ...


def rerank_into(
    folder: Path,
    origin: Origin,
    *,
    reranker: Reranks[F],
    shortlist: Ranking,
    queries: Sequence[F],
    database: Sequence[F],
) -> Ranking:
    """Re-rank block by block into the folder, and return all of it; blocks that are there already are read.

    Raises DataError if the folder holds blocks of another origin or a damaged one.
    """
    job = ShardFolder(folder, origin, len(shortlist), BLOCK)
    with job.writing():
        missing = job.missing()
        done = len(shortlist) - sum(len(job.items_of(block)) for block in missing)
        with tqdm(total=len(shortlist), initial=done, desc="re-rank", unit="query", disable=None) as progress:
            for block in missing:
                items = job.items_of(block)
                part = _part(shortlist, items)
                ranking = reranker.rerank(part, [queries[item] for item in items], database)
                job.write(block, _arrays(ranking))
                progress.update(len(items))
    return _join([_read(job.shard_path(block)) for block in range(job.shard_count)])


def _part(ranking: Ranking, items: range) -> Ranking:
    return Ranking(ranking.rows[items.start : items.stop], ranking.scores[items.start : items.stop])


def _arrays(ranking: Ranking) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"rows": ranking.rows, "scores": ranking.scores}
    if ranking.evidence is not None:
        arrays |= vars(ranking.evidence)
    return arrays


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: damaged: {error}; delete it and run again") from None
    return arrays


def _join(blocks: Sequence[dict[str, NDArray[Any]]]) -> Ranking:
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    rows, scores = joined.pop("rows"), joined.pop("scores")
    return Ranking(rows, scores, Evidence(**joined) if joined else None)
