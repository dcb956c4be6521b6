"""Images of a folder as grey images of one size, kept in memory once read."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vpr.core import DataError, Doubles, Image, Rows
from vpr.datasets.folders import list_images
from vpr.datasets.splits import read_split
from vpr.images import read_image, resize


class GreyImages:
    """Grey images of (width, height): shrunk to cover that size, and cut to their middle.

    ``held_out`` of them, spread over the folder, are for validation; they come from ``held``, the others from ``seen``.
    With a folder ``split`` its ``train.txt`` and ``val.txt`` say which images are seen and held; others are left out.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        held_out: int = 0,
        names: Sequence[str] | None = None,
        split: Path | None = None,
    ) -> None:
        self.folder = folder
        self.size = size
        self.names = list_images(folder) if names is None else tuple(names)
        self.seen, self.held = self._spread(held_out) if split is None else self._listed(split)
        self._image = lru_cache(maxsize=None)(self._read)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image:
        """(height, width) uint8."""
        return self._image(int(row))

    def stack(self, rows: Rows) -> Tensor:
        """(B, 1, height, width) uint8."""
        return torch.from_numpy(np.stack([self[int(row)] for row in rows]))[:, None]

    def _spread(self, held_out: int) -> tuple[Rows, Rows]:
        """Rows for training, and as many for validation."""
        if held_out and len(self.names) < 2 * held_out:
            raise DataError(f"{self.folder}: {len(self.names)} images are too few to keep {held_out} for validation")
        held = np.linspace(0, len(self.names) - 1, held_out).round().astype(int) if held_out else np.zeros(0, int)
        return np.setdiff1d(np.arange(len(self.names)), held), held

    def _listed(self, split: Path) -> tuple[Rows, Rows]:
        """The same by lists of names; raises DataError for images that are in both."""
        seen, held = (np.array(read_split(split / f"{part}.txt", self.names)) for part in ("train", "val"))
        both = np.intersect1d(seen, held)
        if len(both):
            raise DataError(f"{split}: train.txt and val.txt both name {self.names[both[0]]!r}")
        return seen, held

    def _read(self, row: int) -> Image:
        return cut_to(read_image(self.folder / self.names[row], "grey"), self.size)


class StaticCameras:
    """Images of static cameras: what one saw at two times differs only in light, weather and traffic.

    Those whose names match the same pattern are of one camera. ``share`` is that of the pairs drawn from them.
    """

    def __init__(self, photographs: GreyImages, patterns: Sequence[str], share: float) -> None:
        self.share = share if patterns else 0.0
        self.cameras = []
        for pattern in patterns:
            rows = [row for row in photographs.seen if fnmatch(photographs.names[row], pattern)]
            if len(rows) < 2:
                raise DataError(
                    f"{photographs.folder}: {len(rows)} photographs for training match {pattern!r}, not two"
                )
            self.cameras.append(np.array(rows))

    def pair(self, rows: Rows, random: np.random.Generator) -> tuple[Rows, Rows]:
        """The rows and a partner of each: itself, but for a share of both that are replaced by a camera's."""
        first, second = rows.copy(), rows.copy()
        for i in np.flatnonzero(random.random(len(rows)) < self.share) if self.share else ():
            camera = self.cameras[random.integers(len(self.cameras))]
            first[i], second[i] = random.choice(camera, 2, replace=False)
        return first, second


def cut_to(image: Image, size: tuple[int, int]) -> Image:
    """Scale the image until it just covers (width, height), and keep its middle."""
    scaled, (left, top) = _cut((image.shape[1], image.shape[0]), size)
    return np.ascontiguousarray(resize(image, scaled)[top : top + size[1], left : left + size[0]])


def cut_labels_to(mask: Image, size: tuple[int, int]) -> Image:
    """A mask (H, W) of the image that cut_to makes, by the nearest pixel."""
    scaled, (left, top) = _cut((mask.shape[1], mask.shape[0]), size)
    resized = cv2.resize(mask, scaled, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.ascontiguousarray(resized[top : top + size[1], left : left + size[0]], np.uint8)


def cut_matrix(shape: tuple[int, int], size: tuple[int, int]) -> Doubles:
    """(3, 3) from pixels of an image of (width, height) ``shape`` to those of what cut_to makes of it."""
    scaled, corner = _cut(shape, size)
    matrix = np.eye(3)
    for axis in range(2):
        scale = scaled[axis] / shape[axis]
        matrix[axis, axis] = scale
        matrix[axis, 2] = (scale - 1) / 2 - corner[axis]  # the pixels' edges are what is scaled, not their centres
    return matrix


def _cut(shape: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height after scaling, and the corner of what is kept."""
    width, height = shape
    scale = max(size[0] / width, size[1] / height)
    scaled = max(size[0], round(width * scale)), max(size[1], round(height * scale))
    return scaled, ((scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2)
