"""Keypoint selection: from the scores of a detector's cells to the strongest separate keypoints."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vpr.core import Floats
from vpr.local_features.superpoint_network import CELL


def score_map(logits: Tensor) -> Tensor:
    """Probability of a keypoint at each pixel, (B, 8 h, 8 w), from logits (B, 65, h, w); the last class is "none"."""
    cells = logits.float().permute(0, 2, 3, 1).softmax(-1)[..., :-1]  # (B, h, w, 64), row-major in the cell
    batch, height, width, _ = cells.shape
    pixels = cells.reshape(batch, height, width, CELL, CELL).transpose(2, 3)
    return pixels.reshape(batch, height * CELL, width * CELL)


def suppress(scores: Tensor, radius: int) -> Tensor:
    """Zero all scores (B, H, W) but local maxima, so that keypoints lie more than ``radius`` apart along an axis.

    A first round keeps what is the largest of its square; two more rounds add what is the largest of what lies outside
    the squares of the keypoints found before. Equal neighbours both stay. This is the published procedure, exactly.
    """
    if scores.is_cuda:
        return _suppress_by_pooling(scores, radius)
    return torch.stack([torch.from_numpy(_suppress_by_dilation(each.numpy(), radius)) for each in scores])


def _suppress_by_pooling(scores: Tensor, radius: int) -> Tensor:
    found = scores == _largest(scores, radius)
    for _ in range(2):
        covered = _largest(found.to(scores.dtype), radius) > 0
        rest = scores.masked_fill(covered, 0)
        found |= (rest == _largest(rest, radius)) & ~covered
    return scores.masked_fill(~found, 0)


def largest(scores: Tensor, radius: int) -> Tensor:
    """Largest value of the square around each pixel of maps (B, H, W)."""
    if scores.is_cuda:
        return _largest(scores, radius)
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return torch.stack([torch.from_numpy(cv2.dilate(each.numpy(), square)) for each in scores])


def _largest(scores: Tensor, radius: int) -> Tensor:
    """Largest value in the square around each pixel; rows, then columns."""
    wide = functional.max_pool2d(scores, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return functional.max_pool2d(wide, (2 * radius + 1, 1), stride=1, padding=(radius, 0))


def _suppress_by_dilation(scores: Floats, radius: int) -> Floats:
    """The same by OpenCV, which takes a seventieth of the time of pooling on a CPU."""
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    found = scores == cv2.dilate(scores, square)
    for _ in range(2):
        covered = cv2.dilate(found.view(np.uint8), square).view(bool)
        rest = np.where(covered, np.float32(0), scores)
        found |= (rest == cv2.dilate(rest, square)) & ~covered
    return np.where(found, scores, np.float32(0))


def largest_of_others(scores: Tensor, radius: int) -> Tensor:
    """The largest value of the square around each pixel of a map (H, W), without the pixel; -inf where it is alone."""
    side = 2 * radius + 1
    if scores.is_cuda:
        padded = functional.pad(scores[None, None], (radius,) * 4, value=-torch.inf)
        around = functional.unfold(padded, side)[0]  # (side * side, H * W)
        around[side * side // 2] = -torch.inf
        return around.amax(0).view_as(scores)
    if not radius:
        return torch.full_like(scores, -torch.inf)
    others = np.ones((side, side), np.uint8)
    others[radius, radius] = 0
    return torch.from_numpy(cv2.dilate(scores.numpy(), others, borderValue=float("-inf")))


def contrast(grey: Tensor) -> Tensor:
    """Standard deviation of the values around each pixel, (B, H, W) of images (B, 1, H, W).

    Of squares of 9 x 9 pixels, after averaging 3 x 3, which takes two thirds of a sensor's noise away. Near the edges
    the image is mirrored.
    """
    if grey.is_cuda:
        smooth = _averaged(grey, 3)
        return (_averaged(smooth * smooth, 9) - _averaged(smooth, 9) ** 2).clamp_min(0).sqrt()[:, 0]
    return torch.stack([torch.from_numpy(_contrast_by_opencv(each[0].numpy())) for each in grey])


def _averaged(images: Tensor, side: int) -> Tensor:
    padded = functional.pad(images, (side // 2,) * 4, mode="reflect")
    return functional.avg_pool2d(functional.avg_pool2d(padded, (1, side), stride=1), (side, 1), stride=1)


def _contrast_by_opencv(grey: Floats) -> Floats:
    """The same by OpenCV, which takes a sixth of the time of pooling on a CPU."""
    smooth = cv2.blur(grey, (3, 3))
    mean, square = cv2.blur(smooth, (9, 9)), cv2.blur(smooth * smooth, (9, 9))
    deviation: Floats = np.sqrt(np.maximum(square - mean * mean, 0))
    return deviation


def strongest(scores: Tensor, threshold: float, border: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The places of the ``most`` highest scores of each map (B, H, W) that are above the threshold; 0 for all.

    Nothing within ``border`` pixels of the edge counts. Returns flat places (B, N), their scores (B, N), highest
    first, and how many of each row count (B,).
    """
    height, width = scores.shape[1:]
    inner = torch.zeros_like(scores)
    area = (..., slice(border, max(height - border, border)), slice(border, max(width - border, border)))
    inner[area] = scores[area].where(scores[area] > threshold, 0)
    counts = (inner > 0).flatten(1).sum(1)
    if not most or not scores.is_cuda:  # on a GPU reading the counts would make the host wait
        most = min(most or height * width, int(counts.max()))
    found, places = inner.flatten(1).topk(min(most, height * width))
    return places, found, counts.clamp_max(most)


def refine(keypoints: Tensor, scores: Tensor, reach: int = 2, spread: float = torch.inf) -> Tensor:
    """Keypoints (B, N, 2) moved to the centroid of the scores of the square around them.

    The square reaches ``reach`` pixels from the nearest pixel, and its scores are weighted by a Gaussian around the
    keypoint of standard deviation ``spread``. With scores before suppression, and keypoints on pixels, this is the
    soft-argmax of pytorch-superpoint, of 5 x 5 pixels. A keypoint without scores around it stays.
    """
    height, width = scores.shape[1:]
    steps = torch.arange(-reach, reach + 1, device=keypoints.device)
    around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).view(-1, 2)
    places = keypoints.round()[:, :, None] + around  # (B, N, 25, 2)
    x, y = places.long().unbind(-1)
    inner = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    rows = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    weights = scores.flatten(1).gather(1, rows.flatten(1)).view_as(rows) * inner
    offsets = places - keypoints[:, :, None]
    weights = weights * torch.exp(-0.5 * (offsets / spread).square().sum(-1))
    moved: Tensor = (weights[..., None] * offsets).sum(2) / weights.sum(2).clamp_min(1e-12)[..., None]
    return keypoints + moved


def refine_by_softmax(pixels: Tensor, scores: Tensor, reach: int, temperature: float) -> Tensor:
    """Keypoints (N, 2) at the soft-argmax of the scores (H, W) of the square around pixels (N, 2), x and y.

    The square reaches ``reach`` pixels; outside the map scores are 0. As ALIKE and ALIKED do.
    """
    steps = torch.arange(-reach, reach + 1, device=pixels.device)
    around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).view(-1, 2)
    padded = functional.pad(scores, (reach,) * 4)
    x, y = (pixels[:, None] + around + reach).unbind(-1)
    values = padded[y, x]
    weights = ((values - values.amax(1, keepdim=True)) / temperature).exp()
    return pixels + (weights @ around.float()) / weights.sum(1, keepdim=True)
