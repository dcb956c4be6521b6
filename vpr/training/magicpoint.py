"""MagicPoint: a detector of corners that is trained only on drawn shapes. DeTone et al., arXiv:1712.07629."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from vpr.config import MethodSettings
from vpr.core import Doubles, Image
from vpr.geometry import corners
from vpr.local_features.detection import score_map, strongest, suppress
from vpr.local_features.superpoint_network import Layout, SuperPointNetwork
from vpr.training import homographies, photometric
from vpr.training.detection import cell_classes, detector_loss, point_map, warped_points, whole_cells
from vpr.training.export import SUPERPOINT_RECORD, save_weights
from vpr.training.initial import keep_variance
from vpr.training.pictures import Pictures, as_grey, heat_map, with_points, with_rings
from vpr.training.randomness import Randomness, randomness
from vpr.training.shapes import draw_shape

MOST_POINTS = 96  # of one image; more are left out
MOST_DETECTIONS = 300  # of one image of the validation
SHOWN = 4  # images in a picture of the validation
THRESHOLD = 0.015  # of the detections whose position is measured


class Settings(MethodSettings):
    """Settings of MagicPoint's training."""

    method: Literal["magicpoint"] = "magicpoint"
    layout: Layout = "v1"  # "open" has BatchNorm
    widths: tuple[int, int, int, int] = (64, 64, 128, 128)
    head: int = Field(256, ge=8)
    dim: int = Field(256, ge=8)
    size: tuple[int, int] = (160, 120)  # width, height; multiples of 8
    pool: int = Field(20_000, ge=1)  # images that are drawn; warps and light make each new at every step
    homography: homographies.Settings = homographies.Settings()
    light: photometric.Settings = photometric.Settings()
    validation_images: int = Field(256, ge=1)
    seed: int = 0


class ShapeBatch(NamedTuple):
    """Images and their corners, before warps and light."""

    images: Tensor  # (B, 1, H, W) uint8
    points: Tensor  # (B, N, 2) pixels
    counts: Tensor  # (B,) real points
    homography: Tensor  # (B, 3, 3)


class Shapes:
    """Drawn images by number, kept once drawn: the same number is always the same image."""

    def __init__(self, size: tuple[int, int], seed: int) -> None:
        self.size = size
        self.seed = seed
        self._drawn = lru_cache(maxsize=None)(self._draw)

    def __getitem__(self, number: int) -> tuple[Image, Doubles]:
        return self._drawn(number)

    def _draw(self, number: int) -> tuple[Image, Doubles]:
        return draw_shape(self.size, randomness(self.seed, number).numpy)


class MagicPointTask:
    """The task: find the corners of warped and badly lit shapes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model: nn.Module = SuperPointNetwork(settings.layout, settings.widths, settings.head, settings.dim)
        keep_variance(self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(("convD", "descriptor")))  # corners say nothing of them
        self.shapes = Shapes(settings.size, settings.seed)

    def batch(self, size: int, random: Randomness) -> ShapeBatch:
        chosen = random.numpy.integers(self.settings.pool, size=size).tolist()
        homography = homographies.sample_homographies(size, self.settings.size, self.settings.homography, random.torch)
        return self._stack([self.shapes[number] for number in chosen], homography)

    def losses(self, model: nn.Module, batch: ShapeBatch, random: Randomness) -> dict[str, Tensor]:
        images, points, valid = self._see(batch, random)
        logits, _ = model(images)
        classes = cell_classes(points, random.torch)
        return {"loss": detector_loss(logits, classes, whole_cells(valid))}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Average precision of corners within 2 pixels, and their mean error in pixels, on images never trained on."""
        random, count = randomness(self.settings.seed, 1), self.settings.validation_images
        found: list[corners.Detections] = []
        for first in range(0, count, 32):
            images, truth = self._held(range(first + 1, min(first + 32, count) + 1), random, device)
            scores = suppress(score_map(model(images)[0]), 4)
            found += [_detections(*each) for each in zip(scores.cpu(), truth.cpu(), strict=True)]
        return {
            "mean_average_precision": corners.mean_average_precision(found),
            "localisation_error": corners.localisation_error(found, THRESHOLD),
        }

    def pictures(self, model: nn.Module, device: torch.device) -> Pictures:
        """Corners found and the heat map of some images of the validation; the true corners are rings."""
        numbers = range(1, min(SHOWN, self.settings.validation_images) + 1)
        images, truth = self._held(numbers, randomness(self.settings.seed, 1), device)
        scores = score_map(model(images)[0])
        rows = zip(images[:, 0], suppress(scores, 4).cpu(), truth.cpu(), scores, strict=True)
        shown = [_shown(image, _detections(found, there), heat) for image, found, there, heat in rows]
        return {"keypoints": np.vstack([each for each, _ in shown]), "heat map": np.vstack([each for _, each in shown])}

    def export(self, model: nn.Module, path: Path) -> None:
        save_weights(path, model, record=SUPERPOINT_RECORD)

    def _held(self, numbers: Iterable[int], random: Randomness, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (B, 1, H, W) of the validation by number, and their maps of corners (B, H, W)."""
        drawn = [draw_shape(self.settings.size, randomness(self.settings.seed + 1, n).numpy) for n in numbers]
        batch = self._stack(drawn, torch.eye(3).repeat(len(drawn), 1, 1))
        images, truth, _ = self._see(ShapeBatch(*(each.to(device) for each in batch)), random)
        return images, truth

    def _stack(self, drawn: Sequence[tuple[Image, Doubles]], homography: Tensor) -> ShapeBatch:
        points = torch.zeros(len(drawn), MOST_POINTS, 2)
        counts = torch.zeros(len(drawn), dtype=torch.int64)
        for row, (_, there) in enumerate(drawn):
            kept = there[:MOST_POINTS]
            points[row, : len(kept)] = torch.from_numpy(kept).float()
            counts[row] = len(kept)
        images = torch.from_numpy(np.stack([image for image, _ in drawn]))[:, None]
        return ShapeBatch(images, points, counts, homography)

    def _see(self, batch: ShapeBatch, random: Randomness) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 1, H, W) as they are seen, their map of points, and the pixels that show something."""
        size = self.settings.size
        images = homographies.warp_images(batch.images.float() / 255, batch.homography, size)
        images = photometric.augment(images, self.settings.light, random.torch)
        points = point_map(warped_points(batch.points, batch.homography), batch.counts, size)
        return images, points, homographies.seen(batch.homography, size, size, margin=1)


def _detections(scores: Tensor, truth: Tensor) -> corners.Detections:
    """Keypoints of a map of scores (H, W) and the corners of a map (H, W), as x, y."""
    places, strengths, counts = strongest(scores[None], 0.0, 2, MOST_DETECTIONS)
    rows, count = places[0, : int(counts[0])], int(counts[0])
    width = scores.shape[1]
    keypoints = torch.stack([rows % width, rows // width], dim=1)
    there = truth.nonzero().flip(1)
    return corners.Detections(*(each.double().numpy() for each in (keypoints, strengths[0, :count], there)))


def _shown(image: Tensor, found: corners.Detections, scores: Tensor) -> tuple[Image, Image]:
    """Pictures of an image (H, W): its keypoints with the true corners, and its scores (H, W)."""
    strong = found.points[found.scores >= THRESHOLD]
    picture = with_points(as_grey(image), torch.from_numpy(strong))
    return with_rings(picture, torch.from_numpy(found.corners)), heat_map(scores)


def build(settings: Settings) -> MagicPointTask:
    return MagicPointTask(settings)
