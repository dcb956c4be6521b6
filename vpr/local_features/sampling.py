"""Descriptors at keypoints, from a coarse map of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Sampling = Literal["published", "corrected"]


def sample(coarse: Tensor, keypoints: Tensor, cell: int, sampling: Sampling) -> Tensor:
    """Unit descriptors (B, N, D) at pixels (B, N, 2) x, y, interpolated between the four nearest cells.

    ``coarse`` is (B, h, w, D) unit vectors, one per ``cell`` pixels. "corrected" knows where the cells' centres are.
    "published" is how the first SuperPoint interpolates: from 0 pixels off at the left and top edge to nearly half a
    cell off at the right and bottom one.
    """
    batch, height, width, _ = coarse.shape
    size = keypoints.new_tensor([width, height])
    places = keypoints - (cell - 1) / 2
    places = places / cell if sampling == "corrected" else places / (cell * size - cell / 2 - 0.5) * (size - 1)
    corner = places.floor()
    beyond, corner = places - corner, corner.long()
    columns = coarse.flatten(1, 2)
    images = torch.arange(batch, device=coarse.device)[:, None]
    total = torch.zeros((), device=coarse.device)
    for right in (0, 1):
        for down in (0, 1):
            x, y = corner[..., 0] + right, corner[..., 1] + down
            weight = (beyond[..., 0] if right else 1 - beyond[..., 0]) * (
                beyond[..., 1] if down else 1 - beyond[..., 1]
            )
            weight = weight * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
            nearest = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            total = total + weight[..., None] * columns[images, nearest]
    return functional.normalize(total, dim=-1)
