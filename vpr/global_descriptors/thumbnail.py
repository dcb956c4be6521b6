"""A patch-normalised thumbnail: the pixels themselves as a descriptor, for views along one route.

Milford and Wyeth, ICRA 2012 (SeqSLAM). The inner product of two such vectors is a correlation of images of equal
local contrast; it knows no change of viewpoint, and is the floor that every learned descriptor has to clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vpr.config import MethodSettings
from vpr.core import Channels, Image
from vpr.images import resize


class Settings(MethodSettings):
    """Settings of the thumbnail."""

    method: Literal["thumbnail"] = "thumbnail"
    width: int = Field(64, ge=8)
    height: int = Field(32, ge=8)
    patch: int = Field(8, ge=2)  # side of the squares whose contrast is normalised

    @model_validator(mode="after")
    def _divides(self) -> Settings:
        if self.width % self.patch or self.height % self.patch:
            raise ValueError(f"patch = {self.patch} must divide width = {self.width} and height = {self.height}")
        return self


class Thumbnail:
    """Images are (H, W) float32 grey tensors of one size."""

    channels: Channels = "grey"
    weights = ""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dim = settings.width * settings.height

    def preprocess(self, image: Image) -> Tensor:
        return torch.from_numpy(resize(image, (self.settings.width, self.settings.height))).float()

    def describe(self, images: Sequence[Tensor]) -> Tensor:
        if not images:
            return torch.zeros(0, self.dim)
        side = self.settings.patch
        patches = torch.stack(list(images)).unfold(1, side, side).unfold(2, side, side).flatten(-2)
        centred = patches - patches.mean(-1, keepdim=True)
        # A patch without contrast, such as plain sky, has no direction: it stays zero instead of blown-up noise.
        normalised = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1.0)
        return torch.nn.functional.normalize(normalised.flatten(1), dim=1)


def build(settings: Settings, device: torch.device) -> Thumbnail:
    """So little arithmetic stays on the CPU, whatever the device."""
    return Thumbnail(settings)
