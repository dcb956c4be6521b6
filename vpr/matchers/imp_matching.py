"""IMP and EIMP in a number of iterations that is fixed: a query and its candidates in one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpr.matchers.imp_assignment import assignment, dual_softmax
from vpr.matchers.imp_fast import FastImp, GraphSide, Reused
from vpr.matchers.imp_network import shares
from vpr.matchers.imp_pooling import Pooling, may_pool, pool

Assign = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]  # similarity, bin score, masks


def assigning(how: str, sinkhorn_iterations: int) -> Assign:
    """The assignment of that name, "sinkhorn" or "dual_softmax"."""
    if how == "dual_softmax":
        return dual_softmax
    return lambda similarity, bin_score, *masks: assignment(similarity, bin_score, sinkhorn_iterations, *masks)


def match_sides(
    network: FastImp,
    query: GraphSide,
    candidates: GraphSide,
    iterations: int,
    assign: Assign,
    *,
    pooling: Pooling | None,
) -> Tensor:
    """Probabilities (B, M, N) of one query, or B queries, against B candidates; 0 for points that were left out."""
    side0 = query.repeated(len(candidates.x)) if len(query.x) != len(candidates.x) else query
    side1 = candidates
    sizes = side0.x.shape[1], side1.x.shape[1]
    listened: tuple[Reused, ...] = ()
    pools = False
    for iteration in range(iterations):
        if shares(iteration + 1):  # whose attention this iteration computes
            pools = pooling is not None and iteration + 2 < iterations and may_pool(side0, side1, pooling)
        side0, side1, listened = network.iterate(iteration, side0, side1, listened, probabilities=pools)
        if pooling is not None and pools and shares(iteration):
            scores = assigned(network, iteration, side0, side1, assign)
            side0, side1 = pool((side0, side1), scores, listened, pooling, sizes)
    scores = assigned(network, iterations - 1, side0, side1, assign)
    return scores if pooling is None else _in_place(scores, side0, side1, sizes)


def assigned(network: FastImp, iteration: int, side0: GraphSide, side1: GraphSide, assign: Assign) -> Tensor:
    """Probabilities (B, M, N) of matches by the head of an iteration, without the dustbins."""
    masks = (side.mask if side.heard is None else side.heard for side in (side0, side1))
    return assign(network.similarity(iteration, side0, side1), network.bin_score, *masks)[:, :-1, :-1]


def _in_place(scores: Tensor, side0: GraphSide, side1: GraphSide, sizes: tuple[int, int]) -> Tensor:
    """Of the points that were left, in the rows and columns that they had."""
    every = scores.new_zeros(len(scores), sizes[0] + 1, sizes[1] + 1)
    rows = torch.arange(len(scores), device=scores.device)[:, None, None]
    every[rows, side0.index[:, :, None], side1.index[:, None, :]] = scores
    return every[:, :-1, :-1]
