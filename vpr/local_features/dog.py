"""Keypoints of SIFT: extrema of differences of Gaussians, with size and orientation. Lowe, IJCV 2004, by OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vpr.core import Floats, LocalFeatures, Rows


@dataclass(frozen=True, eq=False)
class DogKeypoints:
    """Keypoints of one image, strongest first."""

    keypoints: Floats  # (N, 2) x, y in pixels
    scores: Floats  # (N,) contrast, in [0, 1]
    scales: Floats  # (N,) diameter in pixels
    orientations: Floats  # (N,) radians in [0, 2 pi), x towards y

    def features(self, descriptors: Tensor, image_size: tuple[int, int]) -> LocalFeatures:
        """With descriptors (N, D)."""
        columns = (torch.from_numpy(each) for each in (self.scales, self.orientations))
        return LocalFeatures(
            torch.from_numpy(self.keypoints), torch.from_numpy(self.scores), descriptors, image_size, *columns
        )


def detector(max_keypoints: int, contrast_threshold: float, edge_threshold: float, octave_layers: int) -> Any:
    """OpenCV's SIFT; not for several threads at once."""
    # Precise upscaling puts the centre of the top-left pixel at (0, 0); without it keypoints lie 0.25 px off.
    return cv2.SIFT.create(
        nfeatures=max_keypoints,
        nOctaveLayers=octave_layers,
        contrastThreshold=contrast_threshold,
        edgeThreshold=edge_threshold,
        enable_precise_upscale=True,
    )


def strongest(detected: Sequence[Any], most: int) -> tuple[DogKeypoints, Rows]:
    """The strongest of OpenCV's keypoints, and their rows; OpenCV keeps all that tie with the last one."""
    rows: Rows = np.argsort([-each.response for each in detected], kind="stable")[:most].astype(np.int64)
    values = np.array(
        [(*detected[i].pt, detected[i].response, detected[i].size, detected[i].angle) for i in rows], np.float32
    ).reshape(-1, 5)
    found = DogKeypoints(
        np.ascontiguousarray(values[:, :2]), values[:, 2].clip(0, 1), values[:, 3].copy(), np.deg2rad(values[:, 4])
    )
    return found, rows
