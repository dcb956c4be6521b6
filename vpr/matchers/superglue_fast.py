"""SuperGlue for inference: the same function as SuperGlueNetwork, from the same weights, with less work.

Points are rows, so that every layer is one matrix product. Folded together, exactly: BatchNorm into the layer before
it; the merging of the heads into the layer after it; the bias of the values, which every message contains, since
attention weights sum to 1; the similarity's scale into the last projection. The bias of the keys adds the same to all
scores of a query, so that the softmax drops it. What an image computes before its first cross-attention is done
once for a query, not once per candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.matchers.attention import attend, two_inputs
from vpr.matchers.points import PointBatch
from vpr.matchers.sinkhorn import log_assignment
from vpr.matchers.superglue_network import HEADS, Layer, SuperGlueNetwork


@dataclass(frozen=True, eq=False)
class FastLayer:
    """Weights of one layer; products are x @ weight.T."""

    qkv: Tensor  # (3 D, D) queries, keys and values, each with its heads one after the other
    qkv_bias: Tensor  # (3 D,)
    own: Tensor  # (2 D, D) from the descriptor to the hidden layer
    sent: Tensor  # (2 D, D) from the unmerged message to the hidden layer
    bias: Tensor  # (2 D,)
    out: Tensor  # (D, 2 D)
    out_bias: Tensor  # (D,)


@dataclass(frozen=True, eq=False)
class Encoded:
    """State of an image that does not depend on its partner: after its first self-attention."""

    x: Tensor  # (B, N, D)
    qkv: Tensor  # (B, N, 3 D) for the first cross-attention
    mask: Tensor | None  # (B, N)

    def repeated(self, times: int) -> Encoded:
        mask = None if self.mask is None else self.mask.expand(times, -1)
        return Encoded(self.x.expand(times, -1, -1), self.qkv.expand(times, -1, -1), mask)


class FastSuperGlue:
    """The network in inference form; the layers compute in ``dtype``, the sum of their results stays in float32."""

    def __init__(self, network: SuperGlueNetwork, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.dim = network.dim
        self.sinkhorn_iterations = network.sinkhorn_iterations
        self.bin_score = network.bin_score.detach().to(device)
        self._encoder = [tuple(_cast(each, device)) for each in _linears(network.kenc.encoder)]
        layers = [layer for layer in network.gnn.layers if isinstance(layer, Layer)]
        self._layers = [FastLayer(*_cast(_fold(layer), device, dtype)) for layer in layers]
        weight, bias = _linears(nn.Sequential(network.final_proj))[0]
        self._final = _cast((weight / self.dim**0.25, bias / self.dim**0.25), device)

    def encode(self, batch: PointBatch) -> Encoded:
        """The state that needs no partner."""
        hidden = torch.cat([batch.points, batch.scores[..., None]], dim=2)
        for i, (weight, bias) in enumerate(self._encoder):
            hidden = functional.linear(hidden.relu_() if i else hidden, weight, bias)
        x = batch.descriptors + hidden
        first = self._layers[0]
        qkv = self._project(first, x)
        x = self._update(first, x, qkv, qkv, batch.mask)
        return Encoded(x, self._project(self._layers[1], x), batch.mask)

    def log_assignment(self, query: Encoded, candidates: Encoded) -> Tensor:
        """(B, M + 1, N + 1) of one query, or B queries, against B candidates."""
        mine = query.repeated(len(candidates.x)) if len(query.x) == 1 else query
        x0, qkv0, mask0 = mine.x, mine.qkv, mine.mask
        x1, qkv1, mask1 = candidates.x, candidates.qkv, candidates.mask
        for i, layer in enumerate(self._layers[1:], 1):
            if i > 1:
                qkv0, qkv1 = self._project(layer, x0), self._project(layer, x1)
            if i % 2:
                x0, x1 = self._update(layer, x0, qkv0, qkv1, mask1), self._update(layer, x1, qkv1, qkv0, mask0)
            else:
                x0, x1 = self._update(layer, x0, qkv0, qkv0, mask0), self._update(layer, x1, qkv1, qkv1, mask1)
        similarity = functional.linear(x0, *self._final) @ functional.linear(x1, *self._final).mT
        return log_assignment(similarity, self.bin_score, self.sinkhorn_iterations, mask0, mask1)

    def _project(self, layer: FastLayer, x: Tensor) -> Tensor:
        return functional.linear(x.to(self.dtype), layer.qkv, layer.qkv_bias)

    def _update(self, layer: FastLayer, x: Tensor, qkv: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        q = qkv[..., : self.dim]
        k, v = source[..., self.dim :].chunk(2, dim=-1)
        message = attend(q, k, v, HEADS, mask)
        hidden = two_inputs(x.to(self.dtype), message, layer.own, layer.sent, layer.bias).relu_()
        return x + functional.linear(hidden, layer.out, layer.out_bias)


def _linears(layers: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """Weight (O, I) and bias, in float64, of each linear layer, with the BatchNorm that follows it."""
    linears: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        if isinstance(layer, nn.Conv1d) and layer.bias is not None:
            linears.append((layer.weight.detach()[:, :, 0].double(), layer.bias.detach().double()))
        elif isinstance(layer, nn.BatchNorm1d) and layer.running_mean is not None and layer.running_var is not None:
            weight, bias = linears.pop()
            scale = layer.weight.detach().double() / (layer.running_var.double() + layer.eps).sqrt()
            shift = layer.bias.detach().double() - layer.running_mean.double() * scale
            linears.append((weight * scale[:, None], bias * scale + shift))
    return linears


def _fold(layer: Layer) -> tuple[Tensor, ...]:
    """The tensors of a FastLayer, in float64."""
    projections = [_linears(nn.Sequential(each))[0] for each in layer.attn.proj]
    (q, q_bias), (k, _), (v, v_bias) = projections
    merge, merge_bias = _linears(nn.Sequential(layer.attn.merge))[0]
    (hidden, hidden_bias), (out, out_bias) = _linears(layer.mlp)
    dim = len(q)
    # Channel d * heads + h becomes h * (dim / heads) + d.
    order = torch.arange(dim, device=q.device).view(-1, HEADS).T.flatten()
    own, of_message = hidden[:, :dim], hidden[:, dim:]
    none = torch.zeros_like(q_bias)
    return (
        torch.cat([q[order], k[order], v[order]]),
        torch.cat([q_bias[order], none, none]),
        own,
        of_message @ merge[:, order],
        hidden_bias + of_message @ (merge @ v_bias + merge_bias),
        out,
        out_bias,
    )


def _cast(tensors: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(each.to(device, dtype).contiguous() for each in tensors)
