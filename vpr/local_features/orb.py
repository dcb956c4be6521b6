"""ORB: fast binary features without weights. Rublee et al., ICCV 2011, by OpenCV.

The 256 bits become a unit vector of entries 1/16 and -1/16, so that what compares vectors compares bits: the cosine is
1 - (differing bits) / 128. Distances are then roots of bit counts, and a ratio of 0.9 is one of 0.81 in bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vpr.core import Channels, Floats, Image, LocalFeatures
from vpr.images import fitted_size, resize
from vpr.local_features.settings import LocalFeatureSettings

EDGE = 31  # pixels along the edges of every level without keypoints: what a descriptor reaches


class Settings(LocalFeatureSettings):
    """Settings of ORB."""

    method: Literal["orb"] = "orb"
    longest_side: int = Field(640, ge=16)  # larger images are shrunk to this
    max_keypoints: int = Field(1024, ge=1)  # OpenCV spreads them over the levels of its pyramid
    fast_threshold: int = Field(20, ge=0, le=255)  # grey levels by which a corner differs from its surroundings
    scale_factor: float = Field(1.2, gt=1)  # between levels
    levels: int = Field(8, ge=1)


class Orb:
    """Oriented FAST corners with rotated BRIEF descriptors; images are (1, H, W) uint8 grey tensors of any size."""

    channels: Channels = "grey"
    dim = 256
    weights = ""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def preprocess(self, image: Image) -> Tensor:
        height, width = image.shape
        size = fitted_size(width, height, longest=self.settings.longest_side)
        return torch.from_numpy(resize(image, size))[None]

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        with ThreadPoolExecutor(cv2.getNumberOfCPUs()) as pool:
            return list(pool.map(lambda image: self._extract_one(image[0].numpy()), images))

    def _extract_one(self, image: Image) -> LocalFeatures:
        settings = self.settings
        height, width = image.shape
        if min(height, width) <= 2 * EDGE:
            return LocalFeatures.empty(self.dim, (width, height))
        # OpenCV stops with an error at a level without pixels.
        levels = min(settings.levels, 1 + int(np.log(min(height, width)) / np.log(settings.scale_factor)))
        detector = cv2.ORB.create(
            nfeatures=settings.max_keypoints,
            scaleFactor=settings.scale_factor,
            nlevels=levels,
            edgeThreshold=EDGE,
            fastThreshold=settings.fast_threshold,
        )
        detected, bits = detector.detectAndCompute(image, np.empty(0, np.uint8))
        if bits is None or not len(detected):
            return LocalFeatures.empty(self.dim, (width, height))
        order = np.argsort([-each.response for each in detected], kind="stable")[: settings.max_keypoints]
        # OpenCV multiplies a level's pixels by its nominal scale. The level was resized to whole pixels, and the centre
        # of its first pixel is not that of the image's: left uncorrected, keypoints of the last level lie 1.3 px off.
        scale = settings.scale_factor ** np.array([[detected[i].octave] for i in order], dtype=np.float64)
        whole = np.array([width, height])
        pixels = np.array([detected[i].pt for i in order]) / scale
        keypoints = (pixels + 0.5) * whole / np.rint(whole / scale) - 0.5
        responses = np.array([max(detected[i].response, 0) for i in order], dtype=np.float32)
        strongest = max(float(responses[0]), 1e-12)  # Harris responses have no scale of their own
        return LocalFeatures(
            torch.from_numpy(keypoints.astype(np.float32)),
            torch.from_numpy(responses / np.float32(strongest)).clamp(0, 1),
            torch.from_numpy(signs(np.asarray(bits, dtype=np.uint8)[order])),
            (width, height),
        )


def signs(packed: Image) -> Floats:
    """Bits packed in bytes (N, B) to unit rows (N, 8 B) of equal entries, negative for 0."""
    bits = np.unpackbits(packed, axis=1).astype(np.float32)
    return (2 * bits - 1) / np.float32(np.sqrt(bits.shape[1]))


def build(settings: Settings, device: torch.device) -> Orb:
    """OpenCV's ORB runs on the CPU, whatever the device."""
    return Orb(settings)
