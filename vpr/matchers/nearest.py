"""Mutual nearest neighbours with Lowe's ratio test: the matcher that needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import MethodSettings
from vpr.core import LocalFeatures, Matches
from vpr.matchers.similarity import match_in_batches, nearest_along


class Settings(MethodSettings):
    """Settings of nearest-neighbour matching."""

    method: Literal["nearest"] = "nearest"
    ratio: float = Field(0.88, gt=0, le=1)  # nearest distance over second nearest; 1 switches the test off
    min_similarity: float = Field(-1.0, ge=-1, le=1)  # cosine below which two points never match


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
        return match_in_batches(query, candidates, self.device, self._of)

    def _of(self, similarity: Tensor, _: Sequence[LocalFeatures]) -> list[Matches]:
        forward, forward_ratio = nearest_along(similarity, dim=2)  # (K, N): for each point of the query
        backward, backward_ratio = nearest_along(similarity, dim=1)  # (K, M)
        ratio = torch.maximum(forward_ratio, backward_ratio.gather(1, forward))
        best = similarity.gather(2, forward[..., None])[..., 0]
        mutual = backward.gather(1, forward) == torch.arange(similarity.shape[1], device=self.device)
        kept = mutual & (ratio < self.settings.ratio) & (best >= self.settings.min_similarity)
        if self.settings.ratio == 1:
            kept = mutual & (best >= self.settings.min_similarity)
        return [
            Matches(torch.stack([rows := each.nonzero()[:, 0], partner[rows]], dim=1), (1 - quotient[rows]).clamp(0, 1))
            for each, partner, quotient in zip(kept.cpu(), forward.cpu(), ratio.cpu(), strict=True)
        ]


def build(settings: Settings, device: torch.device) -> Nearest:
    return Nearest(settings, device)
