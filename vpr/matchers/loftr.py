"""LoFTR: dense matching without a detector. Sun, Shen, Wang, Bao and Zhou, CVPR 2021, arXiv:2104.00680.

The network is kornia's. It looks at both images at once, so nothing is computed ahead for an image: for single pairs
and short lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import MethodSettings
from vpr.core import Channels, ConfigError, Image, ImageMatches
from vpr.images import fitted_size, resize
from vpr.weights import load_published

CELL = 8  # image sides are brought to multiples of this


class Settings(MethodSettings):
    """Settings of LoFTR."""

    method: Literal["loftr"] = "loftr"
    weights: str = "loftr_outdoor"  # name or path of weights in the published layout
    longest_side: int = Field(640, ge=CELL)  # larger images are shrunk to this
    match_threshold: float = Field(0.2, ge=0, le=1)  # matches are more confident than this


class LoFTR:
    """Matches of two grey images; keypoints are in pixels of the images that the network saw."""

    channels: Channels = "grey"

    def __init__(self, network: Any, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = network.eval().to(device)

    def preprocess(self, image: Image) -> Tensor:
        """(1, H, W) uint8, sides multiples of 8, at least one cell."""
        height, width = image.shape
        fitted = fitted_size(width, height, longest=self.settings.longest_side)
        return torch.from_numpy(resize(image, (_in_cells(fitted[0]), _in_cells(fitted[1]))))[None]

    @torch.inference_mode()
    def match(self, query: Tensor, candidates: Sequence[Tensor]) -> list[ImageMatches]:
        return [self._match(query, candidate) for candidate in candidates]

    def _match(self, query: Tensor, candidate: Tensor) -> ImageMatches:
        images = (each[None].to(self.device).float() / 255 for each in (query, candidate))
        found = self.network(dict(zip(("image0", "image1"), images, strict=True)))
        clear = found["confidence"] > self.settings.match_threshold
        keypoints0, keypoints1, scores = (
            found[key][clear].float().cpu() for key in ("keypoints0", "keypoints1", "confidence")
        )
        return ImageMatches(keypoints0, keypoints1, scores.clamp(0, 1))


def _in_cells(side: int) -> int:
    return max(CELL, round(side / CELL) * CELL)


def build(settings: Settings, device: torch.device) -> LoFTR:
    try:
        from kornia.feature import LoFTR as Network
    except ImportError:
        raise ConfigError('image_matcher.method = "loftr" needs kornia: pip install "vpr[matchers]"') from None
    network: Any = Network(pretrained=None)
    return LoFTR(network, load_published(network, settings.weights, _of_network), settings, device)


def _of_network(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published names without the prefix of the training."""
    return {key.removeprefix("matcher."): value for key, value in state.items()}
