"""Mutual nearest neighbours with Lowe's ratio test: the matcher that needs no weights.

Matches that fail the test can be taken all the same where they agree with those nearby. Of photographs of one place by
day and by night this verifies many more, and of different places hardly any more. On one core a pair of 1,000 points
each takes 8 ms where they show different places, and 13 where they show the same; without, 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import MethodSettings
from vpr.core import LocalFeatures, Matches
from vpr.matchers import affinities
from vpr.matchers.similarity import Neighbours, neighbours_in_batches


class RatioAgreement(affinities.Settings):
    """Settings of local affinities, for matches that are not clear by themselves."""

    ratio: float = Field(0.96, ge=0, le=1)  # a match below this is taken if it agrees with those nearby; 0 for none
    min_confidence: float = Field(50.0, ge=1)  # lower than where all nearest neighbours are used


class Settings(MethodSettings):
    """Settings of nearest-neighbour matching."""

    method: Literal["nearest"] = "nearest"
    ratio: float = Field(0.88, gt=0, le=1)  # nearest distance over second nearest; 1 switches the test off
    agreement: RatioAgreement = RatioAgreement()
    min_similarity: float = Field(-1.0, ge=-1, le=1)  # cosine below which two points never match
    similarity: Literal["float32", "int8"] = "float32"  # how it is computed on a CPU; elsewhere in float32


RATIO_ONLY = Settings(agreement=RatioAgreement(ratio=0.0))  # the cheapest


class Nearest:
    """Matches whose points are each other's nearest, and clearly nearer than the second nearest, in both directions.

    The score of a match is 1 - the larger of the two ratios: 0 for a match as good as its rival, 1 for one without.
    """

    weights = ""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings = settings
        self.device = device

    @torch.inference_mode()
    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        matches = [Matches.empty()] * len(candidates)
        integers = self.settings.similarity == "int8"
        for batch, found in neighbours_in_batches(query, candidates, self.device, integers=integers):
            for i, each in zip(batch, self._of(query, found, [candidates[i] for i in batch]), strict=True):
                matches[i] = each
        return matches

    def _of(self, query: LocalFeatures, found: Neighbours, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        forward, ratio = found.nearest, found.ratio
        mutual = found.mutual & (found.cosine >= self.settings.min_similarity)
        kept = mutual & (ratio < self.settings.ratio) if self.settings.ratio < 1 else mutual
        if self.settings.agreement.ratio > self.settings.ratio:
            kept |= _agreeing(query, candidates, forward, ratio.where(mutual, torch.inf), self.settings.agreement)
        return [
            Matches(torch.stack([rows := each.nonzero()[:, 0], partner[rows]], dim=1), (1 - quotient[rows]).clamp(0, 1))
            for each, partner, quotient in zip(kept.cpu(), forward.cpu(), ratio.cpu(), strict=True)
        ]


def _agreeing(
    query: LocalFeatures, candidates: Sequence[LocalFeatures], partner: Tensor, ratio: Tensor, settings: RatioAgreement
) -> Tensor:
    """(K, N) of partners (K, N), which agree with those nearby; those without one have an infinite ratio."""
    points, others, areas = affinities.places_of(query, candidates, ratio.device)
    ambiguity = ratio.masked_fill(ratio >= settings.ratio, torch.inf)
    matches = affinities.Tentative(points, affinities.rows_of(others, partner), ambiguity, ambiguity.isfinite(), areas)
    return affinities.agrees(matches, affinities.find_affinities(matches, settings), settings.tolerance)


def build(settings: Settings, device: torch.device) -> Nearest:
    return Nearest(settings, device)
