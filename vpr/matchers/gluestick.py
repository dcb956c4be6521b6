"""GlueStick: points and line segments matched together. Pautrat et al., ICCV 2023, arXiv:2304.02008.

It compares images: keypoints and descriptors are SuperPoint's, segments LSD's, and the ends of segments join the
keypoints. The published weights expect the published SuperPoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vpr.config import MethodSettings, parse
from vpr.core import Channels, ConfigError, Image, ImageMatches, Matches
from vpr.local_features import superpoint
from vpr.local_features.points_and_lines import PointsAndLines, PointsWithLines
from vpr.matchers.gluestick_network import GlueStickNetwork, Segments
from vpr.matchers.one_to_many import batches, mutual_best, require_dim, to_matches
from vpr.matchers.points import PointBatch, stack
from vpr.weights import load_published, recipe_of


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
class LineMatches:
    """Matched segments of two images; the ends of a match need not be in the same order, nor show the same places."""

    ends0: Tensor  # (M, 2, 2) float32 x, y in pixels of the first image as the method saw it
    ends1: Tensor  # (M, 2, 2)
    scores: Tensor  # (M,) confidence in [0, 1]

    def __len__(self) -> int:
        return len(self.scores)

    def part(self, rows: Tensor) -> LineMatches:
        """The matches of these rows, given by number or by a flag for each match."""
        return LineMatches(self.ends0[rows], self.ends1[rows], self.scores[rows])

    @staticmethod
    def empty() -> LineMatches:
        return LineMatches(torch.zeros(0, 2, 2), torch.zeros(0, 2, 2), torch.zeros(0))


class MatchedBoth(NamedTuple):
    """Matches of two images."""

    points: ImageMatches
    lines: LineMatches
    point_rows: Matches  # the same, as rows of the keypoints of both
    line_rows: Matches  # as rows of the segments of both


class GlueStick:
    """Matches of two grey images, of points and of lines."""

    channels: Channels = "grey"

    def __init__(
        self,
        network: GlueStickNetwork,
        weights: str,
        extractor: PointsAndLines,
        settings: Settings,
        device: torch.device,
    ) -> None:
        if extractor.extractor.dim != network.dim:
            raise ConfigError(
                f"image_matcher.superpoint = {settings.superpoint!r} gives descriptors of length "
                f"{extractor.extractor.dim}, "
                f"these weights of GlueStick take {network.dim}; choose the SuperPoint that they were trained with"
            )
        self.weights = weights
        self.settings = settings
        self.device = device
        self.extractor = extractor
        self.network = network.eval().to(device)
        self.dim = network.dim

    def preprocess(self, image: Image) -> Tensor:
        return self.extractor.preprocess(image)

    def match(self, query: Tensor, candidates: Sequence[Tensor]) -> list[ImageMatches]:
        return [each.points for each in self.match_both(self.describe(query), [*map(self.describe, candidates)])]

    def describe(self, image: Tensor) -> PointsWithLines:
        """Keypoints and segments of one image (1, H, W) uint8."""
        return self.extractor.extract(image)

    @torch.inference_mode()
    def match_both(self, query: PointsWithLines, candidates: Sequence[PointsWithLines]) -> list[MatchedBoth]:
        """Points and lines of a query and each candidate; the candidates go through the network in batches."""
        require_dim(self.network.dim, query.points, [each.points for each in candidates], "GlueStick")
        found = [MatchedBoth(ImageMatches.empty(), LineMatches.empty(), Matches.empty(), Matches.empty())] * len(
            candidates
        )
        if not len(query):
            return found
        for batch in batches(query.points, [each.points for each in candidates], self.device):
            for i, each in zip(batch, self._match_batch(query, [candidates[i] for i in batch]), strict=True):
                found[i] = each
        return found

    def _match_batch(self, query: PointsWithLines, candidates: Sequence[PointsWithLines]) -> list[MatchedBoth]:
        """All of them have points."""
        points, lines = stack([query.points], GlueStickNetwork.reach, self.device), stack_segments([query], self.device)
        repeated = PointBatch(
            _repeat(points.points, len(candidates)),
            _repeat(points.scores, len(candidates)),
            _repeat(points.descriptors, len(candidates)),
        )
        output = self.network(
            repeated,
            stack([each.points for each in candidates], GlueStickNetwork.reach, self.device),
            Segments(*(_repeat(each, len(candidates)) for each in (lines.ends, lines.scores, lines.junctions))),
            stack_segments(candidates, self.device),
        )
        of_points, of_lines = (self._above(each) for each in (output.points, output.lines))
        return [
            MatchedBoth(
                ImageMatches(query.points.keypoints[p.pairs[:, 0]], each.points.keypoints[p.pairs[:, 1]], p.scores),
                LineMatches(
                    query.wireframe.segments.ends[s.pairs[:, 0]], each.wireframe.segments.ends[s.pairs[:, 1]], s.scores
                ),
                p,
                s,
            )
            for each, p, s in zip(candidates, of_points, of_lines, strict=True)
        ]

    def _above(self, log_assignment: Tensor) -> list[Matches]:
        """Of each pair."""
        scores = log_assignment[:, :-1, :-1]
        if not scores[0].numel():
            return [Matches.empty()] * len(scores)
        partners, best = (each.cpu() for each in mutual_best(scores))
        threshold = self.settings.match_threshold
        return [to_matches(partner, score, threshold) for partner, score in zip(partners, best, strict=True)]


def stack_segments(images: Sequence[PointsWithLines], device: torch.device) -> Segments:
    """Segments of several images as the network takes them, padded to the most."""
    sizes = torch.tensor([each.points.image_size for each in images])[:, None, None]
    frames = [each.wireframe for each in images]
    ends = pad_sequence([each.segments.ends for each in frames], batch_first=True)
    normalised = (ends - sizes / 2) / (GlueStickNetwork.reach * sizes.amax(3, keepdim=True))
    scores = pad_sequence([each.segments.scores for each in frames], batch_first=True)
    junctions = pad_sequence([each.rows for each in frames], batch_first=True)
    counts = torch.tensor([len(each.rows) for each in frames])
    real = torch.arange(ends.shape[1]) < counts[:, None]
    mask = None if bool(real.all()) else real.to(device)
    return Segments(normalised.to(device), scores.to(device), junctions.to(device), mask)


def _repeat(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape[1:])


def build(settings: Settings, device: torch.device) -> GlueStick:
    if not settings.weights:
        raise ConfigError(
            'image_matcher.method = "gluestick" needs weights, and none come with vpr: '
            "--set image_matcher.weights=FILE, for instance the published checkpoint_GlueStick_MD.tar"
        )
    network = GlueStickNetwork()
    sha256 = load_published(network, settings.weights, lambda state: network.convert_state_dict(_of_matcher(state)))
    return GlueStick(network, sha256, _extractor(settings, device), settings, device)


def _extractor(settings: Settings, device: torch.device) -> PointsAndLines:
    """By the recipe of SuperPoint's weights, but for what these settings say."""
    given = {
        "weights": settings.superpoint,
        "longest_side": settings.longest_side,
        "keypoint_threshold": settings.keypoint_threshold,
        "nms_radius": settings.nms_radius,
        "max_keypoints": settings.max_keypoints,
    }
    recipe = recipe_of(settings.superpoint, "superpoint")
    seen = parse(superpoint.Settings, {"subpixel": False, "shortest_side": 0, **recipe, **given})
    return PointsAndLines(
        superpoint.build(seen, device), settings.min_length, settings.max_lines, settings.merge_radius
    )


def _of_matcher(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the extractor that the checkpoint may hold too."""
    own = {key.removeprefix("matcher."): value for key, value in state.items() if key.startswith("matcher.")}
    return own or state
