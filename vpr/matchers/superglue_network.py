"""SuperGlue's network in its published layout, to be trained and to be loaded into.

Sarlin et al., CVPR 2020, arXiv:1911.11763. ``vpr.matchers.superglue_fast`` computes the same, faster, from the same
weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.matchers.attention import attention
from vpr.matchers.points import PointBatch
from vpr.matchers.sinkhorn import log_assignment

HEADS = 4


class PointLinear(nn.Conv1d):
    """A linear layer on points (B, N, C), whose weight is kept as that of a convolution, as published."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, kernel_size=1)

    def forward(self, points: Tensor) -> Tensor:
        return functional.linear(points, self.weight[:, :, 0], self.bias)


class PointNorm(nn.BatchNorm1d):
    """BatchNorm on points (B, N, C)."""

    def forward(self, points: Tensor) -> Tensor:
        return super().forward(points.flatten(0, 1)).view_as(points)


class KeypointEncoder(nn.Module):
    """Position and score of a point to a vector that is added to its descriptor."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = perceptron([3, *widths])

    def forward(self, batch: PointBatch) -> Tensor:
        """(B, N, D)"""
        encoded: Tensor = self.encoder(torch.cat([batch.points, batch.scores[..., None]], dim=2))
        return encoded


class Attention(nn.Module):
    """Multi-head attention; channel c of the projections belongs to head c % 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.ModuleList(PointLinear(dim, dim) for _ in "qkv")
        self.merge = PointLinear(dim, dim)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        inputs = zip(self.proj, (x, source, source), strict=True)
        q, k, v = (project(each).unflatten(2, (-1, HEADS)).permute(0, 3, 1, 2).contiguous() for project, each in inputs)
        message = attention(q, k, v, mask)  # (B, heads, N, D / heads)
        merged: Tensor = self.merge(message.permute(0, 2, 3, 1).flatten(2))
        return merged


class Layer(nn.Module):
    """One exchange of messages; returns what is to be added to the descriptors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn = Attention(dim)
        self.mlp = perceptron([2 * dim, 2 * dim, dim])

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        delta: Tensor = self.mlp(torch.cat([x, self.attn(x, source, mask)], dim=2))
        return delta


class Graph(nn.Module):
    """Layers of self-attention (even ones) and cross-attention (odd ones) in turn."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim) for _ in range(layers))

    def forward(self, x0: Tensor, x1: Tensor, mask0: Tensor | None, mask1: Tensor | None) -> tuple[Tensor, Tensor]:
        for i, layer in enumerate(self.layers):
            if i % 2 == 0:
                x0, x1 = x0 + layer(x0, x0, mask0), x1 + layer(x1, x1, mask1)
            else:
                x0, x1 = x0 + layer(x0, x1, mask1), x1 + layer(x1, x0, mask0)
        return x0, x1


class SuperGlueNetwork(nn.Module):
    """Graph matching of two sets of local features; coordinates are 1 at 0.7 times the longer side from the centre.

    ``encoder`` are the widths of the keypoint encoder, of which the last is the length of the descriptors. In training
    the BatchNorms count padded points as points: give every image equally many.
    """

    reach = 0.7
    oriented = False  # it reads no size and orientation of keypoints

    def __init__(
        self, encoder: Sequence[int] = (32, 64, 128, 256, 256), layers: int = 18, sinkhorn_iterations: int = 20
    ) -> None:
        super().__init__()
        self.sinkhorn_iterations = sinkhorn_iterations
        self.build(encoder, layers)

    def build(self, encoder: Sequence[int], layers: int) -> None:
        """Make the layers anew, of these sizes."""
        if layers < 2 or layers % 2:
            raise ValueError(f"{layers} layers: self-attention and cross-attention come in pairs")
        self.dim = encoder[-1]
        self.kenc = KeypointEncoder(encoder)
        self.gnn = Graph(self.dim, layers)
        self.final_proj = PointLinear(self.dim, self.dim)
        self.bin_score = nn.Parameter(torch.tensor(1.0))

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the sizes of these weights, which are in the published layout; returns the weights."""
        encoder = [
            state[key].shape[0] for key in numbered(state, r"kenc\.encoder\.(\d+)\.weight") if _is_linear(state[key])
        ]
        layers = len(numbered(state, r"gnn\.layers\.(\d+)\.mlp\.0\.weight"))
        if encoder and layers:  # else load_strictly will say what is missing
            self.build(encoder, layers)
        return state

    def forward(self, first: PointBatch, second: PointBatch) -> Tensor:
        """Log assignment (B, M + 1, N + 1): see vpr.matchers.sinkhorn.log_assignment."""
        x0 = first.descriptors + self.kenc(first)
        x1 = second.descriptors + self.kenc(second)
        x0, x1 = self.gnn(x0, x1, first.mask, second.mask)
        similarity = self.final_proj(x0) @ self.final_proj(x1).mT / self.dim**0.5
        return log_assignment(similarity, self.bin_score, self.sinkhorn_iterations, first.mask, second.mask)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers on every point, with BatchNorm and ReLU between them; the last one starts without bias."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [PointLinear(before, after), PointNorm(after), nn.ReLU()]
    last = layers[-3]
    assert isinstance(last, PointLinear) and last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers[:-2])


def numbered(state: Mapping[str, Tensor], pattern: str) -> list[str]:
    """The keys that match, by their layer number."""
    found = ((re.fullmatch(pattern, key), key) for key in state)
    return [key for _, key in sorted((int(match[1]), key) for match, key in found if match)]


def _is_linear(weight: Tensor) -> bool:
    return weight.dim() == 3
