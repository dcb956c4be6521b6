"""A global descriptor on SuperPoint's backbone: one pass of it gives local features and this.

A few convolutions with a wider view follow the backbone's last maps, then an aggregation (``aggregation.py``) and,
where the weights have one, PCA whitening. `vpr train --config train_global` makes such weights. On a CPU, for 640 x 480
pixels, what follows the backbone adds 1 to 3 % to SuperPoint's time, and 5 to 9 % to that of one half as wide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.config import MethodSettings
from vpr.core import Channels, Image, LocalExtractor, LocalFeatures
from vpr.global_descriptors.aggregation import aggregation_from_state_dict
from vpr.global_descriptors.networks import equal_sizes, load_network
from vpr.global_descriptors.whitening import Whitening
from vpr.local_features.superpoint import SeenSize, SuperPoint
from vpr.local_features.superpoint_fast import FastBackbone
from vpr.local_features.superpoint_network import CELL, SuperPointNetwork
from vpr.runtime.precision import Precision, arithmetic, dtype_of

HALVINGS = 2  # this many of the first convolutions after the backbone halve the map


class Settings(SeenSize, MethodSettings):
    """Settings of the global descriptor on SuperPoint's backbone.

    With SuperPoint for local features, the same backbone in its weights, and equal sizes and precision in both, an
    image goes through the backbone once.
    """

    method: Literal["superpoint_global"] = "superpoint_global"
    weights: str  # name or path of weights that `vpr train` made
    precision: Precision = "fp32"  # of the backbone; what follows is always fp32


class Convolution(nn.Module):
    """Convolution, BatchNorm and ReLU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class GlobalNetwork(nn.Module):
    """SuperPoint's backbone as ``encoder``, convolutions as ``head``, an aggregation; whitened once it is fitted."""

    def __init__(self, encoder: SuperPointNetwork, widths: Sequence[int], aggregation: nn.Module) -> None:
        super().__init__()
        encoder.drop_heads()
        self.encoder = encoder
        before = [channels_of(encoder), *widths[:-1]]
        strides = [2 if i < HALVINGS else 1 for i in range(len(widths))]
        self.head = nn.Sequential(*map(Convolution, before, widths, strides))
        self.aggregation = aggregation
        # Without it all images start out alike, and training stays there: a saddle that pushes nothing apart.
        self.centre = nn.BatchNorm1d(self._aggregated(widths[-1]))
        self.whitening: nn.Linear | None = None

    @staticmethod
    def from_state_dict(state: Mapping[str, Tensor]) -> GlobalNetwork:
        """A network of the kinds and sizes of these weights."""
        encoder = SuperPointNetwork()
        open_layout = "encoder.backbone.0.0.conv.weight" in state
        last = r"backbone\.\d\.1\.conv\.bias" if open_layout else r"conv\db\.bias"
        backbone = [len(state[key]) for key in sorted(state) if re.fullmatch(rf"encoder\.{last}", key)]
        if len(backbone) == 4:
            encoder.build("open" if open_layout else "v1", backbone, head=1, dim=1)
        convolutions = [key for key in sorted(state) if re.fullmatch(r"head\.\d\.conv\.weight", key)]
        widths = [len(state[key]) for key in convolutions] or [1]
        network = GlobalNetwork(encoder, widths, aggregation_from_state_dict(state, widths[-1]))
        if "whitening.weight" in state and state["whitening.weight"].dim() == 2:
            network.whitening = nn.Linear(state["whitening.weight"].shape[1], state["whitening.weight"].shape[0])
        return network

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        if self.whitening is not None:
            return self.whitening.out_features
        return self.centre.num_features

    def forward(self, images: Tensor, maps: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) with values in [0, 1] to (B, dim) unit rows; ``maps`` if the encoder's are known already."""
        return self.after_backbone(self.encoder.maps(images) if maps is None else maps)

    def after_backbone(self, maps: Tensor) -> Tensor:
        """(B, C, h, w), what SuperPointNetwork.maps gives, to (B, dim) unit rows."""
        features = self.head(maps)
        with torch.autocast(maps.device.type, enabled=False):
            vectors: Tensor = self.aggregation(features.float())
            vectors = functional.normalize(self.centre(vectors * vectors.shape[1] ** 0.5), dim=1)
            return vectors if self.whitening is None else functional.normalize(self.whitening(vectors), dim=1)

    def _aggregated(self, channels: int) -> int:
        """Length of what the aggregation makes of maps of this many channels."""
        with torch.inference_mode():
            return int(self.aggregation(torch.zeros(1, channels, 1, 1)).shape[1])

    def whiten(self, whitening: Whitening) -> None:
        """Add a fitted whitening."""
        self.whitening = nn.Linear(whitening.weight.shape[1], whitening.dim)
        self.whitening.load_state_dict(
            {"weight": torch.from_numpy(whitening.weight).float(), "bias": torch.from_numpy(whitening.bias).float()}
        )


class SuperPointGlobal:
    """A network with its weights, on a device; images are (1, H, W) tensors, uint8 or float with values in [0, 1]."""

    channels: Channels = "grey"

    def __init__(self, network: GlobalNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.backbone = FastBackbone(network.encoder, device, dtype_of(settings.precision, device))
        self.network = network.eval().to(device)
        self.network.head.to(memory_format=torch.channels_last)
        self.dim = network.dim

    def preprocess(self, image: Image) -> Tensor:
        return self.settings.applied_to(image)

    @torch.inference_mode()
    def describe(self, images: Sequence[Tensor]) -> Tensor:
        vectors = torch.zeros(len(images), self.dim, device=self.device)
        for places, batch in equal_sizes(images, self.device):
            if min(batch.shape[2:]) >= CELL:
                grey = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
                with arithmetic(self.settings.precision, self.device):
                    vectors[places] = self.of_maps(self.backbone(grey))
        return vectors

    def of_maps(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) from the backbone to (B, dim); an image too small to have a map has a zero row."""
        if not maps.numel():
            return torch.zeros(len(maps), self.dim, device=self.device)
        with arithmetic("fp32", self.device):
            return self.network.after_backbone(self.backbone.finish(maps))

    def shares_backbone_with(self, extractor: LocalExtractor) -> bool:
        """Whether a local extractor sends the same pixels through the same backbone, so that one pass is enough."""
        if not isinstance(extractor, SuperPoint):
            return False
        mine, theirs = self.settings, extractor.settings
        alike = mine.same_as(theirs) and mine.precision == theirs.precision
        return alike and self.backbone.equals(extractor.network.backbone)

    def describe_with(self, extractor: LocalExtractor, images: Sequence[Tensor]) -> list[tuple[LocalFeatures, Tensor]]:
        """Local features and global descriptor of each image, from one pass of the backbone."""
        assert isinstance(extractor, SuperPoint)  # see shares_backbone_with
        return extractor.extract_and(images, lambda maps: list(self.of_maps(maps).cpu()))


def channels_of(encoder: SuperPointNetwork) -> int:
    """Channels of the backbone's last maps."""
    return encoder.backbone_steps()[-1].conv.out_channels


def build(settings: Settings, device: torch.device) -> SuperPointGlobal:
    network, sha256 = load_network(settings.weights, GlobalNetwork.from_state_dict)
    return SuperPointGlobal(network, sha256, settings, device)
