"""DoG + HardNet: SIFT's keypoints, described by a network on the patch around each.

Mishchuk, Mishkin, Radenovic and Matas, NeurIPS 2017, arXiv:1705.10872 (HardNet). Network and patches are kornia's; a
patch is 12 times as wide as its keypoint and turned by its orientation, as LightGlue's authors describe it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vpr.core import Channels, ConfigError, Image, LocalFeatures
from vpr.images import fitted_size, resize
from vpr.local_features.dog import DogKeypoints, detector, strongest
from vpr.local_features.settings import LocalFeatureSettings
from vpr.runtime.threads import one_by_one
from vpr.weights import load_published

RADIUS = 6.0  # of a patch, in sizes of its keypoint


class Settings(LocalFeatureSettings):
    """Settings of DoG + HardNet."""

    method: Literal["doghardnet"] = "doghardnet"
    weights: str = "hardnet_liberty_aug"  # name or path of weights in the published layout
    longest_side: int = Field(1024, ge=16)  # larger images are shrunk to this
    max_keypoints: int = Field(1024, ge=1)  # the strongest by contrast are kept
    contrast_threshold: float = Field(0.0067, ge=0)
    edge_threshold: float = Field(10.0, gt=1)
    octave_layers: int = Field(4, ge=1)  # scales in which keypoints are sought, between an image and its half


class DogHardNet:
    """Keypoints, strongest first; images are (1, H, W) uint8 grey tensors of any size."""

    channels: Channels = "grey"
    dim = 128

    def __init__(self, network: Any, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = network.eval().to(device)

    def preprocess(self, image: Image) -> Tensor:
        height, width = image.shape
        size = fitted_size(width, height, longest=self.settings.longest_side)
        return torch.from_numpy(resize(image, size))[None]

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        return one_by_one(self._extract, images, self.device)

    @torch.inference_mode()
    def _extract(self, image: Tensor) -> LocalFeatures:
        settings, (height, width) = self.settings, image.shape[1:]
        sift = detector(
            settings.max_keypoints, settings.contrast_threshold, settings.edge_threshold, settings.octave_layers
        )
        detected = sift.detect(image[0].numpy(), np.empty(0, np.uint8))
        if not len(detected):
            return LocalFeatures.empty(self.dim, (width, height))
        found, _ = strongest(detected, settings.max_keypoints)
        return found.features(self.describe(image, found), (width, height))

    def describe(self, image: Tensor, found: DogKeypoints) -> Tensor:
        """Unit descriptors (N, 128) of an image (1, H, W)."""
        from kornia.feature import get_laf_descriptors, laf_from_center_scale_ori

        keypoints, scales, orientations = (
            torch.from_numpy(each)[None].to(self.device) for each in (found.keypoints, found.scales, found.orientations)
        )
        frames = laf_from_center_scale_ori(
            keypoints, RADIUS * scales[..., None, None], torch.rad2deg(orientations)[..., None]
        )
        grey = image[None].to(self.device).float() / 255
        vectors: Tensor = get_laf_descriptors(grey, frames, self.network, patch_size=32)[0]
        return vectors.float().cpu()


def build(settings: Settings, device: torch.device) -> DogHardNet:
    try:
        from kornia.feature import HardNet
    except ImportError:
        raise ConfigError('local_features.method = "doghardnet" needs kornia: pip install "vpr[matchers]"') from None
    network: Any = HardNet(pretrained=False)
    return DogHardNet(network, load_published(network, settings.weights, dict), settings, device)
