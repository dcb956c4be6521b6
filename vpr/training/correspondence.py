"""Which points of two images are the same, by what is known of the images: a homography, depth and poses, a
fundamental matrix, or that they show different places.

Points (B, M, 2) and (B, N, 2) are in pixels of the images as they are given to the extractor. The thresholds are
those of SuperGlue (Sarlin et al., CVPR 2020) and LightGlue (Lindenberger et al., ICCV 2023).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import Section
from vpr.matchers import affinities
from vpr.matchers.affinities import covered, explained, find_affinities, tentative
from vpr.matchers.one_to_many import mutual_partners
from vpr.matchers.similarity import nearest_along
from vpr.training.homographies import inside, invert, warp_points

UNMATCHED, UNKNOWN = -1, -2
OCCLUSION = 0.05


class Settings(Section):
    """When two points are the same, and when a point has no partner; pixels."""

    same: float = Field(3.0, gt=0)  # they are each other's nearest, and nearer than this in both images
    apart: float = Field(5.0, gt=0)  # nothing nearer than this: no partner; between the two nothing is known
    epipolar: float = Field(2.0, gt=0)  # with a fundamental matrix: largest distance of partners from their lines
    impossible: float = Field(8.0, gt=0)  # and the distance from which two points cannot be partners
    occlusion: float = Field(
        OCCLUSION, gt=0
    )  # with depth: a point is hidden if it lies behind by this share of its depth


class Truth(NamedTuple):
    """For each point its partner's row, UNMATCHED, or UNKNOWN; and, for the UNKNOWN, which cannot be partners."""

    first: Tensor  # (B, M) int64
    second: Tensor  # (B, N) int64
    impossible: Tensor  # (B, M, N) bool; does not repeat what the rows say


class Projected(NamedTuple):
    """Where points of one image are in the other."""

    points: Tensor  # (B, N, 2) pixels
    shown: Tensor  # (B, N) bool, whether the other image shows them
    known: Tensor  # (B, N) bool, whether that is known


class PairGeometry(Protocol):
    """Ground truth of pairs of images; a tuple of tensors, so that it moves between devices."""

    def projected(self, points: Tensor, others: Tensor) -> tuple[Projected, Projected] | None:
        """Points (B, M, 2) in the second image, and (B, N, 2) in the first; None where it is not known."""

    def truth(self, points: Tensor, others: Tensor, similarity: Tensor, settings: Settings) -> Truth:
        """Partners of points (B, M, 2) and (B, N, 2) whose descriptors have these cosines (B, M, N)."""


class Plane(NamedTuple):
    """Two views of one photograph."""

    homography: Tensor  # (B, 3, 3) first to second
    size: Tensor  # (B, 2) width, height of both; the same for all pairs

    def projected(self, points: Tensor, others: Tensor) -> tuple[Projected, Projected]:
        size = (int(self.size[0, 0]), int(self.size[0, 1]))
        moved, back = warp_points(points, self.homography), warp_points(others, invert(self.homography))
        there, here = (
            Projected(each, inside(each, size), torch.ones_like(each[..., 0], dtype=torch.bool))
            for each in (moved, back)
        )
        return there, here

    def truth(self, points: Tensor, others: Tensor, similarity: Tensor, settings: Settings) -> Truth:
        return by_reprojection(points, others, *self.projected(points, others), settings=settings)


class DepthView(NamedTuple):
    """An image whose depth and camera are known."""

    depth: Tensor  # (B, H, W) metres along the optical axis; 0 where nothing is known, infinite for sky
    matrix: Tensor  # (B, 3, 3) intrinsics


class Depth(NamedTuple):
    """Two views of a scene."""

    first: DepthView
    second: DepthView
    pose: Tensor  # (B, 4, 4) first camera to second camera

    def projected(self, points: Tensor, others: Tensor, occlusion: float = OCCLUSION) -> tuple[Projected, Projected]:
        forward = reproject(points, self.first, self.second, self.pose)
        backward = reproject(others, self.second, self.first, torch.linalg.inv(self.pose))
        there, here = (Projected(each.points, *_seen(each, occlusion)) for each in (forward, backward))
        return there, here

    def truth(self, points: Tensor, others: Tensor, similarity: Tensor, settings: Settings) -> Truth:
        return by_reprojection(points, others, *self.projected(points, others, settings.occlusion), settings=settings)

    def overlap(self, points: Tensor) -> float:
        """Share of points (1, N, 2) of the first image, sky left out, that the second shows."""
        forward = reproject(points, self.first, self.second, self.pose)
        shown, _ = _seen(forward, OCCLUSION)
        return float(shown.sum() / forward.finite.sum().clamp_min(1))


class Epipolar(NamedTuple):
    """Two images with an estimated fundamental matrix: partners are likely, points far from their lines are none.

    Partners are what lies on the line and either is clearly the nearest there, or is where the matches nearby put the
    point, whatever it looks like. A point has none if it is put where nothing is.
    """

    fundamental: Tensor  # (B, 3, 3): second' F first = 0
    size: Tensor  # (B, 2) width, height of both

    def projected(self, points: Tensor, others: Tensor) -> None:
        return None

    def truth(self, points: Tensor, others: Tensor, similarity: Tensor, settings: Settings) -> Truth:
        apart = epipolar_distance(points, others, self.fundamental)
        area = self.size.prod(1)
        _, ratio = nearest_along(similarity, dim=2)
        found = find_affinities(tentative(points, others, similarity, ratio, (area, area)), affinities.Settings())
        on_line = apart <= settings.epipolar
        allowed = on_line & (explained(points, others, found, settings.same) | _clear(similarity, on_line))
        partner, best = mutual_partners(similarity.masked_fill(~allowed, -torch.inf))
        partners = pairs_of(partner.clamp_min(0), (partner >= 0) & (best > 0), similarity.shape[2])
        near = explained(points, others, found, settings.impossible)
        unmatched = covered(points, found) & ~near.any(2), covered(others, found.inverse()) & ~near.any(1)
        return Truth(*or_unmatched(partners, unmatched), apart > settings.impossible)


def _clear(similarity: Tensor, allowed: Tensor) -> Tensor:
    """(B, M, N) of what is allowed to each point, the most similar, if it is so by far: a ratio of 0.9."""
    best, forward = similarity.masked_fill(~allowed, -1).max(2)
    second_best = similarity.scatter(2, forward[..., None], -1).amax(2)
    clear = (2 - 2 * best).clamp_min(0) < 0.81 * (2 - 2 * second_best).clamp_min(0)
    return torch.zeros_like(allowed).scatter(2, forward[..., None], clear[..., None])


class DifferentPlaces(NamedTuple):
    """Images of different places: no point has a partner."""

    pairs: Tensor  # (B,) of any content

    def projected(self, points: Tensor, others: Tensor) -> tuple[Projected, Projected]:
        there, here = (
            Projected(each, *(torch.full_like(each[..., 0], flag, dtype=torch.bool) for flag in (False, True)))
            for each in (points, others)
        )
        return there, here

    def truth(self, points: Tensor, others: Tensor, similarity: Tensor, settings: Settings) -> Truth:
        first, second = (torch.full_like(similarity.select(axis, 0), UNMATCHED).long() for axis in (2, 1))
        return Truth(first, second, torch.zeros_like(similarity, dtype=torch.bool))


def by_reprojection(
    points: Tensor,
    others: Tensor,
    moved: Projected,
    back: Projected,
    *,
    settings: Settings,
) -> Truth:
    """Partners by where each point, (B, M, 2) and (B, N, 2), falls in the other image."""
    there = torch.cdist(moved.points, others).masked_fill(~moved.shown[:, :, None], torch.inf)
    here = torch.cdist(points, back.points).masked_fill(~back.shown[:, None, :], torch.inf)
    apart = torch.maximum(there, here)
    nearest, forward = apart.min(2)
    mutual = apart.argmin(1).gather(1, forward) == torch.arange(points.shape[1], device=points.device)
    partners = pairs_of(forward, mutual & (nearest < settings.same), others.shape[1])
    unmatched = (there.amin(2) > settings.apart) & moved.known, (here.amin(1) > settings.apart) & back.known
    return Truth(*or_unmatched(partners, unmatched), torch.zeros_like(apart, dtype=torch.bool))


def or_unmatched(partners: tuple[Tensor, Tensor], unmatched: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The rows of both sides, UNMATCHED for points that are ``unmatched`` and have no partner."""
    first, second = (
        side.where(~flags | (side >= 0), UNMATCHED) for side, flags in zip(partners, unmatched, strict=True)
    )
    return first, second


class Reprojection(NamedTuple):
    """Where points fall in another image."""

    points: Tensor  # (B, N, 2) pixels; far outside for those behind the camera
    depth: Tensor  # (B, N) in the other camera
    surface: Tensor  # (B, N) what the other image's depth is there; 0 outside
    size: tuple[int, int]
    finite: Tensor  # (B, N) whether the point's own depth is known; sky has none


def reproject(points: Tensor, source: DepthView, target: DepthView, pose: Tensor) -> Reprojection:
    """Points (B, N, 2) of one image in another; ``pose`` (B, 4, 4) leads from camera to camera."""
    own = sample_depth(source.depth, points)
    finite = own.isfinite() & (own > 0)
    rays = _homogeneous(points) @ torch.linalg.inv(source.matrix).mT
    there = (rays * own.where(finite, 1.0)[..., None]) @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
    before = there[..., 2] > 1e-3
    projected = there @ target.matrix.mT
    moved = projected[..., :2] / projected[..., 2:].clamp_min(1e-3)
    moved = moved.where((before & finite)[..., None], -1e6)
    size = (target.depth.shape[2], target.depth.shape[1])
    return Reprojection(moved, there[..., 2], sample_depth(target.depth, moved), size, finite)


def sample_depth(depth: Tensor, points: Tensor) -> Tensor:
    """(B, N) depth at the nearest pixel; 0 outside of the image."""
    height, width = depth.shape[1:]
    x, y = points.round().long().unbind(-1)
    within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return depth.flatten(1).gather(1, places).where(within, 0.0)


def epipolar_distance(points: Tensor, others: Tensor, fundamental: Tensor) -> Tensor:
    """(B, M, N) the larger of the distances of two points from each other's epipolar line, pixels."""
    first, second = _homogeneous(points), _homogeneous(others)
    lines = first @ fundamental.mT  # (B, M, 3) in the second image
    back = second @ fundamental  # (B, N, 3) in the first
    residual = (lines @ second.mT).abs()
    there = lines[..., :2].norm(dim=-1).clamp_min(1e-12)[:, :, None]
    here = back[..., :2].norm(dim=-1).clamp_min(1e-12)[:, None, :]
    return residual / torch.minimum(there, here)


def _seen(moved: Reprojection, occlusion: float) -> tuple[Tensor, Tensor]:
    """Which points can be seen there, and of which it is known whether they can."""
    outside = ~inside(moved.points, moved.size)
    measured = moved.surface > 0
    hidden = measured & (moved.depth > moved.surface * (1 + occlusion))
    before = measured & (moved.depth < moved.surface * (1 - occlusion))  # something that was there is gone: no partner
    shown = moved.finite & ~outside & measured & ~hidden & ~before
    return shown, moved.finite & (outside | measured)


def pairs_of(forward: Tensor, chosen: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The rows of both sides: UNKNOWN but for the chosen ones and their partners."""
    first = torch.where(chosen, forward, UNKNOWN)
    second = torch.full((len(forward), columns + 1), UNKNOWN, device=forward.device)
    rows = torch.arange(forward.shape[1], device=forward.device).expand_as(forward)
    second = second.scatter(1, torch.where(chosen, forward, columns), rows)[:, :columns]
    return first, second


def _homogeneous(points: Tensor) -> Tensor:
    return torch.nn.functional.pad(points, (0, 1), value=1.0)
