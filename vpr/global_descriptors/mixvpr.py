"""MixVPR: perceptrons that mix the places of a map of features. Ali-bey et al., WACV 2023, arXiv:2303.02190.

ResNet50 to its third stage. The number of mixers and of dimensions are read off the weights.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.config import MethodSettings
from vpr.core import Channels, Image
from vpr.global_descriptors.networks import IMAGENET, Backbone, load_network, pillow_resize, to_tensor
from vpr.runtime.precision import Precision

CELL = 16  # pixels from one feature to the next


class Settings(MethodSettings):
    """Settings of MixVPR."""

    method: Literal["mixvpr"] = "mixvpr"
    weights: str  # name or path of a checkpoint with backbone.model.* and aggregator.*
    precision: Precision = "fp32"  # of the backbone; the mixing is always fp32


class Mixer(nn.Module):
    """Adds to each channel what a perceptron makes of its whole map, flattened to (B, C, places)."""

    def __init__(self, places: int, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.LayerNorm(places), nn.Linear(places, hidden), nn.ReLU(), nn.Linear(hidden, places))

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = x + self.mix(x)
        return mixed


class Aggregator(nn.Module):
    """Mixers, then fewer channels, then fewer places."""

    def __init__(self, mixers: Sequence[Mixer], channel_proj: nn.Linear, row_proj: nn.Linear) -> None:
        super().__init__()
        self.mix = nn.Sequential(*mixers)
        self.channel_proj = channel_proj
        self.row_proj = row_proj

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, channels * rows) unit rows."""
        channels: Tensor = self.channel_proj(self.mix(maps.flatten(2)).transpose(1, 2))
        return functional.normalize(self.row_proj(channels.transpose(1, 2)).flatten(1), dim=1)


class MixNetwork(nn.Module):
    """Made without weights: load them before use."""

    def __init__(self, mixers: int, hidden: int, channel_shape: tuple[int, int], row_shape: tuple[int, int]) -> None:
        from torchvision.models import resnet50  # type: ignore[import-untyped]

        super().__init__()
        places = row_shape[1]
        with torch.device("meta"):
            parts = OrderedDict(list(resnet50(weights=None).named_children())[:7])
            self.backbone = nn.Sequential(OrderedDict(model=nn.Sequential(parts)))
            self.aggregator = Aggregator(
                [Mixer(places, hidden) for _ in range(mixers)],
                nn.Linear(channel_shape[1], channel_shape[0]),
                nn.Linear(places, row_shape[0]),
            )
        self.to_empty(device="cpu")
        self.dim = channel_shape[0] * row_shape[0]
        self.side = CELL * math.isqrt(places)  # of the square image that has this many features

    @staticmethod
    def from_state_dict(state: Mapping[str, Tensor]) -> MixNetwork:
        """A network of the sizes of these weights; of the largest published ones for weights of another kind."""
        numbers = {found[1] for key in state if (found := re.match(r"aggregator\.mix\.(\d+)\.", key))}
        hidden = state.get("aggregator.mix.0.mix.1.weight", torch.empty(400, 400))
        channels = state.get("aggregator.channel_proj.weight", torch.empty(1024, 1024))
        rows = state.get("aggregator.row_proj.weight", torch.empty(4, 400))
        return MixNetwork(len(numbers) or 4, len(hidden), _two(channels), _two(rows))


class MixVpr:
    """A network with its weights, on a device."""

    channels: Channels = "rgb"

    def __init__(self, network: MixNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.dim = network.dim
        self.device = device
        self.network = network.eval().to(device)
        self.backbone = Backbone(network.backbone, IMAGENET, device, settings.precision)

    def preprocess(self, image: Image) -> Tensor:
        return to_tensor(pillow_resize(image, (self.network.side, self.network.side)))

    @torch.inference_mode()
    def describe(self, images: Sequence[Tensor]) -> Tensor:
        vectors = torch.empty(len(images), self.dim, device=self.device)
        for places, maps in self.backbone.maps(images):
            vectors[places] = self.network.aggregator(maps)
        return vectors


def _two(tensor: Tensor) -> tuple[int, int]:
    rows, columns = tensor.shape
    return rows, columns


def build(settings: Settings, device: torch.device) -> MixVpr:
    network, sha256 = load_network(settings.weights, MixNetwork.from_state_dict)
    return MixVpr(network, sha256, settings, device)
