"""Local features of single images at the size at which a benchmark measures."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles, Image, LocalExtractor, LocalFeatures, Rows
from vpr.images import MAX_MEGAPIXELS, fitted_size, read_image, resize, turned_back

KEPT = 64  # views in memory: an image of a sequence returns soon


@dataclass(frozen=True)
class Resize:
    """The size at which errors are measured, and which the local features are given."""

    to: Literal["as stored", "longest", "shortest", "exactly"] = "as stored"
    length: int = 0  # of the longest or the shortest side
    size: tuple[int, int] = (0, 0)  # width, height
    enlarge: bool = False

    def of(self, width: int, height: int) -> tuple[int, int]:
        if self.to == "exactly":
            return self.size
        if self.to == "as stored":
            return width, height
        if self.to == "longest":
            return fitted_size(width, height, longest=self.length, enlarge=self.enlarge)
        return fitted_size(width, height, shortest=self.length, enlarge=self.enlarge)

    def __str__(self) -> str:
        if self.to == "exactly":
            return f"{self.size[0]} x {self.size[1]} pixels"
        return self.to if self.to == "as stored" else f"{self.to} side {self.length} pixels"


@dataclass(frozen=True, eq=False)
class View:
    """One image as a benchmark sees it."""

    features: LocalFeatures  # as the method gave them, for the matcher
    points: Doubles  # (N, 2) pixels of the image at its size here, not turned
    scores: Doubles  # (N,)
    size: tuple[int, int]  # width, height here
    factors: tuple[float, float]  # by which the stored image was resized along x and y

    @property
    def descriptors(self) -> Doubles:
        return np.asarray(self.features.descriptors.numpy(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class MatchedViews:
    """Two views and their matches."""

    first: View
    second: View
    pairs: Rows  # (M, 2) rows of the points of both
    scores: Doubles  # (M,) confidence in [0, 1]
    correct: NDArray[np.bool_]  # (M,) by the known geometry

    @property
    def points(self) -> tuple[Doubles, Doubles]:
        """(M, 2) matched points in pixels of each view."""
        return self.first.points[self.pairs[:, 0]], self.second.points[self.pairs[:, 1]]


class Views:
    """Extracts views, and keeps the last ones."""

    def __init__(self, extractor: LocalExtractor, how: Resize, max_megapixels: float = MAX_MEGAPIXELS) -> None:
        self.extractor = extractor
        self.how = how
        self.max_megapixels = max_megapixels
        self._kept: OrderedDict[tuple[Path, int], View] = OrderedDict()

    def view(self, path: Path, turns: int = 0) -> View:
        """The view of a stored image that stands upright after this many quarter turns counter-clockwise.

        The method sees it upright; its points are turned back. Raises ImageError for an image that cannot be read.
        """
        key = path, turns
        if key not in self._kept:
            self._kept[key] = self._extract(path, turns)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _extract(self, path: Path, turns: int) -> View:
        stored = read_image(path, self.extractor.channels, self.max_megapixels)
        shown = UprightImage.of(stored, self.how, turns)
        return shown.view(self.extractor.extract([self.extractor.preprocess(shown.image)])[0])


class UprightImage(NamedTuple):
    """An image turned upright, at the size at which a benchmark measures."""

    image: Image
    turns: int
    size: tuple[int, int]  # width, height before it was turned
    factors: tuple[float, float]

    @staticmethod
    def of(stored: Image, how: Resize, turns: int) -> UprightImage:
        height, width = stored.shape[:2]
        size = how.of(width, height)
        image: Image = np.ascontiguousarray(np.rot90(resize(stored, size), turns))
        return UprightImage(image, turns, size, (size[0] / width, size[1] / height))

    def view(self, features: LocalFeatures) -> View:
        """With features that a method found in it, perhaps on a smaller copy."""
        upright = self.size if self.turns % 2 == 0 else self.size[::-1]
        points = np.asarray(features.keypoints.numpy(), dtype=np.float64)
        if features.image_size != upright and len(points):  # the method shrank it further
            points = (points + 0.5) * (np.array(upright) / features.image_size) - 0.5
        scores = np.asarray(features.scores.numpy(), dtype=np.float64)
        return View(features, turned_back(points, self.turns, self.size), scores, self.size, self.factors)
