"""Repeatability and matching of two views that a homography relates; for validation during training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.local_features.detection import score_map, strongest, suppress
from vpr.local_features.sampling import sample
from vpr.local_features.superpoint_network import CELL
from vpr.training.homographies import inside, invert, warp_points

POINTS = 300
NEAR = 3.0  # pixels


def judge_views(model: nn.Module, first: Tensor, second: Tensor, homography: Tensor) -> dict[str, float]:
    """Means over pairs of images (B, 1, H, W), the second warped by (B, 3, 3); the strongest 300 points of each.

    ``matching``: correct mutual nearest neighbours over points that both views show; ``precision``: correct over all;
    ``repeatability``: points found again within 3 pixels (Schmid et al., IJCV 2000).
    """
    found = [points_and_descriptors(model, images) for images in (first, second)]
    height, width = first.shape[2:]
    totals = {"matching": 0.0, "precision": 0.0, "repeatability": 0.0}
    for row in range(len(first)):
        (points1, rows1), (points2, rows2) = (each[row] for each in found)
        moved1 = warp_points(points1[None], homography[row : row + 1])[0]
        moved2 = warp_points(points2[None], invert(homography[row : row + 1]))[0]
        shown1, shown2 = inside(moved1, (width, height)), inside(moved2, (width, height))
        shared = max(1, min(int(shown1.sum()), int(shown2.sum())))
        if not shown1.any() or not shown2.any():
            continue
        near = torch.cdist(moved1[shown1], points2[shown2]) <= NEAR
        totals["repeatability"] += float((near.any(1).sum() + near.any(0).sum()) / (shown1.sum() + shown2.sum()))
        similarity = rows1[shown1] @ rows2[shown2].T
        forward = similarity.argmax(1)
        mutual = similarity.argmax(0)[forward] == torch.arange(len(forward), device=forward.device)
        right = near.gather(1, forward[:, None])[:, 0] & mutual
        totals["matching"] += float(right.sum()) / shared
        totals["precision"] += float(right.sum()) / max(1, int(mutual.sum()))
    return {key: value / len(first) for key, value in totals.items()}


def points_and_descriptors(model: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The strongest POINTS (N, 2) of each image, and their unit descriptors (N, D)."""
    logits, coarse = model(images)
    scores = suppress(score_map(logits), 4)
    places, _, counts = strongest(scores, 0.0, 4, POINTS)
    width = scores.shape[2]
    points = torch.stack([places % width, places // width], dim=-1).float()
    unit = functional.normalize(coarse.float(), dim=1).permute(0, 2, 3, 1)
    descriptors = sample(unit, points, CELL, "corrected")
    return [(p[:n], d[:n]) for p, d, n in zip(points, descriptors, counts.tolist(), strict=True)]
