"""Targets and loss of a detector for images whose keypoints are known.

The 65 classes of a cell, and the losses of DeTone et al., CVPR workshops 2018, arXiv:1712.07629.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vpr.local_features.superpoint_network import CELL
from vpr.training.homographies import warp_points
from vpr.training.randomness import generator_on

NO_POINT = CELL * CELL  # the class of a cell without a point


def point_map(points: Tensor, counts: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels, (B, height, width) bool, are the nearest to a point; (B, N, 2), of which ``counts`` are real."""
    width, height = size
    rounded = points.round().long()
    x, y = rounded.unbind(-1)
    real = torch.arange(points.shape[1], device=points.device) < counts[:, None]
    real &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
    flat = torch.zeros(len(points), height * width + 1, dtype=torch.bool, device=points.device)
    places = torch.where(real, y.clamp(0, height - 1) * width + x.clamp(0, width - 1), height * width)
    return flat.scatter(1, places, True)[:, :-1].view(-1, height, width)


def cell_classes(points: Tensor, random: torch.Generator) -> Tensor:
    """Class of each cell, (B, h, w), from a map of points (B, 8 h, 8 w); of several points in a cell any is taken."""
    cells = _cells(points.float())
    noise = torch.rand(cells.shape, generator=generator_on(cells.device, random), device=cells.device)
    best, place = (cells * (0.1 + noise)).max(1)
    return torch.where(best > 0, place, NO_POINT)


def whole_cells(valid: Tensor) -> Tensor:
    """Cells (B, h, w) all of whose pixels (B, 8 h, 8 w) are valid."""
    return _cells(valid.float()).amin(1) > 0


def detector_loss(logits: Tensor, classes: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy over the valid cells; logits (B, 65, h, w), classes and valid (B, h, w)."""
    each = functional.cross_entropy(logits.float(), classes, reduction="none")
    return (each * valid).sum() / valid.sum().clamp_min(1)


def warped_points(points: Tensor, homography: Tensor) -> Tensor:
    """Points moved; those that come to lie behind the camera go far outside."""
    moved = warp_points(points, homography)
    return torch.where(moved.isfinite(), moved, -1e6)


def _cells(pixels: Tensor) -> Tensor:
    """(B, 8 h, 8 w) to (B, 64, h, w), row-major in the cell."""
    return functional.pixel_unshuffle(pixels[:, None], CELL)
