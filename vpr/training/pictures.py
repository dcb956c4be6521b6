"""Pictures of a validation for TensorBoard: keypoints, heat maps, matches of two views, and classes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from vpr.categories import Categories
from vpr.core import Image
from vpr.local_features.detection import score_map
from vpr.matchers.one_to_many import mutual_best, mutual_partners
from vpr.report.drawing import Correspondences, draw_matches
from vpr.training.correspondence import Truth
from vpr.training.homographies import warp_points
from vpr.training.repeatability import NEAR, points_and_descriptors

Pictures = dict[str, Image]  # (H, W, 3) RGB by what they show


def of_views(model: nn.Module, first: Tensor, second: Tensor, homography: Tensor) -> Pictures:
    """Of the first pair of images (B, 1, H, W), the second warped by (B, 3, 3): its keypoints, heat map and matches.

    Matches are mutual nearest neighbours; those within NEAR pixels of the truth are drawn as inliers.
    """
    images = [each[:1] for each in (first, second)]
    (points, rows), (others, other_rows) = (points_and_descriptors(model, image)[0] for image in images)
    grey = [as_grey(image[0, 0]) for image in images]
    similarity = rows @ other_rows.T
    if not similarity.numel():
        nothing = np.zeros((0, 2))
        drawn = Correspondences(nothing, nothing, np.zeros(0, np.bool_))
    else:
        partner = mutual_partners(similarity[None])[0][0]
        ends = points[partner >= 0], others[partner[partner >= 0]]
        away = (warp_points(ends[0][None], homography[:1])[0] - ends[1]).norm(dim=1)
        here, there = (each.double().cpu().numpy() for each in ends)
        drawn = Correspondences(here, there, (away <= NEAR).cpu().numpy())
    return {
        "keypoints": with_points(grey[0], points),
        "heat map": heat_map(score_map(model(images[0])[0])[0]),
        "matches": draw_matches(grey[0], grey[1], drawn),
    }


def of_assignment(
    images: tuple[Tensor, Tensor], points: tuple[Tensor, Tensor], log_assignment: Tensor, truth: Truth, threshold: float
) -> Image:
    """Matches of a pair of images (1, H, W) uint8 whose probability is above a threshold; the right ones are coloured.

    ``points`` (M, 2), (N, 2) are pixels, the assignment (1, M + 1, N + 1), the truth that of the pair.
    """
    partner, scores = (each[0] for each in mutual_best(log_assignment[:, :-1, :-1]))
    rows = ((partner >= 0) & (scores > threshold)).nonzero()[:, 0]
    ends = points[0][rows], points[1][partner[rows]]
    here, there = (each.double().cpu().numpy() for each in ends)
    right = (partner[rows] == truth.first[0, rows]).cpu().numpy()
    first, second = (as_grey(image[0].float() / 255) for image in images)
    return draw_matches(first, second, Correspondences(here, there, right))


def of_classes(images: Tensor, truth: Tensor, found: Tensor, categories: Categories) -> Image:
    """Images (B, 1, H, W), their true and their predicted classes (B, H, W), a row for each."""
    rows: Sequence[Image] = [
        np.hstack([as_grey(image[0]), *(categories.coloured(mask.cpu().numpy()) for mask in masks)])
        for image, *masks in zip(images, truth, found, strict=True)
    ]
    return np.vstack(rows)


def as_grey(image: Tensor) -> Image:
    """(H, W, 3) of an image (H, W) with values in [0, 1]."""
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return np.repeat(levels[..., None], 3, axis=2)


def with_points(image: Image, points: Tensor) -> Image:
    """The image with a green dot at each point (N, 2)."""
    picture = image.copy()
    for x, y in points.round().int().tolist():
        cv2.circle(picture, (x, y), 1, (0, 220, 0), -1)
    return picture


def with_rings(image: Image, points: Tensor) -> Image:
    """The image with a red ring around each point (N, 2)."""
    picture = image.copy()
    for x, y in points.round().int().tolist():
        cv2.circle(picture, (x, y), 4, (220, 0, 0), 1)
    return picture


def heat_map(scores: Tensor) -> Image:
    """Colours of scores (H, W), from blue for 0 to red for the highest."""
    high = scores.max().clamp_min(1e-9)
    levels = (255 * (scores / high).sqrt()).round().to(torch.uint8).cpu().numpy()
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB), np.uint8)
