"""Corners by the structure tensor, as an initial detector: labels for a first round without MagicPoint.

Shi and Tomasi, CVPR 1994. Through homographic adaptation only those corners remain that many views agree on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.local_features.superpoint_network import CELL

WINDOW = 5  # pixels
CORNER_EIGENVALUE = 1e-3  # least eigenvalue, for values in [0, 1], of a corner that is as likely as not


class Corners(nn.Module):
    """Speaks as SuperPoint's detector does: logits (B, 65, h, w) for images (B, 1, 8 h, 8 w), and nothing else."""

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        response = least_eigenvalue(images) / CORNER_EIGENVALUE
        cells = functional.pixel_unshuffle(response.square(), CELL)
        dustbin = torch.ones_like(cells[:, :1])
        return torch.cat([cells, dustbin], dim=1).clamp_min(1e-12).log(), None


def least_eigenvalue(images: Tensor) -> Tensor:
    """(B, 1, H, W) the smaller eigenvalue of the mean structure tensor of a window; edges are repeated."""
    step = torch.tensor([-0.5, 0.0, 0.5], device=images.device)
    smooth = torch.tensor([0.25, 0.5, 0.25], device=images.device)
    kernels = torch.stack([smooth[:, None] * step, step[:, None] * smooth])[:, None]
    along = functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), kernels)
    x, y = along[:, :1], along[:, 1:]
    products = torch.cat([x * x, x * y, y * y], dim=1)
    half = WINDOW // 2
    xx, xy, yy = functional.avg_pool2d(
        functional.pad(products, (half, half, half, half), mode="replicate"), WINDOW, stride=1
    ).chunk(3, dim=1)
    least: Tensor = (xx + yy) / 2 - (((xx - yy) / 2).square() + xy.square()).sqrt()
    return least.clamp_min(0)
