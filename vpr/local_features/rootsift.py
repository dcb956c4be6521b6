"""RootSIFT and SIFT: the baselines that need no weights; keypoints have size and orientation.

Lowe, IJCV 2004 (SIFT, by OpenCV); Arandjelovic and Zisserman, CVPR 2012 (the root of the L1-normalised histogram).
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
from vpr.local_features.dog import detector, strongest
from vpr.local_features.settings import LocalFeatureSettings


class Settings(LocalFeatureSettings):
    """Settings of RootSIFT and SIFT."""

    method: Literal["rootsift", "sift"] = "rootsift"
    longest_side: int = Field(640, ge=16)  # larger images are shrunk to this
    max_keypoints: int = Field(1024, ge=1)  # the strongest by contrast are kept
    contrast_threshold: float = Field(0.01, ge=0)  # OpenCV's default 0.04 finds too little at night
    edge_threshold: float = Field(10.0, gt=1)
    octave_layers: int = Field(3, ge=1)  # scales in which keypoints are sought, between an image and its half


class RootSift:
    """SIFT keypoints with RootSIFT or SIFT descriptors; images are (1, H, W) uint8 grey tensors of any size."""

    channels: Channels = "grey"
    dim = 128
    weights = ""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.unit = root if settings.method == "rootsift" else unit

    def preprocess(self, image: Image) -> Tensor:
        height, width = image.shape
        size = fitted_size(width, height, longest=self.settings.longest_side)
        return torch.from_numpy(resize(image, size))[None]

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        with ThreadPoolExecutor(cv2.getNumberOfCPUs()) as pool:  # OpenCV alone keeps the cores about 70 % busy
            return list(pool.map(lambda image: self._extract_one(image[0].numpy()), images))

    def _extract_one(self, image: Image) -> LocalFeatures:
        settings, (height, width) = self.settings, image.shape
        sift = detector(
            settings.max_keypoints, settings.contrast_threshold, settings.edge_threshold, settings.octave_layers
        )
        detected, histograms = sift.detectAndCompute(image, np.empty(0, np.uint8))
        if histograms is None or not len(detected):
            return LocalFeatures.empty(self.dim, (width, height))
        found, rows = strongest(detected, settings.max_keypoints)
        return found.features(torch.from_numpy(self.unit(histograms[rows].astype(np.float32))), (width, height))


def root(histograms: Floats) -> Floats:
    """RootSIFT of SIFT histograms, (N, 128) non-negative to (N, 128) unit rows; an empty histogram stays zero."""
    total = histograms.sum(axis=1, keepdims=True)
    rooted: Floats = np.sqrt(np.divide(histograms, total, out=np.zeros_like(histograms), where=total > 0))
    return rooted


def unit(histograms: Floats) -> Floats:
    """Histograms (N, 128) scaled to unit rows; an empty histogram stays zero."""
    length = np.linalg.norm(histograms, axis=1, keepdims=True)
    scaled: Floats = np.divide(histograms, length, out=np.zeros_like(histograms), where=length > 0)
    return scaled


def build(settings: Settings, device: torch.device) -> RootSift:
    """OpenCV's SIFT runs on the CPU, whatever the device."""
    return RootSift(settings)
