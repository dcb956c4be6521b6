"""GlueStick: points and line segments matched together. Pautrat et al., ICCV 2023, arXiv:2304.02008.

It compares images: keypoints and descriptors are SuperPoint's, segments LSD's, and the ends of segments join the
keypoints. The published weights expect the published SuperPoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vpr.config import MethodSettings
from vpr.core import Channels, ConfigError, DataError, Image, ImageMatches, LocalFeatures
from vpr.local_features import superpoint
from vpr.local_features.detection import score_map, strongest, suppress
from vpr.local_features.lines import LineSegments, Wireframe, detect_lines, merge_ends
from vpr.local_features.sampling import sample
from vpr.local_features.superpoint_network import CELL
from vpr.matchers.gluestick_network import GlueStickNetwork, Segments
from vpr.matchers.one_to_many import mutual_best, to_matches
from vpr.matchers.points import stack
from vpr.weights import load_published


class Settings(MethodSettings):
    """Settings of GlueStick."""

    method: Literal["gluestick"] = "gluestick"
    weights: str = ""  # path of weights in the published layout, of any size; none come with vpr
    superpoint: str = "superpoint_v1"  # name or path of the weights of SuperPoint that they were trained with
    longest_side: int = Field(640, ge=16)  # larger images are shrunk to this
    keypoint_threshold: float = Field(0.005, ge=0, lt=1)
    nms_radius: int = Field(4, ge=0)  # keypoints lie further apart than this many pixels along an axis
    max_keypoints: int = Field(1000, ge=0)  # beside the junctions; the strongest are kept; 0 for all
    max_lines: int = Field(250, ge=0)  # the longest are kept; 0 for all
    min_length: float = Field(15.0, ge=0)  # pixels of a segment
    merge_radius: float = Field(3.0, gt=0)  # ends no further apart are one junction, and no other keypoint is so near
    match_threshold: float = Field(0.2, ge=0, le=1)  # matches of points and lines are more confident than this


@dataclass(frozen=True, eq=False)
class PointsWithLines:
    """What one image is compared by."""

    points: LocalFeatures  # the junctions first
    wireframe: Wireframe


@dataclass(frozen=True, eq=False)
class LineMatches:
    """Matched segments of two images; the ends of a match need not be in the same order, nor show the same places."""

    ends0: Tensor  # (M, 2, 2) float32 x, y in pixels of the first image as the method saw it
    ends1: Tensor  # (M, 2, 2)
    scores: Tensor  # (M,) confidence in [0, 1]

    def __len__(self) -> int:
        return len(self.scores)


class GlueStick:
    """Matches of two grey images, of points and of lines."""

    channels: Channels = "grey"

    def __init__(
        self,
        network: GlueStickNetwork,
        weights: str,
        extractor: superpoint.SuperPoint,
        settings: Settings,
        device: torch.device,
    ) -> None:
        if extractor.dim != network.dim:
            raise ConfigError(
                f"image_matcher.superpoint = {settings.superpoint!r} gives descriptors of length {extractor.dim}, "
                f"these weights of GlueStick take {network.dim}; choose the SuperPoint that they were trained with"
            )
        self.weights = weights
        self.settings = settings
        self.device = device
        self.extractor = extractor
        self.network = network.eval().to(device)

    def preprocess(self, image: Image) -> Tensor:
        return self.extractor.preprocess(image)

    def match(self, query: Tensor, candidates: Sequence[Tensor]) -> list[ImageMatches]:
        mine = self.describe(query)
        return [self.match_described(mine, self.describe(each))[0] for each in candidates]

    def match_lines(self, query: Tensor, candidate: Tensor) -> LineMatches:
        """Of two images as preprocessed."""
        return self.match_described(self.describe(query), self.describe(candidate))[1]

    @torch.inference_mode()
    def describe(self, image: Tensor) -> PointsWithLines:
        """Keypoints and segments of one image (1, H, W) uint8."""
        height, width = image.shape[1:]
        settings = self.settings
        found = detect_lines(np.ascontiguousarray(image[0].numpy()), settings.min_length, settings.max_lines)
        wireframe = merge_ends(found, settings.merge_radius)
        if min(height, width) < CELL:
            nothing = LineSegments(torch.zeros(0, 2, 2), torch.zeros(0))
            return PointsWithLines(LocalFeatures.empty(self.network.dim, (width, height)), merge_ends(nothing))
        logits, coarse = self.extractor.network(image[None].to(self.device).float() / 255)
        scores = suppress(score_map(logits), settings.nms_radius)
        places, strengths, counts = strongest(scores, settings.keypoint_threshold, CELL // 2, settings.max_keypoints)
        places, strengths = places[0, : counts[0]], strengths[0, : counts[0]]
        keypoints = torch.stack([places % scores.shape[2], places // scores.shape[2]], dim=-1).float().cpu()
        away = _away_from(keypoints, wireframe.junctions, settings.merge_radius)
        points = torch.cat([wireframe.junctions, keypoints[away]])
        unit = functional.normalize(coarse.float(), dim=1).permute(0, 2, 3, 1)
        descriptors = sample(unit, points[None].to(self.device), CELL, self.extractor.sampling)[0].cpu()
        every = torch.cat([wireframe.scores, strengths.cpu()[away]])
        return PointsWithLines(LocalFeatures(points, every, descriptors, (width, height)), wireframe)

    @torch.inference_mode()
    def match_described(self, first: PointsWithLines, second: PointsWithLines) -> tuple[ImageMatches, LineMatches]:
        """Points and lines of two images."""
        points0, points1 = first.points, second.points
        lines0, lines1 = first.wireframe.segments, second.wireframe.segments
        nothing = LineMatches(lines0.ends[:0], lines1.ends[:0], lines0.scores[:0])
        if not (len(points0) and len(points1)):
            return ImageMatches.empty(), nothing
        if points0.descriptors.shape[1] != self.network.dim or points1.descriptors.shape[1] != self.network.dim:
            raise DataError(f"these weights of GlueStick take descriptors of length {self.network.dim}")
        reach, device = GlueStickNetwork.reach, self.device
        batches = [stack([each], reach, device) for each in (points0, points1)]
        found = self.network(*batches, *(_segments(each, reach, device) for each in (first, second)))
        rows, scores = self._above(found.points)
        matched = ImageMatches(points0.keypoints[rows[:, 0]], points1.keypoints[rows[:, 1]], scores)
        if not (len(lines0) and len(lines1)):
            return matched, nothing
        rows, scores = self._above(found.lines)
        return matched, LineMatches(lines0.ends[rows[:, 0]], lines1.ends[rows[:, 1]], scores)

    def _above(self, log_assignment: Tensor) -> tuple[Tensor, Tensor]:
        partner, scores = (each[0].cpu() for each in mutual_best(log_assignment[:, :-1, :-1]))
        found = to_matches(partner, scores, self.settings.match_threshold)
        return found.pairs, found.scores


def _away_from(keypoints: Tensor, junctions: Tensor, radius: float) -> Tensor:
    """(N,) which keypoints are further than this from every junction."""
    if not len(junctions):
        return torch.ones(len(keypoints), dtype=torch.bool)
    return (torch.cdist(keypoints, junctions) > radius).all(1)


def _segments(image: PointsWithLines, reach: float, device: torch.device) -> Segments:
    size = torch.tensor(image.points.image_size)
    ends = (image.wireframe.segments.ends - size / 2) / (reach * size.max())
    return Segments(
        ends[None].to(device), image.wireframe.segments.scores[None].to(device), image.wireframe.rows[None].to(device)
    )


def build(settings: Settings, device: torch.device) -> GlueStick:
    if not settings.weights:
        raise ConfigError(
            'image_matcher.method = "gluestick" needs weights, and none come with vpr: '
            "--set image_matcher.weights=FILE, for instance the published checkpoint_GlueStick_MD.tar"
        )
    network = GlueStickNetwork()
    sha256 = load_published(network, settings.weights, lambda state: network.convert_state_dict(_of_matcher(state)))
    seen = superpoint.Settings(weights=settings.superpoint, longest_side=settings.longest_side, shortest_side=0)
    return GlueStick(network, sha256, superpoint.build(seen, device), settings, device)


def _of_matcher(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the extractor that the checkpoint may hold too."""
    own = {key.removeprefix("matcher."): value for key, value in state.items() if key.startswith("matcher.")}
    return own or state
