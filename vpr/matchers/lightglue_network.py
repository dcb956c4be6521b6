"""LightGlue's network in its published layout, to be trained and to be loaded into.

Lindenberger et al., ICCV 2023, arXiv:2306.13643. ``vpr.matchers.lightglue_fast`` computes the same, faster, from the
same weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.matchers.attention import attend_by_head
from vpr.matchers.points import PointBatch


@dataclass(frozen=True, eq=False)
class LayerResult:
    """Output of one layer for a pair of images."""

    log_assignment: Tensor  # (B, M + 1, N + 1); the last row and column say "unmatched"; padded places are -inf
    confidence0: Tensor | None  # (B, M) in [0, 1] that the point's matches are final; None after the last layer
    confidence1: Tensor | None  # (B, N)


class PositionalEncoding(nn.Module):
    """Rotation angles of a point: learned frequencies times position and, if ``oriented``, size and orientation."""

    def __init__(self, angles: int, *, oriented: bool = False) -> None:
        super().__init__()
        self.Wr = nn.Linear(4 if oriented else 2, angles, bias=False)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, (B, N, angles), for points (B, N, 2 or 4)."""
        angles = self.Wr(points)
        return angles.cos(), angles.sin()


class SelfBlock(nn.Module):
    """Messages within an image; queries and keys are rotated by the positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.Wqkv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.ffn = feed_forward(dim)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        q, k, v = self.Wqkv(x).unflatten(-1, (self.heads, -1, 3)).transpose(1, 2).unbind(-1)
        message = attend_by_head(rotate(q, rotation), rotate(k, rotation), v, mask)
        return _updated(x, self.out_proj(message), self.ffn)


class CrossBlock(nn.Module):
    """Messages between two images; a point's query is also its key."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qk = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)
        self.ffn = feed_forward(dim)

    def forward(self, x0: Tensor, x1: Tensor, mask0: Tensor | None, mask1: Tensor | None) -> tuple[Tensor, Tensor]:
        qk0, v0, qk1, v1 = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (x0, x1)
            for project in (self.to_qk, self.to_v)
        )
        message0, message1 = attend_by_head(qk0, qk1, v1, mask1), attend_by_head(qk1, qk0, v0, mask0)
        return _updated(x0, self.to_out(message0), self.ffn), _updated(x1, self.to_out(message1), self.ffn)


class TransformerLayer(nn.Module):
    """Self-attention, then cross-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = SelfBlock(dim, heads)
        self.cross_attn = CrossBlock(dim, heads)


class MatchAssignment(nn.Module):
    """Similarity of the points, and whether each has a partner at all."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.matchability = nn.Linear(dim, 1)
        self.final_proj = nn.Linear(dim, dim)

    def forward(self, x0: Tensor, x1: Tensor, mask0: Tensor | None, mask1: Tensor | None) -> Tensor:
        """Log assignment (B, M + 1, N + 1)."""
        z0, z1 = self.matchability(x0), self.matchability(x1)  # (B, M, 1), (B, N, 1)
        similarity = self.final_proj(x0) @ self.final_proj(x1).mT / x0.shape[-1] ** 0.5
        result = functional.pad(log_double_softmax(similarity, z0, z1, mask0, mask1), (0, 1, 0, 1))
        result[:, :-1, -1] = _masked(functional.logsigmoid(-z0[..., 0]), mask0)
        result[:, -1, :-1] = _masked(functional.logsigmoid(-z1[..., 0]), mask1)
        return result


class TokenConfidence(nn.Module):
    """Confidence of each point that further layers would not change its match."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.Linear(dim, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(B, N)"""
        confidence: Tensor = self.token(x.detach())[..., 0]  # it judges the descriptors, and does not shape them
        return confidence


class LightGlueNetwork(nn.Module):
    """Matching of two sets of local features; coordinates are 1 at half the longer side from the image's centre.

    ``input_dim`` is the length of the local descriptors, ``dim`` that inside. ``oriented``: points have size and
    orientation as well, as the published weights for SIFT and DoG + HardNet need.
    """

    reach = 0.5
    unused_keys = (r"log_assignment\.\d+\.r",)  # in the published weights for DISK

    def __init__(
        self, input_dim: int = 256, dim: int = 256, layers: int = 9, heads: int = 4, *, oriented: bool = False
    ) -> None:
        super().__init__()
        self.build(input_dim, dim, layers, heads, oriented=oriented)

    def build(self, input_dim: int, dim: int, layers: int, heads: int, *, oriented: bool) -> None:
        """Make the layers anew, of these sizes."""
        self.input_dim, self.dim, self.heads, self.oriented = input_dim, dim, heads, oriented
        self.input_proj = nn.Linear(input_dim, dim) if input_dim != dim else nn.Identity()
        self.posenc = PositionalEncoding(dim // heads // 2, oriented=oriented)
        self.transformers = nn.ModuleList(TransformerLayer(dim, heads) for _ in range(layers))
        self.log_assignment = nn.ModuleList(MatchAssignment(dim) for _ in range(layers))
        self.token_confidence = nn.ModuleList(TokenConfidence(dim) for _ in range(layers - 1))

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring published weights, of either naming, to this layout, and take their sizes.

        LighterGlue's file has "matcher." before every name, and XFeat's weights beside them.
        """
        state = {
            re.sub(r"^(self_attn|cross_attn)\.(\d+)", r"transformers.\2.\1", key.removeprefix("matcher.")): value
            for key, value in state.items()
            if key != "confidence_thresholds" and not key.startswith("extractor.")
        }
        projection, frequencies = state.get("transformers.0.self_attn.out_proj.weight"), state.get("posenc.Wr.weight")
        if projection is not None and frequencies is not None:  # else load_strictly will say what is missing
            dim = len(projection)
            first = state.get("input_proj.weight", projection)
            layers = sum(key.endswith("out_proj.weight") for key in state)
            heads, oriented = dim // (2 * len(frequencies)), frequencies.shape[1:] == (4,)
            self.build(first.shape[1], dim, layers, heads, oriented=oriented)
        return state

    def forward(self, first: PointBatch, second: PointBatch) -> list[LayerResult]:
        """Returns the output of each layer; the last one's log assignment is the network's."""
        x0, x1 = self.input_proj(first.descriptors), self.input_proj(second.descriptors)
        rotation0, rotation1 = self.posenc(first.points), self.posenc(second.points)
        results = []
        for layer, assign, confidence in self.parts():
            x0 = layer.self_attn(x0, rotation0, first.mask)
            x1 = layer.self_attn(x1, rotation1, second.mask)
            x0, x1 = layer.cross_attn(x0, x1, first.mask, second.mask)
            sure0, sure1 = (None, None) if confidence is None else (confidence(x0), confidence(x1))
            results.append(LayerResult(assign(x0, x1, first.mask, second.mask), sure0, sure1))
        return results

    def parts(self) -> list[tuple[TransformerLayer, MatchAssignment, TokenConfidence | None]]:
        """The modules of each layer; the last one has no confidence."""
        layers = zip_longest(self.transformers, self.log_assignment, self.token_confidence)
        return cast("list[tuple[TransformerLayer, MatchAssignment, TokenConfidence | None]]", list(layers))


def feed_forward(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of neighbouring channels of (B, heads, N, 2 A) by the point's A angles."""
    cosine, sine = (each[:, None] for each in rotation)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)


def log_double_softmax(
    similarity: Tensor, z0: Tensor, z1: Tensor, mask0: Tensor | None, mask1: Tensor | None
) -> Tensor:
    """Log of softmax over rows times softmax over columns times both matchabilities; (B, M, N), -inf where padded."""
    matchable = functional.logsigmoid(z0) + functional.logsigmoid(z1).mT
    over_columns = similarity if mask1 is None else similarity.masked_fill(~mask1[:, None, :], -torch.inf)
    over_rows = similarity if mask0 is None else similarity.masked_fill(~mask0[:, :, None], -torch.inf)
    scores = functional.log_softmax(over_columns, 2) + functional.log_softmax(over_rows, 1) + matchable
    if mask1 is not None:
        scores = scores.masked_fill(~mask1[:, None, :], -torch.inf)
    return scores if mask0 is None else scores.masked_fill(~mask0[:, :, None], -torch.inf)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x.masked_fill(~mask, -torch.inf)


def _updated(x: Tensor, message: Tensor, ffn: nn.Sequential) -> Tensor:
    updated: Tensor = x + ffn(torch.cat([x, message], dim=-1))
    return updated
