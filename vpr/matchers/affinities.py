"""Local affinities: how the surroundings of a point lie in the other image, and which partners that allows.

As AdaLAM does: Cavalli, Larsson, Oswald, Sattler and Pollefeys, ECCV 2020, "Handcrafted outlier detection revisited".
Around each of the clearest matches an affinity is sought that explains the matches nearby, and believed if it explains
many more than chance would. Other than published: no scale and orientation of points is needed; the hypotheses are
fixed, not drawn, so that every run gives the same; and points are matched anew within what the affinities allow, which
finds partners that were not the best ones. The scores may be cosines of descriptors or a learned matcher's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vpr.config import Section
from vpr.core import LocalFeatures
from vpr.matchers.points import size_of

FIRST = 16  # matches of a neighbourhood, the clearest, whose pairs are the hypotheses
TOLERANCE = 0.06  # of a hypothesis, as a fraction of a neighbourhood's radius
LARGEST_SCALE = 4.0  # of an affinity, and its inverse
TOGETHER = 4096  # seeds, or points, at a time: some 250 MB


class Settings(Section):
    """Settings of local affinities. Radii are of circles of which this many cover the image."""

    area_ratio: float = Field(100.0, gt=0)  # images' area over that of a seed's circle, in which it is the clearest
    search_expansion: float = Field(4.0, ge=1)  # radius of a neighbourhood over that of a seed's circle
    neighbours: int = Field(64, ge=8)  # matches of a neighbourhood that are used, the clearest
    min_confidence: float = Field(200.0, ge=1)  # matches that an affinity explains, over those that chance would
    min_inliers: int = Field(6, ge=3)  # of an affinity that is believed
    tolerance: float = Field(4.0, gt=0)  # pixels between a point's partner and where an affinity puts it


class Affinities(NamedTuple):
    """Affine maps around seeds, between two images of several pairs; S of them in all."""

    pair: Tensor  # (S,) int64
    seed: Tensor  # (S, 2) pixels
    partner: Tensor  # (S, 2) the seed's partner in the other image, pixels
    matrix: Tensor  # (S, 2, 3) from x, y relative to the seed, and 1, to x, y relative to its partner
    reach: Tensor  # (S,) pixels around the seed in which it holds

    def inverse(self) -> Affinities:
        """Of the other direction."""
        turned = torch.linalg.inv(self.matrix[..., :2])
        back = torch.cat([turned, -turned @ self.matrix[..., 2:]], dim=2)
        return Affinities(self.pair, self.partner, self.seed, back, self.reach * _scale(self.matrix))


class Tentative(NamedTuple):
    """Partners of the points of K pairs, before anything is known of their surroundings; pixels."""

    points: Tensor  # (K, N, 2)
    partners: Tensor  # (K, N, 2) in the other image
    ambiguity: Tensor  # (K, N) the lower, the clearer; only the order counts, and inf is no partner at all
    mutual: Tensor  # (K, N) which are their partners' partners too: only these are seeds
    areas: tuple[Tensor, Tensor]  # (K,) of both images, square pixels; (1,) is the same for all


def keep_explained(
    query: LocalFeatures, candidates: Sequence[LocalFeatures], scores: Tensor, ambiguity: Tensor, settings: Settings
) -> Tensor:
    """The scores (K, N, M) of a query's points against its candidates', -inf where no local affinity allows a match.

    ``ambiguity`` (K, N) is of each point's best partner. Padded columns of the scores are -inf. On one core 1,000
    points against 1,000 take 15 ms, and 40 where most match.
    """
    points, others, areas = places_of(query, candidates, scores.device)
    found = find_affinities(tentative(points, others, scores, ambiguity, areas), settings)
    return scores.masked_fill(~explained(points, others, found, settings.tolerance), -torch.inf)


def places_of(
    query: LocalFeatures, candidates: Sequence[LocalFeatures], device: torch.device
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Points (K, N, 2) of the query, K times, and (K, M, 2) of its candidates; the areas (1,) and (K,) of both."""
    others = pad_sequence([each.keypoints for each in candidates], batch_first=True).to(device)
    area, areas = (
        torch.tensor([math.prod(size_of(each)) for each in side], device=device) for side in ([query], candidates)
    )
    return query.keypoints.to(device).expand(len(others), -1, -1), others, (area, areas)


def tentative(
    points: Tensor, others: Tensor, scores: Tensor, ambiguity: Tensor, areas: tuple[Tensor, Tensor]
) -> Tentative:
    """The best partner of each of (K, N, 2) points among (K, M, 2) others by their scores (K, N, M)."""
    forward = scores.argmax(2)
    mutual = scores.argmax(1).gather(1, forward) == torch.arange(points.shape[1], device=points.device)
    return Tentative(points, rows_of(others, forward), ambiguity, mutual, areas)


def find_affinities(matches: Tentative, settings: Settings) -> Affinities:
    """Those that are believed."""
    known = int(matches.ambiguity.isfinite().sum(1).amax())
    clearest_first = matches.ambiguity.argsort(dim=1, stable=True)[:, : max(known, 1)]
    points, partners = (rows_of(each, clearest_first) for each in (matches.points, matches.partners))
    mutual, sound = (each.gather(1, clearest_first) for each in (matches.mutual, matches.ambiguity.isfinite()))
    radius, radius_there = (
        (each / (settings.area_ratio * torch.pi)).sqrt().expand(len(points)) for each in matches.areas
    )
    place = torch.arange(points.shape[1], device=points.device)
    within = torch.cdist(points, points) < radius[:, None, None]
    clearest = ~within.tril(-1).any(2)
    pair, row = (mutual & sound & clearest).nonzero().unbind(1)

    seed, partner = points[pair, row], partners[pair, row]
    start, end = points[pair] - seed[:, None], partners[pair] - partner[:, None]  # (S, N, 2)
    reach, reach_there = (settings.search_expansion * each[pair] for each in (radius, radius_there))
    near = _shorter(start, reach) & _shorter(end, reach_there) & sound[pair]
    near[torch.arange(len(pair), device=row.device), row] = False
    counts = near.sum(1)
    several = counts >= settings.min_inliers
    pair, seed, partner, start, end, near, reach_there = _only(
        several, pair, seed, partner, start, end, near, reach_there
    )
    most = min(settings.neighbours, int(counts.amax())) if len(counts) else 1  # few have as many as they may
    order = torch.where(near, place, len(place)).sort(dim=1).indices[:, :most]
    around = _Around(rows_of(start, order), rows_of(end, order), near.gather(1, order), reach_there)
    parts = zip(*(torch.split(each, TOGETHER) for each in around), strict=True)
    fitted = [_fit(_Around(*part), settings.min_confidence) for part in parts]
    matrix, support = (torch.cat(each) for each in zip(*fitted, strict=True))
    believed = (support >= settings.min_inliers) & _sound(_determinant(matrix))
    return Affinities(*_only(believed, pair, seed, partner, matrix, 2 * radius[pair]))


def explained(points: Tensor, others: Tensor, found: Affinities, tolerance: float) -> Tensor:
    """(K, N, M) which partners some affinity allows: near to a seed, and to where its affinity puts the point."""
    allowed = torch.zeros(*points.shape[:2], others.shape[1], dtype=torch.bool, device=points.device)
    which, row, moved = _moved(points, found)
    places = zip(*(torch.split(each, TOGETHER) for each in (found.pair[which], row, moved)), strict=True)
    for pair, points_row, place in places:
        apart = (place[:, None] - others[pair]).norm(dim=2)
        near, column = (apart < tolerance).nonzero().unbind(1)
        allowed[pair[near], points_row[near], column] = True
    return allowed


def agrees(matches: Tentative, found: Affinities, tolerance: float) -> Tensor:
    """(K, N) which partners are where some affinity puts them."""
    which, row, moved = _moved(matches.points, found)
    pair = found.pair[which]
    right = (moved - matches.partners[pair, row]).norm(dim=1) < tolerance
    agreeing = torch.zeros_like(matches.mutual)
    agreeing[pair[right], row[right]] = True
    return agreeing & matches.ambiguity.isfinite()


def covered(points: Tensor, found: Affinities) -> Tensor:
    """(K, N) which points (K, N, 2) are near to a seed."""
    which, row, _ = _moved(points, found)
    near = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    near[found.pair[which], row] = True
    return near


def _moved(points: Tensor, found: Affinities) -> tuple[Tensor, Tensor, Tensor]:
    """For each point near to a seed: the affinity (Q,), the point's row (Q,), and where it falls (Q, 2)."""
    offset = points[found.pair] - found.seed[:, None]  # (S, N, 2)
    which, row = _shorter(offset, found.reach).nonzero().unbind(1)
    moved = _apply(found.matrix[which], offset[which, row][:, None])[:, 0] + found.partner[which]
    return which, row, moved


def rows_of(places: Tensor, rows: Tensor) -> Tensor:
    """(K, n, 2) of (K, N, 2), those whose rows are (K, n)."""
    return places.gather(1, rows[..., None].expand(-1, -1, 2))


class _Around(NamedTuple):
    """The matches around S seeds, the clearest first."""

    start: Tensor  # (S, n, 2) from the seed, pixels
    end: Tensor  # (S, n, 2) from the seed's partner
    valid: Tensor  # (S, n) False for what only fills up
    reach: Tensor  # (S,) largest length of an end


def _fit(around: _Around, confidence: float) -> tuple[Tensor, Tensor]:
    """The affinity (S, 2, 3) of each neighbourhood, and how many matches agree with it (S,)."""
    if not len(around.start):
        return around.start.new_zeros(0, 2, 3), around.start.new_zeros(0)
    matrix = _best_of_pairs(around)
    for _ in range(2):
        matrix = _least_squares(around, _agree(matrix, around, confidence))
    return matrix, _agree(matrix, around, confidence).sum(1)


def _best_of_pairs(around: _Around) -> Tensor:
    """(S, 2, 3) of the affinities that a seed and two neighbours give, the one that most neighbours agree with."""
    clearest = min(FIRST, around.start.shape[1])
    first, second = torch.triu_indices(clearest, clearest, 1, device=around.start.device)
    ends = torch.cat([around.start, around.end], dim=2)[:, :clearest].mT  # (S, 4, clearest)
    # Elementwise, for products of 2 x 2 matrices one by one take longer than all the rest.
    (x, y, u, v), (p, q, r, s) = (ends.index_select(2, each).unbind(1) for each in (first, second))  # (S, H) each
    valid = around.valid.index_select(1, first) & around.valid.index_select(1, second)
    area = x * q - p * y
    thin = area.abs() < 1  # both lie on one line with the seed
    inverse = 1 / area.masked_fill(thin, 1)
    a, b = (u * q - r * y) * inverse, (r * x - u * p) * inverse
    c, d = (v * q - s * y) * inverse, (s * x - v * p) * inverse
    sound = _sound((u * s - r * v) * inverse) & ~thin & valid
    matrices = torch.stack([a, b, c, d], dim=1)  # (S, 4, H)
    best = torch.where(sound, _agreement(matrices, around), -1).argmax(1)
    found = matrices.gather(2, best[:, None, None].expand(-1, 4, -1)).view(-1, 2, 2)
    return torch.nn.functional.pad(found, (0, 1))


def _agreement(matrices: Tensor, around: _Around) -> Tensor:
    """(S, H) the sum over neighbours of 1 - error^2 / tolerance^2, 0 where the error of (S, 4, H) is larger.

    |M s - e|^2 is linear in M^T M, M and 1, so all errors are one product: a fifth of the time.
    """
    tolerance = TOLERANCE * around.reach[:, None, None]
    a, b, c, d = matrices.unbind(1)
    one = torch.ones_like(a)
    models = torch.stack([a * a + c * c, 2 * (a * b + c * d), b * b + d * d, a, b, c, d, one], dim=1)  # (S, 8, H)
    x, y = (around.start / tolerance).unbind(-1)
    u, v = (around.end / tolerance).unbind(-1)
    parts = [-x * x, -x * y, -y * y, 2 * u * x, 2 * u * y, 2 * v * x, 2 * v * y, 1 - u * u - v * v]
    return (models.mT @ (torch.stack(parts, dim=1) * around.valid[:, None])).relu_().sum(2)


def _agree(matrix: Tensor, around: _Around, confidence: float) -> Tensor:
    """(S, n) which matches are so near to where the affinity puts them that chance explains too few of them.

    Of unrelated matches, spread over the neighbourhood, a share (r / reach)^2 has an error below r.
    """
    x, y = (_apply(matrix, around.start) - around.end).unbind(2)
    error = (x * x + y * y).masked_fill(~around.valid, torch.inf)
    ordered = error.sort(dim=1).values
    rank = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
    by_chance = around.valid.sum(1, keepdim=True) * ordered / around.reach.square()[:, None]
    largest = torch.where(rank >= confidence * by_chance, ordered, -1).amax(1, keepdim=True)
    return (error <= largest) & around.valid


def _least_squares(around: _Around, chosen: Tensor) -> Tensor:
    """(S, 2, 3) the affinity nearest to the chosen matches (S, n) and to the seed's own."""
    design = torch.nn.functional.pad(around.start, (0, 1), value=1.0) * chosen[..., None]  # (S, n, 3)
    normal = design.mT @ design
    normal[:, 2, 2] += 1  # the seed, at 0, 0
    diagonal = normal.diagonal(dim1=1, dim2=2)[:, :2]
    diagonal += 1e-3 * (1 + diagonal)  # against neighbours on one line
    solved: Tensor = torch.linalg.solve(normal, design.mT @ around.end)
    return solved.mT


def _only(chosen: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Of each of the values, the rows that are chosen (S,)."""
    rows = chosen.nonzero()[:, 0]
    return tuple(each.index_select(0, rows) for each in values)


def _shorter(vectors: Tensor, lengths: Tensor) -> Tensor:
    """(S, N) which of the vectors (S, N, 2) are shorter than (S,)."""
    x, y = vectors.unbind(2)
    return x * x + y * y < lengths.square()[:, None]


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    """(S, 2, 3) to (S, n, 2)."""
    moved: Tensor = points @ matrix[..., :2].mT + matrix[:, None, :, 2]
    return moved


def _sound(determinant: Tensor) -> Tensor:
    """Which affinities neither mirror nor change the scale beyond measure."""
    return (determinant > LARGEST_SCALE**-2) & (determinant < LARGEST_SCALE**2)


def _scale(matrix: Tensor) -> Tensor:
    """(S,) by how much affinities enlarge, as a mean over all directions."""
    return _determinant(matrix).abs().sqrt()


def _determinant(matrix: Tensor) -> Tensor:
    return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
