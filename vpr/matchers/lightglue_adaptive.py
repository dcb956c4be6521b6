"""LightGlue's adaptive depth and width, pair by pair in a batch.

Pairs whose matches are confident leave the batch, and points that confidently have no match leave their pair. The
published code does so for a single pair; here each pair of a batch gives exactly the result it gives by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpr.matchers.lightglue_fast import FastLightGlue, Side


@dataclass(frozen=True)
class Adaptivity:
    """When to stop, and which points to leave out; -1 switches either off."""

    depth_confidence: float = 0.95  # stop when more than this share of the points is confident
    width_confidence: float = 0.99  # leave out confident points that lack a match with at least this probability
    prune_above: int = 0  # an image with no more points than this keeps them all


@dataclass(frozen=True, eq=False)
class Found:
    """Results for B pairs, written as pairs finish. One more row and column take what is written for padded points."""

    log_scores: Tensor  # (B, M + 1, N + 1) log-probability of a match; -inf for points that were left out
    stop: Tensor  # (B,) number of layers it took
    survived0: Tensor  # (B, M + 1) how many times points were left out, and not this one
    survived1: Tensor  # (B, N + 1)

    @staticmethod
    def nothing(side0: Side, side1: Side) -> Found:
        (pairs, width0), width1 = side0.index.shape, side1.index.shape[1]
        log_scores = side0.x.new_full((pairs, width0 + 1, width1 + 1), -torch.inf)
        survived0, survived1 = (side0.index.new_zeros(pairs, width + 1) for width in (width0, width1))
        return Found(log_scores, side0.index.new_zeros(pairs), survived0, survived1)


@dataclass(frozen=True, eq=False)
class _Running:
    """The pairs that are not finished."""

    side0: Side
    side1: Side
    rows: Tensor  # (B',) their places in the results
    points: Tensor  # (B',) how many points both images had at the start

    def pairs(self, chosen: Tensor) -> _Running:
        places = chosen.nonzero()[:, 0]
        return _Running(self.side0.pairs(places), self.side1.pairs(places), self.rows[places], self.points[places])


def match_adaptively(network: FastLightGlue, query: Side, candidates: Side, how: Adaptivity) -> Found:
    """One query, or B queries, against B candidates, each encoded by the network."""
    count = len(candidates.x)
    if len(query.x) != count:
        query = query.pairs(query.index.new_zeros(count))
    found = Found.nothing(query, candidates)
    points = query.real().sum(1) + candidates.real().sum(1)
    running = _Running(query, candidates, torch.arange(count, device=points.device), points)
    for i in range(network.layers):
        side0, side1 = network.layer(i, running.side0, running.side1)
        running = _Running(side0, side1, running.rows, running.points)
        if i + 1 == network.layers:
            _finish(network, i, running, found)
        else:
            running = _adapt(network, i, running, found, how)
        if not len(running.rows):
            break
    return found


def _adapt(network: FastLightGlue, i: int, running: _Running, found: Found, how: Adaptivity) -> _Running:
    """After layer i: finish the pairs that are confident enough, then leave out points of the others."""
    confident = min(max(0.8 + 0.1 * math.exp(-4 * i / network.layers), 0.0), 1.0)
    sides = running.side0, running.side1
    judged0, judged1 = (network.judge(i, each) for each in sides)
    if how.depth_confidence > 0:
        unconfident0, unconfident1 = (
            ((judged[..., 1] < confident) & each.real()).sum(1)
            for judged, each in zip((judged0, judged1), sides, strict=True)
        )
        stops = 1.0 - (unconfident0 + unconfident1) / running.points > how.depth_confidence
        if bool(stops.any()):
            _finish(network, i, running.pairs(stops), found)
            running, judged0, judged1 = running.pairs(~stops), judged0[~stops], judged1[~stops]
    if how.width_confidence > 0 and len(running.rows):
        kept = _kept(judged0, running.side0, confident, how), _kept(judged1, running.side1, confident, how)
        running = _narrowed(i, running, kept, found, how)
    return running


def _finish(network: FastLightGlue, i: int, running: _Running, found: Found) -> None:
    """Match the pairs by the head of layer i."""
    side0, side1 = running.side0, running.side1
    places = running.rows[:, None, None], side0.index[:, :, None], side1.index[:, None, :]
    found.log_scores[places] = network.log_assignment(i, side0, side1)
    found.stop[running.rows] = i + 1


def _kept(judged: Tensor, side: Side, confident: float, how: Adaptivity) -> Tensor:
    """(B, N) the points that may have a match, and those that are not yet confident."""
    real = side.real()
    kept = judged[..., 0] > 1 - how.width_confidence
    if how.depth_confidence > 0:
        kept |= judged[..., 1] <= confident
    return real & (kept | (real.sum(1) <= how.prune_above)[:, None])


def _narrowed(i: int, running: _Running, kept: tuple[Tensor, Tensor], found: Found, how: Adaptivity) -> _Running:
    """Only the kept points; a pair with none left on a side is finished, without matches."""
    sides, survived = (running.side0, running.side1), (found.survived0, found.survived1)
    for side, of_side, count in zip(sides, kept, survived, strict=True):
        tested = (side.real().sum(1) > how.prune_above)[:, None]
        count[running.rows[:, None], side.index.masked_fill(~(of_side & tested), count.shape[1] - 1)] += 1
    left = kept[0].any(1) & kept[1].any(1)
    found.stop[running.rows[~left]] = i + 2  # the published code notices before the next layer
    if not bool(left.any()):
        return running.pairs(left)
    running = running.pairs(left)
    side0 = running.side0.points(kept[0][left], padding=found.survived0.shape[1] - 1)
    side1 = running.side1.points(kept[1][left], padding=found.survived1.shape[1] - 1)
    return _Running(side0, side1, running.rows, running.points)
