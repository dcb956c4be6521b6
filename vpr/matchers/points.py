"""Local features of several images as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vpr.core import LocalFeatures


@dataclass(frozen=True, eq=False)
class PointBatch:
    """Points of B images, padded at the end to one length."""

    points: Tensor  # (B, N, 2) x, y from the image's centre, normalised as the method asks
    scores: Tensor  # (B, N)
    descriptors: Tensor  # (B, N, D)
    mask: Tensor | None = None  # (B, N) True for real points; None if all are


def stack(features: Sequence[LocalFeatures], reach: float, device: torch.device) -> PointBatch:
    """Pad to the longest; a coordinate is 1 at ``reach`` times the longer side of its image from the centre."""
    packed = pad_sequence([_pack(each, reach) for each in features], batch_first=True)
    packed = packed.to(device, non_blocking=True)
    counts = [len(each) for each in features]
    mask = None
    if min(counts) < max(counts):
        mask = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).to(device, non_blocking=True)
    return PointBatch(packed[..., :2], packed[..., 2], packed[..., 3:], mask)


def _pack(features: LocalFeatures, reach: float) -> Tensor:
    points = features.points.float()
    size = points.new_tensor(features.image_size)
    if not all(features.image_size):  # unknown: like the published LightGlue, take the extent of the points
        size = 1 + points.amax(0) - points.amin(0)
    normalised = (points - size / 2) / (reach * size.max())
    return torch.cat([normalised, features.scores.float()[:, None], features.descriptors.float()], dim=1)
