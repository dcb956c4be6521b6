"""Maps of features to one vector, chosen by name; sizes are read off the weights.

GeM: Radenovic et al., TPAMI 2019, arXiv:1711.02512. NetVLAD: Arandjelovic et al., CVPR 2016, arXiv:1511.07247.
Transport: soft clusters by optimal transport with a bin for what is of no use, as in SALAD, Izquierdo and Civera, CVPR
2024, arXiv:2311.15937.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.global_descriptors.resnet import GeneralisedMean

SINKHORN_ITERATIONS = 3


class GemPooling(nn.Module):
    """The generalised mean of each channel, then a linear layer."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.mean = GeneralisedMean()
        self.linear = nn.Linear(channels, dim)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, dim) unit rows."""
        means = functional.normalize(self.mean(maps).flatten(1), dim=1)
        return functional.normalize(self.linear(means), dim=1)


class NetVladPooling(nn.Module):
    """Sums of residuals to ``clusters`` centroids, of features reduced to ``width`` dimensions."""

    def __init__(self, channels: int, clusters: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1)
        self.assign = nn.Linear(width, clusters)
        self.centroids = nn.Parameter(functional.normalize(torch.randn(clusters, width), dim=1))
        with torch.no_grad():  # start with soft assignment to the nearest centroid
            self.assign.weight.copy_(10 * self.centroids)
            self.assign.bias.zero_()

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, clusters * width) unit rows."""
        unit = functional.normalize(self.reduce(maps).flatten(2).transpose(1, 2), dim=2)  # (B, N, width)
        shares = self.assign(unit).softmax(2)
        residuals = shares.transpose(1, 2) @ unit - shares.sum(1)[..., None] * self.centroids
        return functional.normalize(functional.normalize(residuals, dim=2).flatten(1), dim=1)


class OptimalTransportPooling(nn.Module):
    """Features assigned by optimal transport to clusters of equal mass, or to a dustbin, and a vector of the scene."""

    def __init__(self, channels: int, clusters: int, width: int, scene: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1)
        self.score = nn.Conv2d(channels, clusters, 1)
        self.bin = nn.Parameter(torch.ones(()))
        self.scene = nn.Linear(channels, scene)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, scene + clusters * width) unit rows."""
        scores = self.score(maps).flatten(2)
        with_bin = torch.cat([scores, self.bin.expand(len(scores), 1, scores.shape[2])], dim=1)
        shares = sinkhorn(with_bin, SINKHORN_ITERATIONS)[:, :-1]
        clusters = functional.normalize(shares @ self.reduce(maps).flatten(2).transpose(1, 2), dim=2)
        whole = functional.normalize(self.scene(maps.mean((2, 3))), dim=1)
        return functional.normalize(torch.cat([whole, clusters.flatten(1)], dim=1), dim=1)


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """Shares (B, K, N) of features in bins, by Sinkhorn's iteration on their scores.

    Each feature's shares sum to 1, and each bin gets nearly N / K of them.
    """
    plan = scores
    for _ in range(iterations):
        plan = plan.log_softmax(2)
        plan = plan.log_softmax(1)
    return plan.exp()


@dataclass(frozen=True)
class Aggregation:
    """One row of the table."""

    make: Callable[..., nn.Module]  # of the channels and the sizes that ``sizes`` names
    sizes: Mapping[str, tuple[str, int]]  # of its arguments: the weight, under ``aggregation.``, and the axis to read


AGGREGATIONS = {
    "gem": Aggregation(GemPooling, {"dim": ("linear.weight", 0)}),
    "netvlad": Aggregation(NetVladPooling, {"clusters": ("centroids", 0), "width": ("centroids", 1)}),
    "transport": Aggregation(
        OptimalTransportPooling,
        {"clusters": ("score.weight", 0), "width": ("reduce.weight", 0), "scene": ("scene.weight", 0)},
    ),
}
SIGNATURE_KEYS = {"gem": "mean.p", "netvlad": "centroids", "transport": "bin"}


def aggregation_from_state_dict(state: Mapping[str, Tensor], channels: int) -> nn.Module:
    """An aggregation of the kind and the sizes of the weights ``aggregation.*``; GeM for weights of another kind."""
    name = next((name for name, key in SIGNATURE_KEYS.items() if f"aggregation.{key}" in state), "gem")
    row = AGGREGATIONS[name]
    sizes = {}
    for argument, (key, axis) in row.sizes.items():
        weight = state.get(f"aggregation.{key}", torch.empty(1, 1))
        sizes[argument] = weight.shape[axis] if axis < weight.dim() else 1
    return row.make(channels, **sizes)
