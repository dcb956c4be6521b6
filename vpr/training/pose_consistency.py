"""Loss of matches that do not give the pose: after IMP (Xue, Budvytis and Cipolla, CVPR 2023, arXiv:2304.14837).

A fundamental matrix is estimated from the matches, each weighted by its probability, with the eight-point algorithm;
the loss is how far the true matches are from its epipolar lines. The published code leaves this loss out; the weights
and bounds here are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpr.training.correspondence import Truth

SAMPLE = 8  # matches that a fundamental matrix takes
MOST = 256  # matches that it is estimated from, the most probable
DEFINITE = 1e-3  # of the smallest two singular values over the largest: below, the scene is flat or the camera still
FURTHEST = 0.05  # from a line, in normalised coordinates; a match further away teaches nothing


def pose_consistency_loss(probabilities: Tensor, points: Tensor, others: Tensor, truth: Truth) -> Tensor:
    """Mean distance of true matches from the epipolar lines of the estimated matrix, in hundredths of a coordinate.

    ``probabilities`` are (B, M + 1, N + 1), points (B, M, 2) and (B, N, 2) normalised. Pairs with fewer than 8 true
    or found matches, and those whose matches fit many matrices, count as 0.
    """
    losses = [
        _of_pair(*each) for each in zip(probabilities[:, :-1, :-1].float(), points, others, truth.first, strict=True)
    ]
    return torch.stack(losses).mean()


def _of_pair(probabilities: Tensor, points: Tensor, others: Tensor, partners: Tensor) -> Tensor:
    nothing = probabilities.sum() * 0
    matched = (partners >= 0).nonzero()[:, 0]
    weight, column = probabilities.max(1)
    chosen = weight.detach().topk(min(MOST, len(weight))).indices
    if min(len(matched), len(chosen)) < SAMPLE:
        return nothing
    with torch.autocast(probabilities.device.type, enabled=False):
        fundamental = _eight_points(points[chosen].double(), others[column[chosen]].double(), weight[chosen].double())
        if fundamental is None:
            return nothing
        away = _distances(fundamental, points[matched].double(), others[partners[matched]].double())
    return 100 * away.clamp_max(FURTHEST).mean().to(probabilities.dtype)


def _eight_points(first: Tensor, second: Tensor, weights: Tensor) -> Tensor | None:
    """The matrix (3, 3) with the smallest weighted sum of squares of x1' F x0; None if several fit."""
    x0, x1 = (torch.nn.functional.pad(each, (0, 1), value=1.0) for each in (first, second))
    rows = (x1[:, :, None] * x0[:, None, :]).flatten(1) * weights[:, None].clamp_min(1e-6)
    values, vectors = torch.linalg.eigh(rows.mT @ rows)
    smallest, second, *_, largest = values.detach().clamp_min(0).sqrt().tolist()
    gap = (second - smallest) / max(largest, 1e-12)
    return vectors[:, 0].view(3, 3) if gap > DEFINITE else None


def _distances(fundamental: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """(K,) mean distance of both points from their lines."""
    x0, x1 = (torch.nn.functional.pad(each, (0, 1), value=1.0) for each in (first, second))
    lines1, lines0 = x0 @ fundamental.T, x1 @ fundamental
    product = (x1 * lines1).sum(1).abs()
    lengths = (each[:, :2].norm(dim=1).clamp_min(1e-9) for each in (lines0, lines1))
    return sum((product / each for each in lengths), torch.zeros_like(product)) / 2
