"""IMP's network in its published layout, to be trained and to be loaded into; EIMP's is the same.

Xue, Budvytis and Cipolla, CVPR 2023, arXiv:2304.14837. One iteration is a layer of self-attention and one of
cross-attention. From the fourth iteration on every second one has no queries and keys of its own: it sends other
messages along the attention of the iteration before. Each iteration has a head of its own, so that the network can be
left after any of them. ``vpr.matchers.imp_fast`` computes the same, faster, from the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vpr.matchers.imp_assignment import assignment
from vpr.matchers.points import PointBatch
from vpr.matchers.superglue_network import HEADS, PointLinear, numbered

NORM_EPSILON = 1e-3
FIRST_SHARING = 3  # iteration, counted from 0


def shares(iteration: int) -> bool:
    """Whether an iteration, counted from 0, reuses the attention of the one before."""
    return iteration >= FIRST_SHARING and (iteration - FIRST_SHARING) % 2 == 0


class OverPoints(nn.Module):
    """Each channel normalised over the real points of its image; without parameters or running statistics."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, C); ``mask`` (B, N) is True for real points, None if all are. Padded points become 0 or nonsense."""
        if mask is None:
            variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        else:
            real = mask[..., None].to(x.dtype)
            share = real / real.sum(1, keepdim=True).clamp_min(1)
            mean = (x * share).sum(1, keepdim=True)
            variance = ((x - mean).square() * share).sum(1, keepdim=True)
        return (x - mean) * (variance + NORM_EPSILON).rsqrt()


class Perceptron(nn.Sequential):
    """Linear layers on every point, with OverPoints and ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [PointLinear(before, after), OverPoints(), nn.ReLU()]
        super().__init__(*layers[:-2])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, mask) if isinstance(layer, OverPoints) else layer(x)
        return x


class ImpEncoder(nn.Module):
    """Position and score of a point to a vector that is added to its descriptor."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Perceptron([3, *widths])

    def forward(self, batch: PointBatch) -> Tensor:
        """(B, N, D)"""
        encoded: Tensor = self.encoder(torch.cat([batch.points, batch.scores[..., None]], dim=2), batch.mask)
        return encoded


class ImpAttention(nn.Module):
    """Projections of multi-head attention; channel c belongs to head c % 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.ModuleList(PointLinear(dim, dim) for _ in "qkv")
        self.merge = PointLinear(dim, dim)

    def probabilities(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """(B, heads, M, N) of M points, how much each listens to N others, of which ``mask`` (B, N) are real."""
        q, k = _by_head(self.proj[0](x)), _by_head(self.proj[1](source))
        scores: Tensor = q @ k.mT / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        return scores.softmax(-1)


class OwnLayer(nn.Module):
    """An exchange of messages along attention of its own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn = ImpAttention(dim)
        self.mlp = Perceptron([2 * dim, 2 * dim, dim])

    def values(self, source: Tensor) -> Tensor:
        values: Tensor = self.attn.proj[2](source)
        return values

    def merge(self, message: Tensor) -> Tensor:
        merged: Tensor = self.attn.merge(message)
        return merged


class SharingLayer(nn.Module):
    """An exchange of messages along the attention of the layer of its kind before."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = PointLinear(dim, dim)
        self.merge = PointLinear(dim, dim)
        self.mlp = Perceptron([2 * dim, 2 * dim, dim])

    def values(self, source: Tensor) -> Tensor:
        values: Tensor = self.proj(source)
        return values


class Layers(nn.Module):
    """Layers of self-attention (even ones) and cross-attention (odd ones) in turn."""

    def __init__(self, dim: int, iterations: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            (SharingLayer if shares(each // 2) else OwnLayer)(dim) for each in range(2 * iterations)
        )


@dataclass(frozen=True, eq=False)
class State:
    """Both images of B pairs after some iterations."""

    x0: Tensor  # (B, M, D)
    x1: Tensor  # (B, N, D)
    listened: tuple[tuple[Tensor, Tensor], ...] = ()  # attention of (B, heads, M or N, M or N): self, cross; per image


class ImpNetwork(nn.Module):
    """Graph matching of two sets of local features in any number of iterations, up to those it was trained with.

    Coordinates are 1 at 0.7 times the longer side from the centre. ``encoder`` are the widths of the keypoint encoder,
    of which the last is the length of the descriptors.
    """

    reach = 0.7
    oriented = False

    def __init__(
        self, encoder: Sequence[int] = (32, 64, 128, 256, 256), iterations: int = 15, sinkhorn_iterations: int = 20
    ) -> None:
        super().__init__()
        self.sinkhorn_iterations = sinkhorn_iterations
        self.build(encoder, iterations)

    def build(self, encoder: Sequence[int], iterations: int) -> None:
        """Make the layers anew, of these sizes."""
        self.dim = encoder[-1]
        self.iterations = iterations
        self.kenc = ImpEncoder(encoder)
        self.gnn = Layers(self.dim, iterations)
        self.final_proj = nn.ModuleList(PointLinear(self.dim, self.dim) for _ in range(iterations))
        self.bin_score = nn.Parameter(torch.tensor(1.0))

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the sizes of these weights, which are in the published layout; returns the weights."""
        encoder = [state[key].shape[0] for key in numbered(state, r"kenc\.encoder\.(\d+)\.weight") if state[key].dim()]
        iterations = len(numbered(state, r"final_proj\.(\d+)\.weight"))
        if encoder and encoder[-1] % HEADS == 0 and iterations:  # else load_strictly will say what is missing
            self.build(encoder, iterations)
        return state

    def forward(self, first: PointBatch, second: PointBatch) -> list[Tensor]:
        """The assignment (B, M + 1, N + 1) after each iteration: see vpr.matchers.imp_assignment.assignment."""
        masks = first.mask, second.mask
        return [
            assignment(similarity, self.bin_score, self.sinkhorn_iterations, *masks)
            for similarity in self.similarities(first, second)
        ]

    def similarities(self, first: PointBatch, second: PointBatch) -> Iterator[Tensor]:
        """(B, M, N) after each iteration."""
        state = State(first.descriptors + self.kenc(first), second.descriptors + self.kenc(second))
        for iteration in range(self.iterations):
            state = self.iterate(iteration, state, first.mask, second.mask)
            head = self.final_proj[iteration]
            yield head(state.x0) @ head(state.x1).mT / self.dim**0.5

    def iterate(self, iteration: int, state: State, mask0: Tensor | None, mask1: Tensor | None) -> State:
        """One layer of self-attention, then one of cross-attention."""
        x0, x1 = state.x0, state.x1
        listened = []
        for kind in (0, 1):
            layer = self.gnn.layers[2 * iteration + kind]
            of0, of1 = ((x1, mask1), (x0, mask0)) if kind else ((x0, mask0), (x1, mask1))
            if isinstance(layer, OwnLayer):
                attention = layer.attn.probabilities(x0, *of0), layer.attn.probabilities(x1, *of1)
            else:
                attention = state.listened[kind]
            x0, x1 = (
                x0 + _update(layer, x0, of0[0], attention[0], mask0),
                x1 + _update(layer, x1, of1[0], attention[1], mask1),
            )
            listened.append(attention)
        return State(x0, x1, tuple(listened))


def _update(layer: nn.Module, x: Tensor, source: Tensor, attention: Tensor, mask: Tensor | None) -> Tensor:
    """What a layer adds to the descriptors (B, M, D)."""
    assert isinstance(layer, OwnLayer | SharingLayer)
    message = attention @ _by_head(layer.values(source))  # (B, heads, M, D / heads)
    merged = layer.merge(message.permute(0, 2, 3, 1).flatten(2))
    delta: Tensor = layer.mlp(torch.cat([x, merged], dim=2), mask)
    return delta


def _by_head(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], -1, HEADS).permute(0, 3, 1, 2)
