"""Triplets of query, positive and hard negatives, mined from cached descriptors.

Arandjelovic et al., CVPR 2016 (NetVLAD), arXiv:1511.07247; with the hyperparameters of Patch-NetVLAD on Mapillary
Street-Level Sequences (Warburg et al., CVPR 2020): positives within 10 m, negatives beyond 25 m, a cache of 1000
queries and 1000 negatives, five negatives for each query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vpr.core import DataError, Doubles, Floats, ImageSet, Rows
from vpr.positives import positives_within


@dataclass(frozen=True, eq=False)
class Triplet:
    """Rows of the query, of its positive, and of the negatives (N,), hardest first."""

    query: int
    positive: int
    negatives: Rows


@dataclass(frozen=True, eq=False)
class Subset:
    """Rows whose descriptors are in the cache at one time."""

    queries: Rows  # rows of queries with positives; often drawn ones come several times
    candidates: Rows  # rows of the database, ascending: all positives of these, and possible negatives


class TripletSet:
    """Queries and the database that they learn from, with what is near to each query.

    ``weights`` (Q,) say how often a query is drawn. Raises DataError if no query has a positive.
    """

    def __init__(
        self,
        queries: ImageSet,
        database: ImageSet,
        weights: Doubles,
        positive_radius_m: float = 10.0,
        negative_radius_m: float = 25.0,
    ) -> None:
        self.queries, self.database = queries, database
        self.positives = positives_within(queries, database, positive_radius_m)
        self.near = positives_within(queries, database, negative_radius_m)  # no negatives
        self.usable = np.array([row for row, rows in enumerate(self.positives) if len(rows)], np.int64)
        if not len(self.usable):
            raise DataError(
                f"{queries.root}: none of {len(queries)} queries has a database image within {positive_radius_m:g} m"
            )
        self.weights = weights[self.usable] / weights[self.usable].sum()

    def subsets(self, queries: int, negatives: int, random: np.random.Generator) -> Iterator[Subset]:
        """One epoch: as many draws as there are queries, in parts of about ``queries``."""
        drawn = random.choice(self.usable, len(self.usable), p=self.weights)
        for part in np.array_split(drawn, -(-len(drawn) // queries)):
            possible = random.permutation(len(self.database))[:negatives]
            positives = [self.positives[row] for row in part]
            yield Subset(part, np.unique(np.concatenate([possible, *positives])))

    def mine(self, subset: Subset, asked: Floats, found: Floats, margin: float, most: int) -> list[Triplet]:
        """Triplets of a subset whose queries have descriptors (Q, D) and whose candidates (C, D), unit rows.

        The positive is the nearest, the negatives are the nearest that come closer than it, or farther by less than
        ``margin``; distances are Euclidean. A query without such negatives has nothing to learn, and no triplet.
        """
        distances = np.sqrt(np.maximum(2 - 2 * asked @ found.T, 0))
        triplets = []
        for query, row in zip(subset.queries.tolist(), distances, strict=True):
            positives = np.flatnonzero(np.isin(subset.candidates, self.positives[query]))
            best = positives[row[positives].argmin()]
            hard = ~np.isin(subset.candidates, self.near[query]) & (row < row[best] + margin)
            order = np.flatnonzero(hard)[np.argsort(row[hard], kind="stable")][:most]
            if len(order):
                triplets.append(Triplet(query, int(subset.candidates[best]), subset.candidates[order]))
        return triplets


def weights_of(marks: Sequence[Sequence[bool]], count: int) -> Doubles:
    """Returns how often each of ``count`` queries is drawn: rare kinds, for instance night, more often.

    Each list of marks says which queries are of a kind; such a query gains one over the kind's share.
    """
    weights = np.ones(count)
    for marked in map(np.asarray, marks):
        if marked.any():
            weights[marked] += count / marked.sum()
    return weights
