"""SuperPoint: detector and descriptor together, on photographs that a detector has labelled. arXiv:1712.07629."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from vpr.config import MethodSettings
from vpr.core import ConfigError, Floats, Rows
from vpr.local_features.superpoint_network import CELL, Layout, SuperPointNetwork
from vpr.training import homographies, photometric
from vpr.training.adaptation import read_labels
from vpr.training.batch_norm import folded, measure, with_batch_norm
from vpr.training.description import DESCRIPTOR_LOSSES, ViewPair
from vpr.training.detection import cell_classes, detector_loss, point_map, warped_points, whole_cells
from vpr.training.export import SUPERPOINT_RECORD, save_weights
from vpr.training.grey_images import GreyImages, StaticCameras
from vpr.training.initial import keep_variance
from vpr.training.pictures import Pictures, of_views
from vpr.training.randomness import Randomness, randomness
from vpr.training.repeatability import judge_views
from vpr.weights import load_published


class Settings(MethodSettings):
    """Settings of SuperPoint's training."""

    method: Literal["superpoint"] = "superpoint"
    photographs: Path
    labels: Path  # made by `vpr label` of the same photographs at the same size
    start: Path | None = None  # initial weights, for instance MagicPoint's
    layout: Layout = "v1"  # "open" has BatchNorm
    batch_norm: bool = False  # after each convolution while training, folded into it in the weights
    widths: tuple[int, int, int, int] = (64, 64, 128, 128)
    head: int = Field(256, ge=8)
    dim: int = Field(256, ge=8)
    size: tuple[int, int] = (320, 240)  # width, height; multiples of 8
    descriptor_loss: str = "softmax"
    descriptor_weight: float = Field(0.5, ge=0)
    points: int = Field(256, ge=8)  # per image, whose descriptors the sparse losses compare
    homography: homographies.Settings = homographies.Settings(rotation_deg=30)
    light: photometric.Settings = photometric.Settings()
    # Patterns of names: photographs that match the same one are of one camera that stood still.
    fixed_cameras: tuple[str, ...] = ()
    fixed_share: float = Field(0.1, ge=0, le=1)  # of the pairs; what such a camera saw at two times
    held_out: int = Field(64, ge=1)  # photographs for validation
    split: Path | None = None  # instead of held_out, a folder with train.txt and val.txt, such as KITTI's

    @field_validator("descriptor_loss")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DESCRIPTOR_LOSSES:
            raise ConfigError(f"unknown descriptor loss {name!r}; known: {', '.join(sorted(DESCRIPTOR_LOSSES))}")
        return name


class DetectorBatch(NamedTuple):
    """Images with their keypoints, and the warps that make each of the two views."""

    images: Tensor  # (B, 1, H, W) uint8
    others: Tensor  # (B, 1, H, W) uint8, the photographs again, or what the same cameras saw at other hours
    points: Tensor  # (B, N, 2) pixels
    counts: Tensor  # (B,)
    first: Tensor  # (B, 3, 3) photograph to first view
    second: Tensor  # (B, 3, 3) photograph to second view


class SuperPointTask:
    """The task: the same points with the same descriptors in two views of a photograph."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        network = SuperPointNetwork(settings.layout, settings.widths, settings.head, settings.dim)
        keep_variance(network)
        self.photographs = GreyImages(settings.photographs, settings.size, settings.held_out, split=settings.split)
        if settings.start is not None:
            load_published(network, str(settings.start), network.convert_state_dict)
        if settings.batch_norm:
            with_batch_norm(network)
            if settings.start is not None:
                seen = self.photographs.seen
                measure(network, self.photographs.stack(seen[:: max(1, len(seen) // 32)]).float() / 255)
        self.model: nn.Module = network
        self.labels = read_labels(settings.labels, self.photographs.names)
        self.cameras = StaticCameras(self.photographs, settings.fixed_cameras, settings.fixed_share)

    def batch(self, size: int, random: Randomness) -> DetectorBatch:
        rows = random.numpy.choice(self.photographs.seen, size)
        settings = self.settings
        first, second = (
            homographies.sample_homographies(size, settings.size, settings.homography, random.torch) for _ in range(2)
        )
        straight = torch.rand(size, generator=random.torch) < 0.5  # half of the first views are the photograph itself
        first[straight] = torch.eye(3)
        rows, others = self.cameras.pair(rows, random.numpy)
        return self._stack(rows, others, first, second)

    def losses(self, model: nn.Module, batch: DetectorBatch, random: Randomness) -> dict[str, Tensor]:
        settings, size = self.settings, self.settings.size
        both = torch.cat([batch.first, batch.second])
        images = homographies.warp_images(torch.cat([batch.images, batch.others]).float() / 255, both, size)
        images = photometric.augment(images, settings.light, random.torch)
        moved = warped_points(batch.points.repeat(2, 1, 1), both)
        maps = point_map(moved, batch.counts.repeat(2), size)
        valid = whole_cells(homographies.seen(both, size, size, margin=1))
        logits, coarse = model(images)
        detector = detector_loss(logits, cell_classes(maps, random.torch), valid)
        chosen = chosen_points(moved[: len(batch.images)], batch.counts, settings.points, size, random)
        views = view_pair(coarse, batch.first, batch.second, size, chosen)
        descriptor = DESCRIPTOR_LOSSES[settings.descriptor_loss](views, random.torch)
        loss = detector + settings.descriptor_weight * descriptor
        return {"loss": loss, "detector": detector, "descriptor": descriptor}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Two views of photographs that training never saw, in changed light: see judge_views."""
        random = randomness(0, 7)
        held = self.photographs.held
        scores = [
            judge_views(model, *self._views(held[first : first + 8], random, device))
            for first in range(0, len(held), 8)
        ]
        return {key: float(np.mean([each[key] for each in scores])) for key in scores[0]}

    def pictures(self, model: nn.Module, device: torch.device) -> Pictures:
        """Keypoints, heat map and matches of a photograph that training never saw."""
        return of_views(model, *self._views(self.photographs.held[:1], randomness(0, 7), device))

    def _views(self, rows: Rows, random: Randomness, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Photographs (B, 1, H, W), the same warped and in changed light, and the warps (B, 3, 3)."""
        warps = homographies.sample_homographies(
            len(rows), self.settings.size, homographies.Settings(rotation_deg=15), random.torch
        ).to(device)
        images = self.photographs.stack(rows).to(device).float() / 255
        warped = homographies.warp_images(images, warps, self.settings.size)
        return images, photometric.augment(warped, self.settings.light, random.torch), warps

    def export(self, model: nn.Module, path: Path) -> None:
        save_weights(path, folded(model), record=SUPERPOINT_RECORD)

    def _stack(self, rows: np.ndarray, others: np.ndarray, first: Tensor, second: Tensor) -> DetectorBatch:
        points, counts = padded_points([self.labels[row] for row in rows])
        return DetectorBatch(
            self.photographs.stack(rows), self.photographs.stack(others), points, counts, first, second
        )


def padded_points(labels: Sequence[Floats]) -> tuple[Tensor, Tensor]:
    """Points (B, N, 2) of images that have different numbers of them, and how many are real (B,)."""
    points = torch.zeros(len(labels), max(1, *(len(each) for each in labels)), 2)
    for i, found in enumerate(labels):
        points[i, : len(found)] = torch.from_numpy(found)
    return points, torch.tensor([len(found) for found in labels])


def view_pair(coarse: Tensor, first: Tensor, second: Tensor, size: tuple[int, int], chosen: Tensor) -> ViewPair:
    """Both halves of descriptors (2 B, D, h, w), warped by ``first`` and ``second``, and how one becomes the other."""
    between = second @ homographies.invert(first)
    return ViewPair(coarse[: len(first)], coarse[len(first) :], between / between[:, 2:, 2:], size, chosen)


def chosen_points(points: Tensor, counts: Tensor, count: int, size: tuple[int, int], random: Randomness) -> Tensor:
    """Half labelled points of the first view, half any place: descriptors are read wherever points are found.

    Of points (B, N, 2), of which ``counts`` are real, (B, ``count``, 2).
    """
    places = torch.rand(len(points), count, 2, generator=random.torch).to(points.device)
    anywhere = CELL / 2 + places * (points.new_tensor(size) - CELL)
    drawn = torch.rand(len(points), count // 2, generator=random.torch).to(points.device)
    rows = (drawn * counts[:, None]).long().clamp_max(points.shape[1] - 1)
    labelled = points.gather(1, rows[..., None].expand(-1, -1, 2))
    labelled = torch.where(counts[:, None, None] > 0, labelled, anywhere[:, : count // 2])
    return torch.cat([labelled, anywhere[:, count // 2 :]], dim=1)


def build(settings: Settings) -> SuperPointTask:
    return SuperPointTask(settings)
