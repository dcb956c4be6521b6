"""Local features of several images as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vpr.core import DataError, LocalFeatures


@dataclass(frozen=True, eq=False)
class PointBatch:
    """Points of B images, padded at the end to one length."""

    points: Tensor  # (B, N, 2) x, y from the image's centre, normalised as asked; (B, N, 4) with size and orientation
    scores: Tensor  # (B, N)
    descriptors: Tensor  # (B, N, D)
    mask: Tensor | None = None  # (B, N) True for real points; None if all are


@dataclass(frozen=True, eq=False)
class KeptPoints:
    """Where some of the points of B images are, moved to the front."""

    rows: Tensor  # (B, 1) with places: indexes of x[rows, places]
    places: Tensor  # (B, K)
    index: Tensor  # (B, K) which point of the input each is; where padded, the number of points of the input
    mask: Tensor | None  # (B, K) True for real points; None if all are


def keep_points(index: Tensor, kept: Tensor, padding: int) -> KeptPoints | None:
    """The points that ``kept``, (B, N), says, in their order; None if all are kept.

    ``index`` (B, N) says which point of the input each is, and ``padding`` is the index of padded ones.
    """
    counts = kept.sum(1)
    width, least = int(counts.max()), int(counts.min())
    if least == kept.shape[1]:
        return None
    places = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    mask = torch.arange(width, device=kept.device) < counts[:, None]
    rows = torch.arange(len(kept), device=kept.device)[:, None]
    return KeptPoints(rows, places, torch.where(mask, index[rows, places], padding), None if least == width else mask)


def stack(
    features: Sequence[LocalFeatures], reach: float, device: torch.device, *, oriented: bool = False
) -> PointBatch:
    """Pad to the longest; a coordinate is 1 at ``reach`` times the longer side of its image from the centre.

    ``oriented``: points have size (pixels) and orientation (radians) of their keypoints as well; features without
    them are refused with DataError. Tensors in page-locked memory are copied to a GPU while the host goes on.
    """
    points, scores, descriptors = (
        pad_sequence([each.to(device, non_blocking=True).float() for each in column], batch_first=True)
        for column in zip(*((each.keypoints, each.scores, each.descriptors) for each in features), strict=True)
    )
    sizes = torch.tensor([size_of(each) for each in features]).to(device, non_blocking=True)[:, None]
    normalised = (points - sizes / 2) / (reach * sizes.amax(2, keepdim=True))
    if oriented:
        normalised = torch.cat([normalised, _sizes_and_orientations(features).to(normalised.device)], dim=2)
    counts = [len(each) for each in features]
    mask = None
    if min(counts) < max(counts):
        mask = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).to(device, non_blocking=True)
    return PointBatch(normalised, scores, descriptors, mask)


def _sizes_and_orientations(features: Sequence[LocalFeatures]) -> Tensor:
    """(B, N, 2)"""
    sides = []
    for each in features:
        scales, orientations = each.scales, each.orientations
        if scales is None or orientations is None:
            if len(each):
                raise DataError(
                    "these weights read size and orientation of each keypoint, and the local features have none (a map "
                    "keeps none either); choose local_features.method = rootsift, sift or doghardnet, or other weights "
                    "of the matcher"
                )
            scales = orientations = torch.zeros(0)
        sides.append(torch.stack([scales, orientations], dim=1).float())
    return pad_sequence(sides, batch_first=True)


def size_of(features: LocalFeatures) -> list[float]:
    """Width and height of the image."""
    if all(features.image_size):
        return [float(side) for side in features.image_size]
    # Unknown: like the published LightGlue, take the extent of the points.
    extent: list[float] = (1 + features.keypoints.amax(0) - features.keypoints.amin(0)).float().tolist()
    return extent
