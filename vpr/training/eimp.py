"""EIMP's network in training: IMP's, with the pooling on. Xue, Budvytis and Cipolla, CVPR 2023, arXiv:2304.14837.

After an iteration that reuses an attention, keypoints leave as in vpr.matchers.imp_pooling. They stay in the tensors,
masked in the attention and in the normalisation, which computes the same as dropping them. Each iteration is judged on
the keypoints that are left: one whose partner left counts as one without a partner.

Uncertainty: in iterative matching the threshold is multiplied by the share of matches that the estimated pose explains.
In training the known geometry is in the place of the pose. The published code trains without it; this form is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import Section
from vpr.matchers.imp_assignment import assignment
from vpr.matchers.imp_network import ImpNetwork, State, shares
from vpr.matchers.imp_pooling import Pooling, kept_points, received
from vpr.matchers.one_to_many import mutual_partners
from vpr.matchers.points import PointBatch
from vpr.training.correspondence import UNKNOWN, UNMATCHED, Truth

BELIEVED = 0.1  # probability of the matches that are compared with the truth, as for iterative matching's poses


class PoolingSettings(Section):
    """Which keypoints stay, in the training of EIMP."""

    threshold: float = Field(0.1, ge=0)  # those with at least this probability of any match, in sum
    min_keypoints: int = Field(256, ge=1)  # an image with no more keeps all
    uncertainty: bool = True  # multiply the threshold by the share of matches that are right


class PooledAssignment(NamedTuple):
    """Result of one iteration."""

    probabilities: Tensor  # (B, M + 1, N + 1), 0 for keypoints that left
    first: Tensor  # (B, M) keypoints that are left
    second: Tensor  # (B, N)

    def truth(self, truth: Truth) -> Truth:
        """Of the keypoints that are left; nothing is known of the others."""
        return Truth(
            _of_those_left(truth.first, self.first, self.second),
            _of_those_left(truth.second, self.second, self.first),
            truth.impossible & self.first[:, :, None] & self.second[:, None, :],
        )


class EimpNetwork(ImpNetwork):
    """IMP's network, whose keypoints leave on the way."""

    def __init__(
        self, encoder: Sequence[int], iterations: int, sinkhorn_iterations: int, pooling: PoolingSettings
    ) -> None:
        super().__init__(encoder, iterations, sinkhorn_iterations)
        self.uncertainty = pooling.uncertainty
        self.pooling = Pooling(pooling.threshold, pooling.min_keypoints)

    def forward(  # type: ignore[override]
        self, first: PointBatch, second: PointBatch, truth: Truth | None = None
    ) -> list[PooledAssignment]:
        """The assignments after each iteration; with ``truth`` uncertainty lowers the threshold of the pooling."""
        state = State(first.descriptors + self.kenc(first), second.descriptors + self.kenc(second))
        alive0, alive1 = _real(first), _real(second)
        found = []
        for iteration in range(self.iterations):
            state = self.iterate(iteration, state, alive0, alive1)
            head = self.final_proj[iteration]
            similarity = head(state.x0) @ head(state.x1).mT / self.dim**0.5
            scores = assignment(similarity, self.bin_score, self.sinkhorn_iterations, alive0, alive1)
            found.append(PooledAssignment(scores, alive0, alive1))
            if shares(iteration):
                share = self._share_right(scores.detach()[:, :-1, :-1], truth)
                alive0, alive1 = self._pooled(state, scores.detach()[:, :-1, :-1], (alive0, alive1), share)
        return found

    @torch.no_grad()
    def _pooled(
        self, state: State, scores: Tensor, alive: tuple[Tensor, Tensor], share: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        (own0, own1), (to1, to0) = state.listened  # cross: of image 0 to 1, of 1 to 0
        alive0, alive1 = alive
        heard0 = received(own0, alive0), received(to0, alive1)
        heard1 = received(own1, alive1), received(to1, alive0)
        return (
            kept_points(alive0, scores.sum(2), heard0, self.pooling, share),
            kept_points(alive1, scores.sum(1), heard1, self.pooling, share),
        )

    def _share_right(self, scores: Tensor, truth: Truth | None) -> float | Tensor:
        """(B, 1) of the matches of which it is known, the share that is right; 1 where nothing is known."""
        if truth is None or not self.uncertainty:
            return 1.0
        partner, best = mutual_partners(scores)
        judged = (partner >= 0) & (best > BELIEVED) & (truth.first != UNKNOWN)
        right = (judged & (partner == truth.first)).sum(1, keepdim=True)
        count = judged.sum(1, keepdim=True)
        return torch.where(count > 0, right / count.clamp_min(1), 1.0)


def _of_those_left(partners: Tensor, left: Tensor, others: Tensor) -> Tensor:
    there = others.gather(1, partners.clamp_min(0))
    known = partners.where((partners < 0) | there, UNMATCHED)
    return known.where(left, UNKNOWN)


def _real(batch: PointBatch) -> Tensor:
    return torch.ones_like(batch.scores, dtype=torch.bool) if batch.mask is None else batch.mask
