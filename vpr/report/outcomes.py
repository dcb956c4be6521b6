"""Outcome of each query, and the choice of queries to show."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from vpr.core import Ranking, Rows
from vpr.evaluation.recall import NEVER, first_hits


class Outcome(StrEnum):
    """The fate of a query's first candidate from the shortlist to the predictions."""

    KEPT = "kept"  # right in both
    RESCUED = "rescued"  # wrong in the shortlist, right in the predictions
    MISSED = "missed"  # the shortlist holds no positive
    LOST = "lost"  # right in the shortlist, wrong in the predictions
    AMBIGUOUS = "ambiguous"  # the positive was verified nearly as well as the wrong one that is first
    WRONG = "wrong"  # the shortlist holds a positive, and neither ranks it first
    UNANSWERABLE = "unanswerable"  # the database holds no positive
    UNKNOWN = "unknown"  # no ground truth of this query


TITLES = {  # what the page calls an outcome, and what it says of it
    Outcome.KEPT: ("Right", "A positive was first from the start."),
    Outcome.RESCUED: ("Rescued", "Re-ranking put a positive first."),
    Outcome.MISSED: ("Shortlist missed it", "No positive was among the candidates, so no re-ranking could help."),
    Outcome.LOST: ("Re-ranking lost it", "A positive was first in the shortlist and is no longer."),
    Outcome.AMBIGUOUS: (
        "Ambiguous place",
        "A positive was among the candidates and has nearly as many verified matches as the wrong one, or more.",
    ),
    Outcome.WRONG: ("Ranked wrong", "A positive was among the candidates but never first."),
    Outcome.UNANSWERABLE: ("No positive exists", "The database holds no positive."),
    Outcome.UNKNOWN: ("Query", "Without ground truth."),
}
FAILURES = (Outcome.MISSED, Outcome.LOST, Outcome.AMBIGUOUS, Outcome.WRONG)
ALIKE = 0.8  # of the first candidate's verified matches make a positive its equal
EVIDENCE = 20  # verified matches: images of different places often share as many by chance


def outcomes(
    shortlist: Ranking, predictions: Ranking, positives: Sequence[Rows] | None, unknown: Sequence[int] = ()
) -> tuple[Outcome, ...]:
    """The outcome of every query; the two rankings are one and the same where nothing was re-ranked."""
    if positives is None:
        return (Outcome.UNKNOWN,) * len(shortlist)
    before, after = first_hits(shortlist, positives), first_hits(predictions, positives)
    alike = _alike(predictions, after)
    found = [
        _outcome(*hits) if len(rows) else Outcome.UNANSWERABLE
        for hits, rows in zip(zip(before.tolist(), after.tolist(), alike, strict=True), positives, strict=True)
    ]
    for query in unknown:
        found[query] = Outcome.UNKNOWN
    return tuple(found)


def _alike(predictions: Ranking, hits: Rows) -> list[bool]:
    """Whether the first correct candidate of each query was verified, and nearly as well as the first candidate."""
    if predictions.evidence is None or not predictions.width:
        return [False] * len(predictions)
    inliers = predictions.evidence.inliers
    place = np.where(hits == NEVER, 1, hits) - 1
    right, first = inliers[np.arange(len(inliers)), place], inliers[:, 0]
    alike: list[bool] = ((hits != NEVER) & (right > EVIDENCE) & (right >= ALIKE * first)).tolist()
    return alike


def _outcome(before: int, after: int, alike: bool) -> Outcome:
    if after == 1:
        return Outcome.KEPT if before == 1 else Outcome.RESCUED
    if before == 1:
        return Outcome.LOST
    if before == NEVER:
        return Outcome.MISSED
    return Outcome.AMBIGUOUS if alike else Outcome.WRONG


def shares(counts: Sequence[int], total: int) -> list[int]:
    """Divide ``total`` places among kinds that have ``counts`` each, as equally as the counts allow."""
    given = [0] * len(counts)
    for _ in range(min(total, sum(counts))):
        hungry = [kind for kind, count in enumerate(counts) if given[kind] < count]
        given[min(hungry, key=lambda kind: given[kind])] += 1
    return given


def spread(rows: Sequence[int], count: int) -> list[int]:
    """``count`` of the rows, evenly spaced: neighbours in a traverse look alike. All of them if there are fewer."""
    if count >= len(rows):
        return list(rows)
    return [rows[(2 * i + 1) * len(rows) // (2 * count)] for i in range(count)]
