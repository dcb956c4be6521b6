"""NetVLAD on VGG16: features summed per cluster as residuals. Arandjelovic et al., CVPR 2016, arXiv:1511.07247.

Loads the checkpoints of Patch-NetVLAD and of pytorch-NetVlad, whose keys are the names of the modules here; the numbers
of clusters and of dimensions are the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vpr.config import MethodSettings
from vpr.core import Channels, Image
from vpr.global_descriptors.networks import IMAGENET, Backbone, Levels, load_network, pillow_resize, to_tensor
from vpr.global_descriptors.patches import CELL
from vpr.runtime.precision import Precision

WIDTH = 512  # channels of VGG16's conv5_3


class Input(MethodSettings):
    """The weights, and what the network sees."""

    weights: str = "patch_netvlad_mapillary_4096"  # name or path of a checkpoint of Patch-NetVLAD or pytorch-NetVlad
    height: int = Field(480, ge=CELL)  # every image is resized to this
    width: int = Field(640, ge=CELL)
    precision: Precision = "fp32"  # of VGG16; the pooling is always fp32

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


class Settings(Input):
    """Settings of NetVLAD."""

    method: Literal["netvlad"] = "netvlad"


class Pool(nn.Module):
    """Soft assignment of features to clusters, and the sums of their residuals."""

    def __init__(self, clusters: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, clusters, 1, bias=bias)
        self.centroids = nn.Parameter(torch.empty(clusters, WIDTH))

    def assign(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 512, h, w) to unit features (B, h, w, 512) and their shares in the clusters (B, h, w, K)."""
        unit = functional.normalize(features.permute(0, 2, 3, 1), dim=3)
        return unit, functional.linear(unit, self.conv.weight.flatten(1), self.conv.bias).softmax(3)

    def forward(self, unit: Tensor, shares: Tensor) -> Tensor:
        """(B, K, 512): each cluster's sum of share * (feature - centroid), as a unit vector.

        As sum(share * feature) - sum(share) * centroid: two products instead of a (K, 512, h, w) volume of residuals.
        At 480x640 with 64 clusters that takes 1.1 ms instead of 230.
        """
        unit, shares = unit.flatten(1, 2), shares.flatten(1, 2)
        residuals = shares.transpose(1, 2) @ unit - shares.sum(1)[..., None] * self.centroids
        return functional.normalize(residuals, dim=2)


class NetVladNetwork(nn.Module):
    """VGG16 to conv5_3, NetVLAD and, with ``dim``, PCA whitening. Made without weights: load them before use.

    ``clusters_first`` says how the (K, 512) residuals are flattened: Patch-NetVLAD's way, or else MATLAB's.
    """

    def __init__(self, clusters: int, dim: int | None, *, bias: bool = False, clusters_first: bool = True) -> None:
        super().__init__()
        self.clusters_first = clusters_first
        with torch.device("meta"):  # filling 4096 x 32768 weights with random numbers would take seconds
            self.encoder = vgg16_to_conv5_3()
            self.pool = Pool(clusters, bias)
            self.WPCA = nn.Sequential(nn.Conv2d(clusters * WIDTH, dim, 1)) if dim is not None else None
        self.to_empty(device="cpu")

    @staticmethod
    def from_state_dict(state: Mapping[str, Tensor], *, clusters_first: bool = True) -> NetVladNetwork:
        """A network of the sizes of these weights."""
        clusters = len(state.get("pool.centroids", torch.empty(64)))
        dim = len(state["WPCA.0.weight"]) if "WPCA.0.weight" in state else None
        return NetVladNetwork(clusters, dim, bias="pool.conv.bias" in state, clusters_first=clusters_first)

    @property
    def vlad_dim(self) -> int:
        return self.pool.centroids.numel()

    @property
    def dim(self) -> int:
        return self.vlad_dim if self.WPCA is None else len(self.get_parameter("WPCA.0.bias"))

    def whitening(self) -> tuple[Tensor, Tensor]:
        """Weight (D, K * 512) and bias (D,) of the PCA."""
        return self.get_parameter("WPCA.0.weight").flatten(1), self.get_parameter("WPCA.0.bias")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised, to (B, K * 512) unit rows, before PCA whitening; what is trained."""
        return self.flatten(self.pool(*self.pool.assign(self.encoder(images))))

    def flatten(self, residuals: Tensor) -> Tensor:
        """(B, K, 512) to (B, K * 512) unit rows."""
        ordered = residuals if self.clusters_first else residuals.transpose(1, 2)
        return functional.normalize(ordered.flatten(1), dim=1)

    def whiten(self, vectors: Tensor) -> Tensor:
        """(B, K * 512) to (B, D) unit rows; without PCA they stay as they are."""
        if self.WPCA is None:
            return vectors
        return functional.normalize(functional.linear(vectors, *self.whitening()), dim=1)


class NetVlad:
    """A network with its weights, on a device; ``resize`` is what an image goes through before it."""

    channels: Channels = "rgb"

    def __init__(
        self,
        network: NetVladNetwork,
        weights: str,
        *,
        resize: Callable[[Image], Image],
        levels: Levels,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.weights = weights
        self.dim = network.dim
        self.resize = resize
        self.device = device
        self.network = network.to(device)
        self.backbone = Backbone(network.encoder, levels, device, precision)

    def preprocess(self, image: Image) -> Tensor:
        return to_tensor(self.resize(image))

    @torch.inference_mode()
    def describe(self, images: Sequence[Tensor]) -> Tensor:
        vectors = torch.empty(len(images), self.network.vlad_dim, device=self.device)
        for places, unit, shares in self.assigned(images):
            vectors[places] = self.network.flatten(self.network.pool(unit, shares))
        return self.network.whiten(vectors)  # all at once, since it reads up to half a gigabyte of weights

    def assigned(self, images: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Places of some images in the sequence, their features, and the features' shares: see Pool.assign."""
        for places, features in self.backbone.maps(images):
            yield places, *self.network.pool.assign(features)


def vgg16_to_conv5_3() -> nn.Sequential:
    """VGG16's features without the last ReLU and pooling."""
    from torchvision.models import vgg16  # type: ignore[import-untyped]

    backbone: nn.Sequential = vgg16(weights=None, init_weights=False).features[:-2]
    return backbone


def build(settings: Settings, device: torch.device) -> NetVlad:
    network, sha256 = load_network(settings.weights, NetVladNetwork.from_state_dict)
    resize = partial(pillow_resize, size=settings.size)
    return NetVlad(network, sha256, resize=resize, levels=IMAGENET, device=device, precision=settings.precision)
