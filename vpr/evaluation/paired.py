"""Two runs over the same queries: what changed, how certain that is, and for which queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vpr.core import NO_ROW, DataError, Dataset, ImageSet, Ranking, Rows, usable_name
from vpr.datasets.protocols import hash_of_rule
from vpr.evaluation.bootstrap import Estimate
from vpr.evaluation.clusters import each_by_group, query_groups
from vpr.evaluation.comparison import Change, change
from vpr.evaluation.identity import truth_digest
from vpr.evaluation.known import with_known_queries
from vpr.evaluation.recall import NEVER, first_hits

MAX_NAMED = 3  # images that a refusal names


@dataclass(frozen=True)
class PairedChange:
    """The second run against the first at one k."""

    change: Change  # helped and harmed are query rows of the first run
    before: float  # recall@k over all queries
    after: float
    by_group: Estimate | None  # the difference with an interval over groups of queries; None without groups


@dataclass(frozen=True)
class PairedQuery:
    """The outcome of one query."""

    query: str
    before: int | None  # rank of the first correct candidate; None if there is none
    after: int | None
    first_before: str | None  # first candidate; None without one
    first_after: str | None


@dataclass(frozen=True)
class Comparison:
    """Two rankings of the same queries, judged alike."""

    groups: str | None  # what the groups of queries are, in words
    changes: tuple[PairedChange, ...]  # one per k
    queries: tuple[PairedQuery, ...]  # in the order of the first run


def require_same_question(one: Dataset, other: Dataset) -> None:
    """Raise DataError unless both were asked the same queries over the same database by the same rule.

    The order of the queries may differ, since a query is known by its name; that of the database may not.
    """
    for dataset in (one, other):
        if dataset.positives is None:
            raise DataError(f"{dataset.name}: no ground truth, so nothing says what is right; compare runs with recall")
    if hash_of_rule(one.protocol) != hash_of_rule(other.protocol):
        raise DataError(
            f"the runs were judged by different protocols: {one.protocol!r} and {other.protocol!r}; "
            "run one of them again with the protocol of the other"
        )
    _require_same_images(one.queries, other.queries, "queries")
    _require_same_images(one.database, other.database, "database images")
    if truth_digest(one) != truth_digest(reordered(other, query_order(one, other))):
        raise DataError(
            f"{one.name}: same images and protocol, but other positions or another order of the database, "
            "so that other images are right; run both on one copy of the data set"
        )


def query_order(one: Dataset, other: Dataset) -> Rows:
    """(Q,) for each query of the first data set its row in the other."""
    rows = {usable_name(name): row for row, name in enumerate(other.queries.names)}
    return np.array([rows[usable_name(name)] for name in one.queries.names], dtype=np.int64)


def reordered(dataset: Dataset, order: Rows) -> Dataset:
    """The data set with its queries in another order."""
    positives = None if dataset.positives is None else tuple(dataset.positives[row] for row in order)
    unknown = tuple(np.flatnonzero(np.isin(order, dataset.unknown)).tolist())
    queries = dataset.queries.part(order)
    return Dataset(dataset.name, dataset.protocol, dataset.database, queries, positives, unknown)


def compare_runs(
    one: Dataset, before: Ranking, other: Dataset, after: Ranking, ks: Sequence[int], *, seed: int = 0
) -> Comparison:
    """The second run against the first, for each k in rising order, over the queries whose positives are known.

    See require_same_question for what is refused.
    """
    require_same_question(one, other)
    (one, only), (other, also) = (
        with_known_queries(data, {"": each}) for data, each in ((one, before), (other, after))
    )
    before, after = only[""], also[""]
    order = query_order(one, other)
    positives, positives_after = one.positives or (), reordered(other, order).positives or ()
    hits_before = first_hits(before, positives)
    hits_after = first_hits(Ranking(after.rows[order], after.scores[order]), positives_after)
    found = query_groups(one)
    ordered = sorted(set(ks))
    differences = [(hits_after <= k).astype(int) - (hits_before <= k) for k in ordered]
    grouped = [None] * len(ordered) if found is None else each_by_group(differences, found[0], seed=seed)
    changes = [
        _paired(change(k, hits_before <= k, hits_after <= k, seed=seed), hits_before, hits_after, estimate)
        for k, estimate in zip(ordered, grouped, strict=True)
    ]
    firsts = zip(_firsts(before, one), [_firsts(after, other)[row] for row in order], strict=True)
    ranks = zip(hits_before.tolist(), hits_after.tolist(), strict=True)
    queries = [
        PairedQuery(name, _rank(rank_before), _rank(rank_after), first_before, first_after)
        for name, (rank_before, rank_after), (first_before, first_after) in zip(
            one.queries.names, ranks, firsts, strict=True
        )
    ]
    return Comparison(None if found is None else found[1], tuple(changes), tuple(queries))


def _paired(what: Change, before: Rows, after: Rows, by_group: Estimate | None) -> PairedChange:
    if not len(before):
        return PairedChange(what, np.nan, np.nan, by_group)
    return PairedChange(what, float((before <= what.k).mean()), float((after <= what.k).mean()), by_group)


def _firsts(ranking: Ranking, dataset: Dataset) -> list[str | None]:
    rows = ranking.rows[:, 0].tolist() if ranking.width else [NO_ROW] * len(ranking)
    return [None if row == NO_ROW else dataset.database.names[row] for row in rows]


def _rank(hit: int) -> int | None:
    return None if hit == NEVER else hit


def _require_same_images(one: ImageSet, other: ImageSet, what: str) -> None:
    here, there = ({usable_name(name) for name in images.names} for images in (one, other))
    if here == there:
        return
    named = [*_some(here - there, "first"), *_some(there - here, "second")]
    raise DataError(f"the runs have different {what} ({len(one)} and {len(other)}): {'; '.join(named)}")


def _some(names: set[str], run: str) -> Iterator[str]:
    if names:
        shown = ", ".join(sorted(names)[:MAX_NAMED])
        yield f"only in the {run}: {shown}{f' and {len(names) - MAX_NAMED} more' if len(names) > MAX_NAMED else ''}"
