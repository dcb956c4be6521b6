"""IMP for inference: the same function as ImpNetwork, from the same weights, with less work.

Points are rows, so that every layer is one matrix product. The merging of the heads is folded into the layer after it,
and the scale of the similarity into its projection. Biases of keys, values and hidden layers are left out: the softmax
drops the first, and the normalisation over the points what is the same for all of them. For the iteration that reuses
an attention its queries and keys are kept, and the fused attention computes it again; that takes less time than writing
and reading the probabilities (a match of 1,024 points by one thread: 1.34 s of the processor instead of 1.41). EIMP's
pooling reads the probabilities, so they are kept where it follows. What an image computes before its first
cross-attention is done once for a query, not once per candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.matchers.attention import attention
from vpr.matchers.imp_network import NORM_EPSILON, ImpNetwork, OwnLayer, SharingLayer, shares
from vpr.matchers.points import PointBatch, keep_points
from vpr.matchers.superglue_network import HEADS, PointLinear


@dataclass(frozen=True, eq=False)
class Asked:
    """An attention that is computed again where it is reused."""

    q: Tensor  # (B, heads, M, D / heads)
    k: Tensor  # (B, heads, N, D / heads)
    mask: Tensor | None  # (B, N) points that are listened to; None if all are


Listened = tuple[Tensor, Tensor]  # of both images, (B, heads, M or N, M or N): how much each point listens to others
Reused = Listened | tuple[Asked, Asked]


@dataclass(frozen=True, eq=False)
class ImpLayer:
    """Weights of one layer; products are x @ weight.T."""

    ask: Tensor | None  # (2 D, D) queries, scaled, and keys, each with its heads one after the other; None: it shares
    ask_bias: Tensor | None
    values: Tensor  # (D, D)
    own: Tensor  # (2 D, D) from the descriptor to the hidden layer
    sent: Tensor  # (2 D, D) from the unmerged message to the hidden layer
    out: Tensor  # (D, 2 D)
    out_bias: Tensor  # (D,)


@dataclass(frozen=True, eq=False)
class GraphSide:
    """One image of each of B pairs, between two layers."""

    x: Tensor  # (B, N, D)
    index: Tensor  # (B, N) which point of the input this is; where padded, the number of points of the input
    mask: Tensor | None  # (B, N) True for real points; None if all are
    heard: Tensor | None  # (B, N) True for points that others listen to and that may be matched; None if all real are

    def real(self) -> Tensor:
        return torch.ones_like(self.index, dtype=torch.bool) if self.mask is None else self.mask

    def alive(self) -> Tensor:
        return self.real() if self.heard is None else self.heard

    def repeated(self, times: int) -> GraphSide:
        mask, heard = (None if each is None else each.expand(times, -1) for each in (self.mask, self.heard))
        return GraphSide(self.x.expand(times, -1, -1), self.index.expand(times, -1), mask, heard)

    def points(self, kept: Tensor, padding: int) -> GraphSide:
        """The points that ``kept``, (B, N), says, in their order; ``padding`` is the index of padded ones."""
        found = keep_points(self.index, kept, padding)
        if found is None:
            return replace(self, mask=None)
        return GraphSide(self.x[found.rows, found.places], found.index, found.mask, None)


class FastImp:
    """The network in inference form; the layers compute in ``dtype``, the sum of their results stays in float32."""

    def __init__(self, network: ImpNetwork, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.dim, self.iterations = network.dim, network.iterations
        self.sinkhorn_iterations = network.sinkhorn_iterations
        self.bin_score = network.bin_score.detach().to(device)
        self._encoder = [_cast(_linear(each), device) for each in network.kenc.encoder if isinstance(each, PointLinear)]
        self._layers = [_fast(layer, device, dtype) for layer in network.gnn.layers]
        self._heads = [
            _cast(tuple(each / self.dim**0.25 for each in _linear(head)), device) for head in network.final_proj
        ]

    def encode(self, batch: PointBatch) -> GraphSide:
        """The state before the first cross-attention, which needs no partner."""
        hidden = torch.cat([batch.points, batch.scores[..., None]], dim=2)
        for weight, _ in self._encoder[:-1]:
            hidden = normalise(functional.linear(hidden, weight), batch.mask).relu_()
        x = batch.descriptors + functional.linear(hidden, *self._encoder[-1])
        index = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
        if batch.mask is not None:
            index = index.masked_fill(~batch.mask, x.shape[1])
        side = GraphSide(x, index, batch.mask, None)
        return self._updated(0, side, side, None)[0]

    def iterate(
        self,
        iteration: int,
        side0: GraphSide,
        side1: GraphSide,
        listened: tuple[Reused, ...],
        *,
        probabilities: bool = True,
    ) -> tuple[GraphSide, GraphSide, tuple[Reused, ...]]:
        """One iteration, counted from 0, of which the first has its self-attention behind it.

        ``listened`` is what the iteration before returned: the attention to self and to the other image, () where no
        other iteration needs it. Without ``probabilities`` it is not in a form that the pooling reads, and faster.
        """
        keep = shares(iteration) or (shares(iteration + 1) and iteration + 1 < self.iterations)
        found: list[Reused] = []
        for kind in (0, 1):
            layer = 2 * iteration + kind
            if layer == 0:
                continue
            of0, of1 = (side1, side0) if kind else (side0, side1)
            before: Reused | tuple[None, None] = listened[kind] if shares(iteration) else (None, None)
            (new0, said0), (new1, said1) = (
                self._updated(layer, side0, of0, before[0], probabilities=keep and probabilities),
                self._updated(layer, side1, of1, before[1], probabilities=keep and probabilities),
            )
            side0, side1 = new0, new1
            if keep:
                found.append((said0, said1))  # type: ignore[arg-type]  # both are of one kind
        return side0, side1, tuple(found)

    def similarity(self, iteration: int, side0: GraphSide, side1: GraphSide) -> Tensor:
        """(B, M, N) by the head of an iteration."""
        head = self._heads[iteration]
        return functional.linear(side0.x, *head) @ functional.linear(side1.x, *head).mT

    def _updated(
        self,
        number: int,
        side: GraphSide,
        source: GraphSide,
        listened: Tensor | Asked | None,
        *,
        probabilities: bool = False,
    ) -> tuple[GraphSide, Tensor | Asked]:
        """The side after one layer, and how much its points listened, as it was given or as ``probabilities`` says."""
        layer, x, of = self._layers[number], side.x.to(self.dtype), source.x.to(self.dtype)
        v = _by_head(functional.linear(of, layer.values))
        if listened is None:
            assert layer.ask is not None and layer.ask_bias is not None
            q = _by_head(functional.linear(x, layer.ask[: self.dim], layer.ask_bias))
            k = _by_head(functional.linear(of, layer.ask[self.dim :]))
            mask = source.mask if source.heard is None else source.heard
            listened = _probabilities(q, k, mask) if probabilities else Asked(q, k, mask)
        if isinstance(listened, Asked):
            return self._added(layer, side, x, attention(listened.q, listened.k, v, listened.mask)), listened
        return self._added(layer, side, x, listened @ v), listened

    def _added(self, layer: ImpLayer, side: GraphSide, x: Tensor, message: Tensor) -> GraphSide:
        sent = message.transpose(1, 2).flatten(2)
        hidden = torch.mm(x.flatten(0, 1), layer.own.T).addmm_(sent.flatten(0, 1), layer.sent.T)
        hidden = normalise(hidden.view(*x.shape[:2], -1), side.mask).relu_()
        return replace(side, x=side.x + functional.linear(hidden, layer.out, layer.out_bias))


def normalise(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, C) of which each channel has mean 0 and variance 1 over the real points of its image; may overwrite x."""
    share = x.new_ones(x.shape[:2], dtype=torch.float32) if mask is None else mask.float()
    share = (share / share.sum(1, keepdim=True))[:, None]  # (B, 1, N)
    wide = x.float()
    wide = wide.sub_(share @ wide) if wide is x else wide.sub(share @ wide)
    scale = (share @ wide.square()).add_(NORM_EPSILON).rsqrt_()
    return wide.mul_(scale).to(x.dtype)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """(B, heads, M, N)"""
    scores: Tensor = q @ (k.mT * q.shape[-1] ** -0.5)
    if mask is not None:
        scores.masked_fill_(~mask[:, None, None, :], -torch.inf)
    return scores.softmax(-1)


def _by_head(x: Tensor) -> Tensor:
    """(B, heads, N, C / heads) of (B, N, C)"""
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (O, I) and bias, in float64."""
    assert isinstance(layer, PointLinear) and layer.bias is not None
    return layer.weight.detach()[:, :, 0].double(), layer.bias.detach().double()


def _fast(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> ImpLayer:
    assert isinstance(layer, OwnLayer | SharingLayer)
    hidden, out = (each for each in layer.mlp if isinstance(each, PointLinear))
    (weight, _), dim = _linear(hidden), out.out_channels
    # Channel d * heads + h becomes h * (dim / heads) + d.
    order = torch.arange(dim, device=weight.device).view(-1, HEADS).T.flatten()
    asking: tuple[Tensor, ...] = ()
    if isinstance(layer, OwnLayer):
        (q, q_bias), (k, _), (v, _) = (_linear(each) for each in layer.attn.proj)
        merge, _ = _linear(layer.attn.merge)
        asking = _cast((torch.cat([q[order], k[order]]), q_bias[order]), device, dtype)
    else:
        (v, _), (merge, _) = _linear(layer.proj), _linear(layer.merge)
    rest = (v[order], weight[:, :dim], weight[:, dim:] @ merge[:, order], *_linear(out))
    return ImpLayer(*(asking or (None, None)), *_cast(rest, device, dtype))


def _cast(tensors: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(each.to(device, dtype).contiguous() for each in tensors)
