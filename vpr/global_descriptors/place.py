"""A global descriptor of the place: EfficientNet-Lite0 to stride 16, VLAD and layout of its features, a projection.

VLAD says which features an image has, the layout where they are: without it, near images of one street are mixed up.
VLAD with soft assignment: NetVLAD, Arandjelovic et al., CVPR 2016, arXiv:1511.07247. Ghost clusters, which take
features that say nothing of the place (black bars, timestamps, flat areas) and are left out: Zhong et al., ACCV 2018,
arXiv:1810.09951. `vpr train --config train_place_small` makes such weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vpr.config import MethodSettings
from vpr.core import Channels, Image
from vpr.global_descriptors.efficientnet import STAGES, EfficientNetLite0
from vpr.global_descriptors.networks import Backbone, Levels, load_network, to_tensor
from vpr.images import resize
from vpr.runtime.precision import Precision
from vpr.runtime.threads import one_by_one

CELL = 16  # pixels from one feature to the next
GRID = (6, 8)  # rows and columns of the layout, whatever the aspect of the image
LEVELS = Levels(mean=(127.0,) * 3, deviation=(128.0,) * 3)
ROOT_EPSILON = 1e-3  # makes the square root smooth at 0


class Settings(MethodSettings):
    """Settings of the descriptor."""

    method: Literal["place"] = "place"
    weights: str = "vpr-place"  # name or path of weights that `vpr train` made
    longest_side: int = Field(320, ge=CELL)  # larger and smaller images are brought to this
    precision: Precision = "fp32"  # of the backbone; what follows is always fp32


class GhostVlad(nn.Module):
    """Sums of residuals to ``clusters`` centroids; features that go to one of the ``ghosts`` count for nothing."""

    def __init__(self, channels: int, clusters: int, ghosts: int) -> None:
        super().__init__()
        self.assign = nn.Linear(channels, clusters + ghosts)
        self.centroids = nn.Parameter(torch.zeros(clusters, channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, clusters * C) unit rows, each sum normalised, then signed square roots."""
        clusters = len(self.centroids)
        unit = functional.normalize(maps.flatten(2).transpose(1, 2), dim=2)  # (B, N, C)
        shares = self.assign(unit).softmax(2)[..., :clusters]
        residuals = shares.transpose(1, 2) @ unit - shares.sum(1)[..., None] * self.centroids
        sums = functional.normalize(residuals, dim=2).flatten(1)
        return functional.normalize(sums / (sums.abs() + ROOT_EPSILON).sqrt(), dim=1)


class LayoutBranch(nn.Module):
    """Features averaged in the cells of a grid, with fewer channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, width)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, rows * columns * width) unit rows, each cell normalised."""
        cells = functional.adaptive_avg_pool2d(functional.normalize(maps, dim=1), GRID).flatten(2).transpose(1, 2)
        return functional.normalize(functional.normalize(self.reduce(cells), dim=2).flatten(1), dim=1)


class PlaceNetwork(nn.Module):
    """Backbone, aggregation and layout, and the projection of both."""

    def __init__(self, blocks: int, clusters: int, ghosts: int, width: int, dim: int) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0(blocks)
        self.aggregation = GhostVlad(self.backbone.channels, clusters, ghosts)
        self.layout = LayoutBranch(self.backbone.channels, width)
        self.projection = nn.Linear(self.backbone.channels * clusters + GRID[0] * GRID[1] * width, dim)

    @staticmethod
    def from_state_dict(state: Mapping[str, Tensor]) -> PlaceNetwork:
        """A network of the sizes of these weights; a small one for weights of another kind."""
        numbers = [int(found[1]) for key in state if (found := re.match(r"backbone\.blocks\.(\d{1,3})\.", key))]
        blocks = min(1 + max(numbers, default=0), sum(stage.blocks for stage in STAGES))
        clusters = len(state.get("aggregation.centroids", torch.empty(1)))
        assigned = len(state.get("aggregation.assign.weight", torch.empty(clusters)))
        width = len(state.get("layout.reduce.weight", torch.empty(1)))
        dim = len(state.get("projection.weight", torch.empty(1)))
        return PlaceNetwork(blocks, clusters, max(0, assigned - clusters), width, dim)

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return self.projection.out_features

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) with values (x - 127) / 128 to (B, dim) unit rows."""
        return self.head(self.backbone(images))

    def head(self, maps: Tensor) -> Tensor:
        """(B, C, h, w), the backbone's maps, to (B, dim) unit rows."""
        with torch.autocast(maps.device.type, enabled=False):
            return functional.normalize(self.projection(self.parts(maps.float())), dim=1)

    def parts(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, D), aggregation and layout before the projection."""
        return torch.cat([self.aggregation(maps), self.layout(maps)], dim=1)


class PlaceDescriptor:
    """A network with its weights, on a device."""

    channels: Channels = "rgb"

    def __init__(self, network: PlaceNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = network.eval().to(device)
        self.backbone = Backbone(network.backbone, LEVELS, device, settings.precision)
        self.dim = network.dim

    def preprocess(self, image: Image) -> Tensor:
        height, width = image.shape[:2]
        return to_tensor(resize(image, seen_size(width, height, self.settings.longest_side)))

    def describe(self, images: Sequence[Tensor]) -> Tensor:
        if self.device.type != "cpu" or not images:
            return self._describe(images)
        return torch.cat(one_by_one(lambda image: self._describe([image]), images, self.device))

    @torch.inference_mode()
    def _describe(self, images: Sequence[Tensor]) -> Tensor:
        vectors = torch.empty(len(images), self.dim, device=self.device)
        for places, maps in self.backbone.maps(images):
            vectors[places] = self.network.head(maps)
        return vectors


def seen_size(width: int, height: int, longest_side: int) -> tuple[int, int]:
    """Width and height with this longest side, both rounded to multiples of the stride; smaller images are enlarged."""
    scale = longest_side / max(width, height) / CELL
    return max(1, round(width * scale)) * CELL, max(1, round(height * scale)) * CELL


def build(settings: Settings, device: torch.device) -> PlaceDescriptor:
    network, sha256 = load_network(settings.weights, PlaceNetwork.from_state_dict)
    return PlaceDescriptor(network, sha256, settings, device)
