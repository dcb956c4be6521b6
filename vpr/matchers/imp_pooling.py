"""EIMP's pooling: keypoints that neither match nor are listened to leave, pair by pair in a batch.

The published code has two forms. Its plain forward pass ("mask") only stops others from listening to a keypoint, which
goes on being computed and being counted by the normalisation; that saves nothing. Its iterative matching ("drop")
takes keypoints out. Both are exact here, for each pair of a batch as for the pair by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vpr.matchers.imp_fast import GraphSide, Reused

Sides = tuple[GraphSide, GraphSide]


@dataclass(frozen=True)
class Pooling:
    """Which keypoints stay."""

    threshold: float = 0.1  # those with at least this probability of any match, in sum
    min_keypoints: int = 256  # an image with no more keeps all
    form: Literal["drop", "mask"] = "drop"


def may_pool(side0: GraphSide, side1: GraphSide, pooling: Pooling) -> bool:
    """Whether any image of the batch has more keypoints than it keeps in any case; a GPU makes the host wait."""
    return any(int(side.alive().sum(1).max()) > pooling.min_keypoints for side in (side0, side1))


def pool(sides: Sides, scores: Tensor, listened: tuple[Reused, ...], pooling: Pooling, sizes: tuple[int, int]) -> Sides:
    """Both sides with fewer keypoints.

    ``scores`` (B, M, N) are probabilities of matches without the dustbins, ``listened`` the attention of the iteration,
    ``sizes`` the numbers of points of the padded inputs.
    """
    (side0, side1), (own, other) = sides, listened
    queries = own[0], other[1], own[1], other[0]  # of image 0 to 0, of 1 to 0, of 1 to 1, of 0 to 1
    asking = side0, side1, side1, side0
    heard = []
    for each, side in zip(queries, asking, strict=True):
        assert isinstance(each, Tensor)  # iterations that pooling follows give probabilities
        heard.append(received(each, side.real()))
    kept0 = kept_points(side0.alive(), scores.sum(2), heard[:2], pooling)
    kept1 = kept_points(side1.alive(), scores.sum(1), heard[2:], pooling)
    return _reduced(side0, kept0, sizes[0], pooling), _reduced(side1, kept1, sizes[1], pooling)


def received(attention: Tensor, asking: Tensor) -> Tensor:
    """(B, N) how much N points are listened to in all, by those of M that ask, (B, M): attention (B, heads, M, N)."""
    heads = attention.shape[1]
    rows = asking.to(attention.dtype)[:, None, None].expand(-1, heads, -1, -1)  # (B, heads, 1, M)
    return (rows @ attention).float().sum((1, 2))


def kept_points(
    alive: Tensor, mass: Tensor, heard: Sequence[Tensor], pooling: Pooling, share: float | Tensor = 1.0
) -> Tensor:
    """(B, N) keypoints that match, and those listened to no less than half of these are, to self or from the other.

    ``mass`` is the probability of any match, in sum; ``share``, or (B, 1), is multiplied with the threshold. Where
    nothing matches yet, all stay.
    """
    matching = alive & (mass >= pooling.threshold * share)
    kept = matching.clone()
    for each in heard:
        kept |= each >= _lower_median(each, matching)[:, None]
    small = alive.sum(1) <= pooling.min_keypoints
    return alive & (kept | small[:, None] | ~matching.any(1, keepdim=True))


def _lower_median(values: Tensor, chosen: Tensor) -> Tensor:
    """(B,) of the chosen ones of (B, N); of an even number the lower middle one."""
    middle = ((chosen.sum(1) - 1) // 2).clamp_min(0)
    ordered = values.masked_fill(~chosen, torch.inf).sort(dim=1).values
    return ordered.gather(1, middle[:, None])[:, 0]


def _reduced(side: GraphSide, kept: Tensor, padding: int, pooling: Pooling) -> GraphSide:
    return replace(side, heard=kept) if pooling.form == "mask" else side.points(kept, padding)
