"""Recall@k of a ranking: over all queries, and over those that have a correct answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import NO_ROW, DataError, ImageSet, Ranking, Rows
from vpr.evaluation.bootstrap import SAMPLES, Estimate, interval, resample

PAIRS_AT_ONCE = 1 << 20  # positives compared together; each takes 32 bytes
NEVER = int(np.iinfo(np.int64).max)  # the rank of a correct candidate that the ranking does not hold


@dataclass(frozen=True)
class RecallTable:
    """Recall at several k. A query without positives is a miss over all queries, and left out of the answerable."""

    ks: tuple[int, ...]  # rising
    over_all: tuple[Estimate, ...]  # one per k, fractions in [0, 1]
    over_answerable: tuple[Estimate, ...]
    queries: int
    unanswerable: int  # queries without a positive in the database


def right_candidates(ranking: Ranking, positives: Sequence[Rows]) -> NDArray[np.bool_]:
    """Which places of the ranking hold a positive of their query; (Q, K). Raises DataError if the queries differ."""
    if len(positives) != len(ranking):
        raise DataError(
            f"ground truth for {len(positives)} queries, but a ranking of {len(ranking)}; "
            "use the ground truth and the predictions of one query list"
        )
    right = np.zeros(ranking.rows.shape, dtype=np.bool_)
    counts = np.array([len(rows) for rows in positives], dtype=np.int64)
    for block in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(counts.cumsum() // PAIRS_AT_ONCE)) + 1):
        if len(block):
            queries = slice(block[0], block[-1] + 1)
            right[queries] = _right(ranking.rows[queries], positives[queries])
    return right


def _right(ranked: Rows, positives: Sequence[Rows]) -> NDArray[np.bool_]:
    truth = np.concatenate([np.empty(0, dtype=np.int64), *positives])
    if not len(truth):
        return np.zeros(ranked.shape, dtype=np.bool_)
    # One number per query and row: a single search, ten times faster than np.isin on 27,592 queries x 100,
    # because both sides rise with the query.
    stride = max(int(ranked.max(initial=0)), int(truth.max())) + 1
    query = np.arange(len(positives))
    wanted = np.sort(np.repeat(query, [len(rows) for rows in positives]) * stride + truth)
    found = np.where(ranked == NO_ROW, -1, query[:, None] * stride + ranked)
    right: NDArray[np.bool_] = wanted[np.searchsorted(wanted, found).clip(max=len(wanted) - 1)] == found
    return right


def first_hits(ranking: Ranking, positives: Sequence[Rows]) -> Rows:
    """Rank of the first correct candidate of each query, counted from 1; NEVER where there is none. (Q,) int64."""
    right = right_candidates(ranking, positives)
    hits: Rows = np.where(right, np.arange(1, ranking.width + 1), NEVER).min(axis=1, initial=NEVER)
    return hits


def recall_at(
    ranking: Ranking,
    positives: Sequence[Rows],
    ks: Sequence[int],
    database: ImageSet,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> RecallTable:
    """Fraction of queries with at least one positive among their first k candidates.

    Place recognition's recall@k (Arandjelovic et al., CVPR 2016); text retrieval says success@k.
    A k beyond the last candidate of a complete ranking means the whole list. Raises DataError for a k below 1
    and for a ranking that is narrower than k although the database has more to offer.
    """
    ks = _checked(ks, ranking, database)
    hits = first_hits(ranking, positives)
    answerable = np.array([len(rows) > 0 for rows in positives], dtype=np.bool_)
    return RecallTable(
        ks,
        _estimates(hits, ks, samples, seed),
        _estimates(hits[answerable], ks, samples, seed),
        queries=len(hits),
        unanswerable=int(np.count_nonzero(~answerable)),
    )


def place_count(ranking: Ranking, database: ImageSet) -> int:
    """Returns the number of candidates that a complete ranking of this kind has.

    All images; or all groups, if the ranking names every group at most once (one image per panorama).
    """
    if database.groups is None or not ranking.width:
        return len(database)
    padding = -1 - np.arange(ranking.width)  # so that two pads are not two images of one group
    groups = np.unique(database.groups, return_inverse=True)[1]
    ranked = np.sort(np.where(ranking.rows == NO_ROW, padding, groups[ranking.rows]), axis=1)
    repeats = (ranked[:, 1:] == ranked[:, :-1]).any()
    return len(database) if repeats else int(groups.max(initial=-1)) + 1


def _checked(ks: Sequence[int], ranking: Ranking, database: ImageSet) -> tuple[int, ...]:
    ks = tuple(sorted({int(k) for k in ks}))
    if not ks or ks[0] < 1:
        raise DataError(f"recall@k for k in {list(ks)}: give at least one k, each 1 or more")
    if ks[-1] > ranking.width and ranking.width < place_count(ranking, database):
        raise DataError(
            f"recall@{ks[-1]} needs {ks[-1]} candidates per query, but the ranking holds {ranking.width} "
            f"of a database of {len(database)}; make a wider shortlist or ask for a smaller k"
        )
    return ks


def _estimates(hits: Rows, ks: tuple[int, ...], samples: int, seed: int) -> tuple[Estimate, ...]:
    return tuple(_estimate(len(hits), int(np.count_nonzero(hits <= k)), samples, seed) for k in ks)


def _estimate(queries: int, right: int, samples: int, seed: int) -> Estimate:
    """Every k is drawn anew from the seed, so an interval does not depend on which other k are asked for."""
    if not queries:
        return Estimate(np.nan, np.nan, np.nan)
    low, high = interval(resample(np.array([right, queries - right]), samples, seed)[:, 0] / queries)
    return Estimate(right / queries, float(low), float(high))
