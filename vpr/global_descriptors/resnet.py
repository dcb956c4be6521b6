"""Generalised-mean pooling of a ResNet's or VGG16's features: CosPlace, EigenPlaces, and plain GeM.

GeM: Radenovic et al., TPAMI 2019, arXiv:1711.02512. CosPlace: Berton et al., CVPR 2022, arXiv:2204.02287. EigenPlaces:
Berton et al., ICCV 2023, arXiv:2308.10832. They differ in how they were trained; backbone, depth and dimensions are
read off the weights.
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
from vpr.global_descriptors.networks import IMAGENET, Backbone, load_network, pillow_resize, to_tensor
from vpr.images import fitted_size
from vpr.runtime.precision import Precision

# By the number of blocks in the third stage, and whether a block has three convolutions.
RESNETS = {(2, False): "resnet18", (6, True): "resnet50", (23, True): "resnet101", (36, True): "resnet152"}


class Settings(MethodSettings):
    """Settings of GeM."""

    method: Literal["gem", "cosplace", "eigenplaces"] = "gem"
    weights: str  # name or path of a checkpoint with backbone.* and aggregation.*
    shortest_side: int = Field(512, ge=32)  # larger images are shrunk to this
    precision: Precision = "fp32"  # of the backbone; the pooling is always fp32


class CosPlaceSettings(Settings):
    """Settings of CosPlace."""

    method: Literal["cosplace"] = "cosplace"
    weights: str = "cosplace_resnet50_2048"


class EigenPlacesSettings(Settings):
    """Settings of EigenPlaces."""

    method: Literal["eigenplaces"] = "eigenplaces"
    weights: str = "eigenplaces_resnet50_2048"


class Unit(nn.Module):
    """Unit vectors along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1)


class GeneralisedMean(nn.Module):
    """Mean of the p-th powers over a map, and its p-th root: (B, C, h, w) to (B, C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, maps: Tensor) -> Tensor:
        return maps.clamp_min(1e-6).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)


class GemNetwork(nn.Module):
    """Backbone, pooling and, with ``dim``, a linear layer. Made without weights: load them before use."""

    def __init__(self, backbone: str, depth: int, channels: int, dim: int | None) -> None:
        super().__init__()
        with torch.device("meta"):  # torchvision would fill a classifier, which is not used, with random numbers
            self.backbone = nn.Sequential(*_modules(backbone)[:depth])
            linear = [] if dim is None else [nn.Linear(channels, dim), Unit()]
            self.aggregation = nn.Sequential(Unit(), GeneralisedMean(), nn.Flatten(), *linear)
        self.to_empty(device="cpu")

    @staticmethod
    def from_state_dict(state: Mapping[str, Tensor]) -> GemNetwork:
        """A network of the backbone, depth and sizes of these weights."""
        numbers = [int(found[1]) for key in state if (found := re.match(r"backbone\.(\d+)\.", key))]
        linear = state.get("aggregation.3.weight")
        channels, dim = (0, None) if linear is None else (linear.shape[1], linear.shape[0])
        return GemNetwork(_backbone_of(state), 1 + max(numbers, default=7), channels, dim)

    def head(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) float32 to (B, D) unit rows."""
        return functional.normalize(self.aggregation(maps), dim=1)


class Gem:
    """A network with its weights, on a device."""

    channels: Channels = "rgb"

    def __init__(self, network: GemNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = network.to(device)
        self.backbone = Backbone(network.backbone, IMAGENET, device, settings.precision)
        self.dim = self._dim()

    def preprocess(self, image: Image) -> Tensor:
        height, width = image.shape[:2]
        return to_tensor(pillow_resize(image, fitted_size(width, height, shortest=self.settings.shortest_side)))

    @torch.inference_mode()
    def describe(self, images: Sequence[Tensor]) -> Tensor:
        vectors = torch.empty(len(images), self.dim, device=self.device)
        for places, maps in self.backbone.maps(images):
            vectors[places] = self.network.head(maps)
        return vectors

    @torch.inference_mode()
    def _dim(self) -> int:
        """Dimension of the descriptor, by a forward pass; without a linear layer the backbone's channels."""
        _, maps = next(self.backbone.maps([torch.zeros(3, 32, 32, dtype=torch.uint8)]))
        return self.network.head(maps).shape[1]


def _backbone_of(state: Mapping[str, Tensor]) -> str:
    """The name of the backbone; the most common one for weights of another kind, which will not load into it."""
    first = state.get("backbone.0.weight")
    if first is not None and first.shape[-1] == 3:
        return "vgg16"
    blocks = {found[1] for key in state if (found := re.match(r"backbone\.6\.(\d+)\.", key))}
    return RESNETS.get((len(blocks), "backbone.6.0.conv3.weight" in state), "resnet50")


def _modules(backbone: str) -> list[nn.Module]:
    """The backbone's parts in the order of the published numbers."""
    from torchvision import models  # type: ignore[import-untyped]

    if backbone == "vgg16":
        return list(models.vgg16(weights=None, init_weights=False).features)
    return list(models.get_model(backbone, weights=None).children())


def build(settings: Settings, device: torch.device) -> Gem:
    network, sha256 = load_network(settings.weights, GemNetwork.from_state_dict)
    return Gem(network, sha256, settings, device)
