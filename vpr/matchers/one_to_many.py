"""Parts of the learned matchers: one query against its candidates in batches, and matches from scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor

from vpr.core import DataError, LocalFeatures, Matches
from vpr.matchers import affinities
from vpr.matchers.affinities import keep_explained
from vpr.matchers.points import PointBatch, stack
from vpr.matchers.similarity import first_of_column
from vpr.runtime.threads import side_by_side

# Memory for the (M, N) scores of one batch; a network needs about 10 times as much. On a CPU each pair is by itself on
# one thread: without padding, and without threads that wait for each other after every product.
BATCH_BYTES = {"cpu": 0, "cuda": 256 << 20}

T = TypeVar("T")


class ScoreAgreement(affinities.Settings):
    """Settings of local affinities on top of a learned matcher's probabilities."""

    accept_threshold: float = Field(
        1.0, gt=0, le=1
    )  # a match more probable than this needs no agreement with those nearby


def match_one_to_many(
    query: LocalFeatures,
    candidates: Sequence[LocalFeatures],
    encode: Callable[[PointBatch], T],
    compare: Callable[[T, T], Tensor],
    *,
    reach: float,
    threshold: float,
    agreement: ScoreAgreement | None,
    device: torch.device,
    oriented: bool = False,
) -> list[Matches]:
    """Matches with each candidate whose score is above the threshold; images without points have none.

    ``encode`` is what a network does with images before they meet their partners; ``compare`` takes the query and a
    batch of B encoded candidates and returns log-probabilities (B, M, N). With ``agreement`` only matches that agree
    with those nearby are taken. Without it the host waits for the device once. ``oriented``: see ``stack``.
    """
    matches = [Matches.empty()] * len(candidates)
    plan = list(batches(query, candidates, device)) if len(query) else []
    if not plan:
        return matches
    mine = encode(stack([query], reach, device, oriented=oriented))

    @torch.inference_mode()
    def compared(batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        some = [candidates[i] for i in batch]
        log_scores = compare(mine, encode(stack(some, reach, device, oriented=oriented)))
        if agreement is not None:
            agreeing = keep_explained(query, some, log_scores, -log_scores.amax(2), agreement)
            log_scores = torch.where(log_scores > math.log(agreement.accept_threshold), log_scores, agreeing)
        return mutual_best(log_scores)

    found = side_by_side(compared, plan, device)
    partners, scores = (torch.cat(each).cpu() for each in zip(*found, strict=True))
    for i, partner, score in zip(chain.from_iterable(plan), partners, scores, strict=True):
        matches[i] = to_matches(partner, score, threshold)
    return matches


def mutual_best(log_scores: Tensor) -> tuple[Tensor, Tensor]:
    """The partners of mutual_partners for scores (B, M, N), and exp(score) where there is one, else 0."""
    partner, best = mutual_partners(log_scores)
    return partner, torch.where(partner >= 0, best.exp(), 0)


def mutual_partners(scores: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of (B, M, N) the column that is its best and whose best it is, else -1; and the row's best score.

    Of rows that are equally the best of a column, the first. -inf marks padded rows and columns, which never match.
    Where the largest of a column is takes a CPU 15 times as long as how large it is, so rows are compared by value.
    """
    best, forward = scores.max(2)
    mutual = (best == scores.amax(1).gather(1, forward)) & (best > -torch.inf)
    return torch.where(first_of_column(mutual, forward, scores.shape[2]), forward, -1), best


def to_matches(partner: Tensor, scores: Tensor, threshold: float) -> Matches:
    """Of one pair, from the (M,) results of mutual_best, those whose score is above the threshold."""
    rows = ((partner >= 0) & (scores > threshold)).nonzero()[:, 0]
    return Matches(torch.stack([rows, partner[rows]], dim=1), scores[rows])


def require_dim(dim: int, query: LocalFeatures, candidates: Sequence[LocalFeatures], method: str) -> None:
    """Raises DataError unless all descriptors have the length that the weights take."""
    for each in (query, *candidates):
        if len(each) and each.descriptors.shape[1] != dim:
            raise DataError(
                f"these weights of {method} take descriptors of length {dim}, the local features have "
                f"{each.descriptors.shape[1]}; choose the local features that the weights were trained with"
            )


def batches(query: LocalFeatures, candidates: Sequence[LocalFeatures], device: torch.device) -> Iterator[list[int]]:
    """Candidates that have points, those of like number together, in batches that fit the memory budget."""
    most = BATCH_BYTES.get(device.type, BATCH_BYTES["cpu"]) // 4
    batch: list[int] = []
    for i in sorted((i for i, each in enumerate(candidates) if len(each)), key=lambda i: len(candidates[i])):
        if batch and (len(batch) + 1) * len(query) * len(candidates[i]) > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
