"""The first sentences of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vpr.evaluation.bootstrap import Estimate
from vpr.evaluation.comparison import Change, Summary
from vpr.evaluation.recall import RecallTable

CHANCE = 0.05  # a difference with a larger p-value is called possible chance
WITHOUT_TRUTH = (
    "No ground truth: this page shows what was found, not whether it is right.",
    "Give positions or a ground-truth file to have recall measured.",
)


def headline(summary: Summary) -> list[str]:
    """The result, then what qualifies it. Harm is said as plainly as gain."""
    tables = list(summary.recalls.values())
    first, last = tables[0], tables[-1]
    if not first.queries:
        return ["There are no queries, so there is no recall."]
    if first.unanswerable == first.queries:
        return ["No query has a positive in the database, so every recall is zero."]
    if not summary.changes:
        return [f"Recall@{first.ks[0]} is {_percents(first.over_all[0].value)[0]}.", _ceiling(summary)]
    change = summary.changes[0]
    return [
        f"Re-ranking {_effect(change.k, first.over_all[0], last.over_all[0])}.",
        *_doubt(change),
        *_harm_elsewhere(summary.changes[1:], first, last),
        _ceiling(summary),
    ]


def _effect(k: int, before: Estimate, after: Estimate) -> str:
    old, new = _percents(before.value, after.value)
    if before.value == after.value:
        return f"leaves recall@{k} at {old}"
    return f"{'raises' if after.value > before.value else 'lowers'} recall@{k} from {old} to {new}"


def _doubt(change: Change) -> list[str]:
    helped, harmed = len(change.helped), len(change.harmed)
    if helped + harmed == 0:
        return []
    chance = f", which is within chance (McNemar p = {change.p_value:.2g})" if change.p_value >= CHANCE else ""
    return [f"It helps {helped:,} {_queries(helped)} and harms {harmed:,}{chance}."]


def _harm_elsewhere(changes: Sequence[Change], first: RecallTable, last: RecallTable) -> list[str]:
    lowered = [
        "recall@{} from {} to {}".format(change.k, *_percents(before.value, after.value))
        for change, before, after in zip(changes, first.over_all[1:], last.over_all[1:], strict=True)
        if change.difference.value < 0
    ]
    return [f"It lowers {' and '.join(lowered)}."] if lowered else []


def _ceiling(summary: Summary) -> str:
    share = _percents(summary.ceiling)[0]
    if summary.shortlist == 1:
        return "The shortlist has one candidate per query, so no re-ranking can change the recall."
    return (
        f"The {summary.shortlist:,} candidates hold a positive for {share} of the queries, which bounds any re-ranking."
    )


def _percents(*fractions: float) -> list[str]:
    """Percentages with one decimal, or with as many as keep different ones apart."""
    digits = 1
    while digits < 4 and len({f"{100 * value:.{digits}f}" for value in fractions}) < len(set(fractions)):
        digits += 1
    return ["n/a" if math.isnan(value) else f"{100 * value:.{digits}f}\u00a0%" for value in fractions]


def _queries(count: int) -> str:
    return "query" if count == 1 else "queries"
