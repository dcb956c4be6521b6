"""Search within regions: a query's candidates are database images of its own region, as in the cities of MSLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vpr.core import NO_ROW, Floats, Ranking, Rows
from vpr.index.faiss_index import FaissIndex, Vectors, shortlist


@dataclass(frozen=True, eq=False)
class RegionPart:
    """The descriptors of some rows of a database."""

    whole: Vectors
    rows: Rows  # (n,) ascending

    @property
    def dim(self) -> int:
        return self.whole.dim

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[Floats]:
        first = 0
        for block in self.whole.blocks():
            low, high = np.searchsorted(self.rows, (first, first + len(block)))
            yield block[self.rows[low:high] - first]
            first += len(block)


@dataclass(frozen=True, eq=False)
class RegionIndexes:
    """An index of each region's database images."""

    indexes: dict[int, FaissIndex]  # by number of the region
    rows: dict[int, Rows]  # database row of each image of a region
    images: int  # in the database

    def search(self, queries: Floats, regions: Rows, k: int, groups: Rows | None, parameters: str) -> Ranking:
        """The k best database rows of each query's region; as ``shortlist`` for one region.

        A query of a region without database images has no candidates.
        """
        width = min(k, self.images)
        rows = np.full((len(queries), width), NO_ROW, dtype=np.int64)
        scores = np.full((len(queries), width), -np.inf, dtype=np.float32)
        for region in np.unique(regions).tolist():
            if region not in self.indexes:
                continue
            asked, own = np.flatnonzero(regions == region), self.rows[region]
            found = shortlist(
                self.indexes[region], queries[asked], k, None if groups is None else groups[own], parameters
            )
            columns = slice(0, min(width, found.width))
            rows[asked, columns] = np.where(found.rows == NO_ROW, NO_ROW, own[found.rows])[:, columns]
            scores[asked, columns] = found.scores[:, columns]
        return Ranking(rows, scores)


def region_indexes(vectors: Vectors, regions: Rows, build: Callable[[Vectors, Rows], FaissIndex]) -> RegionIndexes:
    """An index of each region, which ``build`` makes of the region's descriptors and their rows."""
    rows = {region: np.flatnonzero(regions == region) for region in np.unique(regions).tolist()}
    indexes = {region: build(RegionPart(vectors, own), own) for region, own in rows.items()}
    return RegionIndexes(indexes, rows, len(regions))


def own_region(ranking: Ranking, of_database: Rows, of_queries: Rows) -> Ranking:
    """The ranking without the candidates of other regions than the query's; its width stays."""
    kept = (ranking.rows != NO_ROW) & (of_database[ranking.rows] == of_queries[:, None])
    order = np.argsort(~kept, axis=1, kind="stable")
    rows = np.take_along_axis(np.where(kept, ranking.rows, NO_ROW), order, axis=1)
    scores = np.take_along_axis(np.where(kept, ranking.scores, -np.inf).astype(np.float32), order, axis=1)
    return Ranking(rows, scores)
