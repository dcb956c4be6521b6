"""Photographs of a folder as grey pictures of one size, kept in memory once read."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from vpr.core import DataError, Image
from vpr.datasets.folders import list_images
from vpr.images import read_image, resize


class Photographs:
    """Grey pictures of (width, height): shrunk to cover that size, and cut to their middle.

    ``held_out`` of them, spread over the folder, are for validation; they come from ``held``, the others from ``seen``.
    """

    def __init__(self, folder: Path, size: tuple[int, int], held_out: int = 0) -> None:
        self.folder = folder
        self.size = size
        self.names = list_images(folder)
        if held_out and len(self.names) < 2 * held_out:
            raise DataError(f"{folder}: {len(self.names)} pictures are too few to keep {held_out} for validation")
        spread = np.linspace(0, len(self.names) - 1, held_out).round().astype(int) if held_out else np.zeros(0, int)
        self.held = spread
        self.seen = np.setdiff1d(np.arange(len(self.names)), spread)
        self._pictures: dict[int, Image] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image:
        """(height, width) uint8."""
        with self._lock:
            known = self._pictures.get(row)
        if known is None:
            known = cut_to(read_image(self.folder / self.names[row], "grey"), self.size)
            with self._lock:
                self._pictures[row] = known
        return known


def cut_to(image: Image, size: tuple[int, int]) -> Image:
    """Scale the picture until it just covers (width, height), and keep its middle."""
    height, width = image.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    scaled = max(size[0], round(width * scale)), max(size[1], round(height * scale))
    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return np.ascontiguousarray(resize(image, scaled)[top : top + size[1], left : left + size[0]])
