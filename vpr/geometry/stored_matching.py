"""Pairs whose local features are stored: matched without their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from vpr.core import DataError, Doubles, ImageError, LocalFeatures, Matcher
from vpr.datasets.pose_pairs import PosePair
from vpr.exchange.imp_pairs import PairsFile, StoredKeypoints
from vpr.geometry.matching import UPRIGHT, Cameras, Matched, matched_views
from vpr.geometry.views import View
from vpr.images import upright_size


@dataclass(frozen=True, eq=False)
class StoredMatching:
    """By the features of a file (``yfcc_sp_2000.hdf5``) and a matcher of features.

    The size of an image, by which matchers normalise coordinates, is that of the file; of one that is not there, as
    large as its principal point is central.
    """

    file: PairsFile
    pairs: Sequence[PosePair]  # of the file, in its order
    matcher: Matcher
    detects = True
    _rows: dict[tuple[Path, Path], int] = field(init=False)

    def __post_init__(self) -> None:
        rows = {(pair.first, pair.second): row for row, pair in enumerate(self.pairs)}
        object.__setattr__(self, "_rows", rows)

    @property
    def weights(self) -> Mapping[str, str]:
        stored = f"{self.file.path.name}, {self.file.path.stat().st_size} bytes"
        return {"local_features": stored, "matcher": self.matcher.weights}

    def of(
        self, first: Path, second: Path, turns: tuple[int, int] = UPRIGHT, cameras: Cameras | None = None
    ) -> Matched:
        row = self._rows[first, second]
        pair = self.pairs[row]
        matrices = pair.first_intrinsics, pair.second_intrinsics
        one, other = (
            _view(each, _size(path, matrix))
            for each, path, matrix in zip(self.file.features(row), (first, second), matrices, strict=True)
        )
        return matched_views(self.matcher, one, other, cameras)


def _size(path: Path, intrinsics: Doubles) -> tuple[int, int]:
    try:
        return upright_size(path)
    except (ImageError, DataError, OSError):
        width, height = np.rint(2 * intrinsics[:2, 2] + 1).astype(int).tolist()
        return width, height


def _view(stored: StoredKeypoints, size: tuple[int, int]) -> View:
    keypoints, scores, descriptors = map(torch.from_numpy, (stored.keypoints, stored.scores, stored.descriptors))
    features = LocalFeatures(keypoints, scores, descriptors, size)
    points, confidences = (np.asarray(each, np.float64) for each in (stored.keypoints, stored.scores))
    return View(features, points, confidences, size, (1.0, 1.0))
