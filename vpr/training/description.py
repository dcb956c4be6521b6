"""Losses of descriptors, chosen by name: what two views of a point should say, and what two points should not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vpr.local_features.sampling import sample
from vpr.local_features.superpoint_network import CELL
from vpr.training.homographies import inside, pixel_grid, warp_points


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Descriptors of two views of the same images, and how the first becomes the second."""

    first: Tensor  # (B, D, h, w), not normalised
    second: Tensor
    homography: Tensor  # (B, 3, 3) pixels of the first to pixels of the second
    size: tuple[int, int]  # width, height of both
    points: Tensor  # (B, N, 2) pixels of the first whose descriptors are compared, by the sparse losses


def dense(views: ViewPair, random: torch.Generator) -> Tensor:
    """All cells against all: hinge losses with margins 1 and 0.2, positives within a cell, 250 times the weight.

    DeTone et al., CVPR workshops 2018.
    """
    batch, _, height, width = views.first.shape
    centres = pixel_grid((width, height), views.first.device) * CELL + (CELL - 1) / 2
    moved = warp_points(centres.expand(batch, -1, -1), views.homography)
    near = torch.cdist(moved, centres.expand(batch, -1, -1)) <= CELL - 0.5
    valid = inside(moved, views.size).float()[..., None]
    one, other = (functional.normalize(each.float(), dim=1).flatten(2) for each in (views.first, views.second))
    similarity = one.transpose(1, 2) @ other
    loss = torch.where(near, 250 * (1 - similarity).clamp_min(0), (similarity - 0.2).clamp_min(0))
    return (loss * valid).sum() / (valid.sum() * height * width).clamp_min(1)


def sparse(views: ViewPair, random: torch.Generator) -> Tensor:
    """Points against their partners and as many others: 1 - cosine, and the cosine above 0.2.

    As in the open implementation pytorch-superpoint.
    """
    one, other, valid = _at_points(views)
    positive = (1 - (one * other).sum(-1)).clamp_min(0)
    shift = int(torch.randint(1, max(2, one.shape[1]), (), generator=random))  # never a point against itself
    negative = ((one * other.roll(shift, 1)).sum(-1) - 0.2).clamp_min(0)
    hard = ((negative > 0) & valid).sum()
    return (positive * valid).sum() / valid.sum().clamp_min(1) + (negative * valid).sum() / (hard + 1)


def softmax(views: ViewPair, random: torch.Generator, temperature: float = 0.07) -> Tensor:
    """Each point has to find its partner among all of the image, and be found by it: cross-entropy both ways.

    As in DISK (Tyszkiewicz et al., NeurIPS 2020) and XFeat (Potje et al., CVPR 2024). Points nearer than 8 pixels to
    the partner are no rivals.
    """
    one, other, valid = _at_points(views)
    moved = warp_points(views.points, views.homography)
    rivals = torch.cdist(moved, moved) > CELL
    rivals |= torch.eye(one.shape[1], dtype=torch.bool, device=one.device)
    usable = rivals & valid[:, None, :] & valid[:, :, None]
    usable |= torch.eye(one.shape[1], dtype=torch.bool, device=one.device)
    similarity = (one @ other.transpose(1, 2) / temperature).masked_fill(~usable, -1e4)
    wanted = torch.arange(one.shape[1], device=one.device).expand(len(one), -1)
    losses = [
        functional.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
        for scores in (similarity, similarity.transpose(1, 2))
    ]
    return ((losses[0] + losses[1]) / 2 * valid).sum() / valid.sum().clamp_min(1)


def _at_points(views: ViewPair) -> tuple[Tensor, Tensor, Tensor]:
    """Unit descriptors (B, N, D) of the points in both views, and which points both views see."""
    moved = warp_points(views.points, views.homography)
    valid = inside(moved, views.size, margin=2) & inside(views.points, views.size, margin=2)
    one, other = (
        sample(functional.normalize(coarse.float(), dim=1).permute(0, 2, 3, 1), points, CELL, "corrected")
        for coarse, points in ((views.first, views.points), (views.second, moved))
    )
    return one, other, valid


DESCRIPTOR_LOSSES: dict[str, Callable[[ViewPair, torch.Generator], Tensor]] = {
    "dense": dense,
    "softmax": softmax,
    "sparse": sparse,
}
