"""LightGlue for inference: the same function as LightGlueNetwork, from the same weights, with less work.

Folded together, exactly: the output projection of an attention, and the bias of its values, into the layer after it;
the similarity's scale into the last projection; queries, keys and values into one product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.matchers.attention import attend, attend_both, two_inputs
from vpr.matchers.lightglue_network import (
    CrossBlock,
    LightGlueNetwork,
    MatchAssignment,
    SelfBlock,
    TokenConfidence,
    log_double_softmax,
)
from vpr.matchers.points import PointBatch, keep_points


@dataclass(frozen=True, eq=False)
class FastBlock:
    """Weights of one attention and what follows it; products are x @ weight.T."""

    project: Tensor  # (3 D, D) queries, keys and values; or (2 D, D) queries that are also keys, and values
    project_bias: Tensor
    own: Tensor  # (2 D, D) from the descriptor to the hidden layer
    sent: Tensor  # (2 D, D) from the message to the hidden layer
    bias: Tensor  # (2 D,)
    scale: Tensor  # (2 D,) of the LayerNorm
    shift: Tensor  # (2 D,)
    out: Tensor  # (D, 2 D)
    out_bias: Tensor  # (D,)


@dataclass(frozen=True, eq=False)
class FastHead:
    """Weights of a layer's assignment, of its matchability and of its confidence, in float32."""

    final: Tensor  # (D, D)
    final_bias: Tensor  # (D,)
    judges: Tensor  # (2, D) matchability and confidence; (1, D) after the last layer
    judges_bias: Tensor


@dataclass(frozen=True, eq=False)
class Side:
    """One image of each of B pairs, between two layers."""

    x: Tensor  # (B, N, D)
    turn: Tensor  # (B, N, D / heads / 2) complex: cosine and sine of the angles by which queries and keys are turned
    index: Tensor  # (B, N) which point of the input this is; where padded, the number of points of the input
    mask: Tensor | None  # (B, N) True for real points; None if all are

    def real(self) -> Tensor:
        return torch.ones_like(self.index, dtype=torch.bool) if self.mask is None else self.mask

    def pairs(self, rows: Tensor) -> Side:
        """The same image of some of the pairs."""
        mask = None if self.mask is None else self.mask[rows]
        return Side(self.x[rows], self.turn[rows], self.index[rows], mask)

    def points(self, kept: Tensor, padding: int) -> Side:
        """The points that ``kept``, (B, N), says, in their order; ``padding`` is the index of padded ones."""
        found = keep_points(self.index, kept, padding)
        if found is None:
            return replace(self, mask=None)
        x, turn = (each[found.rows, found.places] for each in (self.x, self.turn))
        return Side(x, turn, found.index, found.mask)


class FastLightGlue:
    """The network in inference form; the layers compute in ``dtype``, the sum of their results stays in float32."""

    def __init__(self, network: LightGlueNetwork, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.dim, self.input_dim, self.heads = network.dim, network.input_dim, network.heads
        self.layers, self.oriented = len(network.transformers), network.oriented
        projection = network.input_proj
        self._input = _cast((projection.weight, projection.bias), device) if isinstance(projection, nn.Linear) else None
        self._frequencies = network.posenc.Wr.weight.detach().to(device)
        parts = network.parts()
        self._self = [FastBlock(*_cast(_fold_self(layer.self_attn), device, dtype)) for layer, _, _ in parts]
        self._cross = [FastBlock(*_cast(_fold_cross(layer.cross_attn), device, dtype)) for layer, _, _ in parts]
        self._heads = [FastHead(*_cast(_fold_head(assign, confidence), device)) for _, assign, confidence in parts]

    def encode(self, batch: PointBatch) -> Side:
        """The state before the first cross-attention, which needs no partner."""
        x = batch.descriptors if self._input is None else functional.linear(batch.descriptors, *self._input)
        angles = functional.linear(batch.points, self._frequencies)
        index = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
        if batch.mask is not None:
            index = index.masked_fill(~batch.mask, x.shape[1])
        side = Side(x, torch.complex(angles.cos(), angles.sin()), index, batch.mask)
        return self._self_attention(self._self[0], side)

    def layer(self, i: int, side0: Side, side1: Side) -> tuple[Side, Side]:
        """Layer i, of which the first has its self-attention behind it."""
        if i > 0:
            side0, side1 = self._self_attention(self._self[i], side0), self._self_attention(self._self[i], side1)
        block = self._cross[i]
        (qk0, v0), (qk1, v1) = (self._project(block, each.x).chunk(2, dim=-1) for each in (side0, side1))
        messages = attend_both((qk0, qk1), (v0, v1), self.heads, (side0.mask, side1.mask))
        x0, x1 = (self._update(block, *each) for each in zip((side0.x, side1.x), messages, strict=True))
        return replace(side0, x=x0), replace(side1, x=x1)

    def judge(self, i: int, side: Side) -> Tensor:
        """(B, N, 2) after layer i: probability to have a match, confidence; only the first after the last layer."""
        return functional.linear(side.x, self._heads[i].judges, self._heads[i].judges_bias).sigmoid()

    def log_assignment(self, i: int, side0: Side, side1: Side) -> Tensor:
        """(B, M, N) by the head of layer i, without the row and the column of the unmatched."""
        head = self._heads[i]
        z0, z1 = (functional.linear(each.x, head.judges[:1], head.judges_bias[:1]) for each in (side0, side1))
        m0, m1 = (functional.linear(each.x, head.final, head.final_bias) for each in (side0, side1))
        return log_double_softmax(m0 @ m1.mT, z0, z1, side0.mask, side1.mask)

    def _self_attention(self, block: FastBlock, side: Side) -> Side:
        projected = self._project(block, side.x)
        q, k = _turned(projected[..., : 2 * self.dim], side, self.heads).chunk(2, dim=-1)
        message = attend(q, k, projected[..., 2 * self.dim :], self.heads, side.mask)
        return replace(side, x=self._update(block, side.x, message))

    def _project(self, block: FastBlock, x: Tensor) -> Tensor:
        return functional.linear(x.to(self.dtype), block.project, block.project_bias)

    def _update(self, block: FastBlock, x: Tensor, message: Tensor) -> Tensor:
        hidden = two_inputs(x.to(self.dtype), message, block.own, block.sent, block.bias)
        hidden = functional.gelu(functional.layer_norm(hidden, hidden.shape[-1:], block.scale, block.shift))
        return x + functional.linear(hidden, block.out, block.out_bias)


def _turned(qk: Tensor, side: Side, heads: int) -> Tensor:
    """Queries and keys, (B, N, 2 D), turned by the positions; neighbouring channels are x and y of what is turned."""
    pairs = torch.view_as_complex(qk.float().view(*qk.shape[:2], 2 * heads, -1, 2))
    return torch.view_as_real(pairs * side.turn[:, :, None]).flatten(2).to(qk.dtype)


def _fold_self(block: SelfBlock) -> tuple[Tensor, ...]:
    """The tensors of a FastBlock, in float64."""
    weight, bias = _linear(block.Wqkv)
    q, k, v = torch.arange(len(weight), device=weight.device).view(-1, 3).unbind(1)
    project = torch.cat([weight[q], weight[k], weight[v]])
    project_bias = torch.cat([bias[q], bias[k], torch.zeros_like(bias[v])])
    return project, project_bias, *_fold_after(block.out_proj, bias[v], block.ffn)


def _fold_cross(block: CrossBlock) -> tuple[Tensor, ...]:
    (qk, qk_bias), (v, v_bias) = _linear(block.to_qk), _linear(block.to_v)
    project_bias = torch.cat([qk_bias, torch.zeros_like(v_bias)])
    return torch.cat([qk, v]), project_bias, *_fold_after(block.to_out, v_bias, block.ffn)


def _fold_after(out: nn.Linear, v_bias: Tensor, ffn: nn.Sequential) -> tuple[Tensor, ...]:
    """Folds the projections after the attention, whose weights sum to 1: each message has all of the values' bias."""
    first, norm, _, last = ffn
    assert isinstance(norm, nn.LayerNorm)
    (hidden, hidden_bias), (merge, merge_bias) = _linear(first), _linear(out)
    own, of_message = hidden.chunk(2, dim=1)
    bias = hidden_bias + of_message @ (merge @ v_bias + merge_bias)
    return own, of_message @ merge, bias, norm.weight, norm.bias, *_linear(last)


def _fold_head(assignment: MatchAssignment, confidence: TokenConfidence | None) -> tuple[Tensor, ...]:
    """The tensors of a FastHead, in float64."""
    final, final_bias = _linear(assignment.final_proj)
    judges = [_linear(assignment.matchability)]
    if confidence is not None:
        judges.append(_linear(confidence.token[0]))
    scale = len(final) ** 0.25
    return final / scale, final_bias / scale, *(torch.cat(each) for each in zip(*judges, strict=True))


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64."""
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().double(), layer.bias.detach().double()


def _cast(tensors: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(each.detach().to(device, dtype).contiguous() for each in tensors)
