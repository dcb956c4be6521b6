"""Effect of re-ranking: queries helped and harmed, and whether the difference could be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vpr.core import NO_ROW, DataError, Dataset, Ranking, Rows
from vpr.datasets.protocols import hash_of_rule
from vpr.evaluation.bootstrap import SAMPLES, Estimate, interval, resample
from vpr.evaluation.identity import truth_digest
from vpr.evaluation.known import known_queries, with_known_queries
from vpr.evaluation.recall import NEVER, RecallTable, first_hits, recall_at

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Change:
    """The queries that gained or lost a correct candidate within the first k."""

    k: int
    helped: tuple[int, ...]  # query rows: wrong before, right after
    harmed: tuple[int, ...]  # query rows: right before, wrong after
    difference: Estimate  # recall@k after less before, over all queries
    p_value: float  # McNemar's exact test, two-sided


@dataclass(frozen=True)
class Summary:
    """All that a report says about recall."""

    dataset: str
    protocol: str
    recalls: Mapping[str, RecallTable]  # by stage, in order
    shortlist: int  # most candidates that a query has in the first stage
    ceiling: float  # fraction of queries whose shortlist holds a correct candidate: no re-ranking can exceed it
    changes: tuple[Change, ...]  # from the first stage to the last, one per k; empty for a single stage
    protocol_hash: str  # of the rule
    ground_truth: str  # digest of the images the rule was applied to
    unknown: int = 0  # queries whose positives are not known; they are in no number above


def summarise(
    dataset: Dataset,
    stages: Mapping[str, Ranking],
    ks: Sequence[int],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Summary:
    """Measure each stage, and the last against the first, over the queries whose positives are known.

    Raises DataError without ground truth or stages.
    """
    if dataset.positives is None:
        raise DataError(f"{dataset.name}: recall needs ground truth; give positions or a ground-truth file")
    if not stages:
        raise DataError(f"{dataset.name}: no ranking to evaluate")
    known, stages = with_known_queries(dataset, stages)
    positives = known.positives or ()
    recalls = {
        label: recall_at(ranking, positives, ks, dataset.database, samples=samples, seed=seed)
        for label, ranking in stages.items()
    }
    shortlist, *others = stages.values()
    found = compare(shortlist, others[-1], positives, ks, samples=samples, seed=seed) if others else ()
    changes = tuple(_of_all(change, known_queries(dataset)) for change in found)
    candidates = int(np.count_nonzero(shortlist.rows != NO_ROW, axis=1).max(initial=0))
    return Summary(
        dataset.name,
        dataset.protocol,
        recalls,
        candidates,
        ceiling(shortlist, positives),
        changes,
        hash_of_rule(dataset.protocol),
        truth_digest(dataset),
        len(dataset.unknown),
    )


def _of_all(what: Change, known: Rows) -> Change:
    """The change with the rows of the queries in the whole data set, of which ``known`` were compared."""
    helped, harmed = (tuple(known[list(rows)].tolist()) for rows in (what.helped, what.harmed))
    return replace(what, helped=helped, harmed=harmed)


def ceiling(shortlist: Ranking, positives: Sequence[Rows]) -> float:
    """Recall that a perfect re-ranker of the shortlist would reach at any k; NaN without queries."""
    return float((first_hits(shortlist, positives) < NEVER).mean()) if len(shortlist) else np.nan


def compare(
    before: Ranking,
    after: Ranking,
    positives: Sequence[Rows],
    ks: Sequence[int],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[Change, ...]:
    """Returns the changes within the first k of the same queries, for each k in rising order."""
    hits_before, hits_after = first_hits(before, positives), first_hits(after, positives)
    return tuple(change(k, hits_before <= k, hits_after <= k, samples, seed) for k in sorted(set(ks)))


def mcnemar(helped: int, harmed: int) -> float:
    """Probability of a split at least this uneven, were help and harm equally likely; 1 if nothing changed."""
    from scipy.stats import binomtest

    return float(binomtest(helped, helped + harmed).pvalue) if helped + harmed else 1.0


def change(k: int, right_before: Flags, right_after: Flags, samples: int = SAMPLES, seed: int = 0) -> Change:
    """Returns the change at one k, from (Q,) flags of the same queries in the same order."""
    helped = np.flatnonzero(~right_before & right_after)
    harmed = np.flatnonzero(right_before & ~right_after)
    difference = _difference(len(right_before), len(helped), len(harmed), samples, seed)
    return Change(k, tuple(helped.tolist()), tuple(harmed.tolist()), difference, mcnemar(len(helped), len(harmed)))


def _difference(queries: int, helped: int, harmed: int, samples: int, seed: int) -> Estimate:
    if not queries:
        return Estimate(np.nan, np.nan, np.nan)
    draws = resample(np.array([helped, harmed, queries - helped - harmed]), samples, seed)
    low, high = interval((draws[:, 0] - draws[:, 1]) / queries)
    return Estimate((helped - harmed) / queries, float(low), float(high))
