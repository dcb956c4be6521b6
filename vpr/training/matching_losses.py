"""Loss of a matcher: negative log-likelihood of the true partners, of having none, and of no impossible one.

SuperGlue (Sarlin et al., CVPR 2020); for LightGlue (Lindenberger et al., ICCV 2023) the mean over its layers, and the
confidence with which a point says that further layers would change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vpr.matchers.lightglue_network import LayerResult
from vpr.matchers.one_to_many import mutual_best
from vpr.training.correspondence import UNKNOWN, UNMATCHED, Truth

LEAST = -30.0  # log of a probability; a point that is given up for good still teaches
MOST = 0.999  # probability of what is wrong; one with full confidence does not outweigh all others


class AssignmentLoss(NamedTuple):
    """Means over the pairs of which anything of the kind is known."""

    matched: Tensor  # -log P of the partners
    unmatched: Tensor  # -log P of the dustbin for points without one
    misplaced: Tensor  # -log (1 - P) of all partners together that a point cannot have

    @property
    def total(self) -> Tensor:
        return (self.matched + self.unmatched + self.misplaced) / 2


def assignment_loss(log_assignment: Tensor, truth: Truth) -> AssignmentLoss:
    """Returns the loss of an assignment (B, M + 1, N + 1).

    The third part is for images of which only the epipolar lines are known, where SuperGlue's two say nothing of
    points without a partner.
    """
    scores = log_assignment.float().clamp_min(LEAST)
    partner = scores[:, :-1].gather(2, truth.first.clamp_min(0)[..., None])[..., 0]
    matched = truth.first >= 0
    matches = _mean(-(partner * matched).sum(1) / matched.sum(1).clamp_min(1), matched.any(1))
    lonely = []
    for side, dustbin in ((truth.first, scores[:, :-1, -1]), (truth.second, scores[:, -1, :-1])):
        alone = side == UNMATCHED
        lonely.append(_mean(-(dustbin * alone).sum(1) / alone.sum(1).clamp_min(1), alone.any(1)))
    wrong = scores[:, :-1, :-1].exp() * truth.impossible
    given = truth.impossible.flatten(1).any(1)
    misplaced = [_mean(-torch.log1p(-wrong.sum(axis).clamp_max(MOST)).mean(1), given) for axis in (1, 2)]
    return AssignmentLoss(matches, (lonely[0] + lonely[1]) / 2, (misplaced[0] + misplaced[1]) / 2)


def confidence_loss(results: Sequence[LayerResult]) -> Tensor:
    """Binary cross-entropy of saying "final" where a layer's match is already the last layer's."""
    final = _decisions(results[-1].log_assignment)
    losses = []
    for result in results[:-1]:
        for confidence, now, last in zip(
            (result.confidence0, result.confidence1), _decisions(result.log_assignment), final, strict=True
        ):
            assert confidence is not None
            said = confidence.float().clamp(1e-6, 1 - 1e-6)
            losses.append(functional.binary_cross_entropy(said, (now == last).float()))
    return torch.stack(losses).mean() if losses else results[-1].log_assignment.new_zeros(())


def judge(log_assignment: Tensor, truth: Truth, threshold: float) -> dict[str, Tensor]:
    """Counts over pairs (B,): matches above the threshold, those that are right or wrong, and true partners.

    A match of a point of which nothing is known, not even that this partner is impossible, counts as neither right
    nor wrong.
    """
    partner, scores = mutual_best(log_assignment[:, :-1, :-1])
    found = (partner >= 0) & (scores > threshold)
    right = found & (partner == truth.first)
    impossible = truth.impossible.gather(2, partner.clamp_min(0)[..., None])[..., 0]
    return {
        "found": found.sum(1),
        "right": right.sum(1),
        "wrong": (found & ~right & ((truth.first != UNKNOWN) | impossible)).sum(1),
        "wanted": (truth.first >= 0).sum(1),
    }


class MatchCounts:
    """Adds up what ``judge`` counts."""

    def __init__(self) -> None:
        self.right = self.wrong = self.wanted = 0

    def add(self, counts: dict[str, Tensor]) -> None:
        self.right += int(counts["right"].sum())
        self.wrong += int(counts["wrong"].sum())
        self.wanted += int(counts["wanted"].sum())

    def figures(self, prefix: str) -> dict[str, float]:
        precision, recall = self.right / max(1, self.right + self.wrong), self.right / max(1, self.wanted)
        f_score = 2 * precision * recall / max(1e-9, precision + recall)
        return {f"{prefix}f_score": f_score, f"{prefix}precision": precision, f"{prefix}recall": recall}


def _decisions(log_assignment: Tensor) -> tuple[Tensor, Tensor]:
    return log_assignment[:, :-1].argmax(2).detach(), log_assignment[:, :, :-1].argmax(1).detach()


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp_min(1)
