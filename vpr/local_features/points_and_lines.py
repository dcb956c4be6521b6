"""Keypoints and line segments of one image, with descriptors: what GlueStick and others that match both compare.

The ends of segments (junctions) are keypoints too, described by SuperPoint where they are. Pautrat et al., ICCV 2023,
arXiv:2304.02008.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vpr.core import Image, LocalFeatures
from vpr.local_features.lines import (
    MAX_LINES,
    MERGE_RADIUS,
    MIN_LENGTH,
    LineSegments,
    Wireframe,
    detect_lines,
    merge_ends,
)
from vpr.local_features.superpoint import SuperPoint
from vpr.local_features.superpoint_network import CELL


@dataclass(frozen=True, eq=False)
class PointsWithLines:
    """Features of one image."""

    points: LocalFeatures  # the junctions first
    wireframe: Wireframe

    def __len__(self) -> int:
        return len(self.points)

    @staticmethod
    def empty(dim: int, image_size: tuple[int, int] = (0, 0)) -> PointsWithLines:
        nothing = LineSegments(torch.zeros(0, 2, 2), torch.zeros(0))
        return PointsWithLines(LocalFeatures.empty(dim, image_size), merge_ends(nothing))

    def strongest(self, lines: int, count: int) -> PointsWithLines:
        """The first ``lines`` segments, their junctions, and the strongest other keypoints up to ``count`` in all."""
        segments, rows = self.wireframe.segments, self.wireframe.rows[:lines]
        used, renumbered = torch.unique(rows, return_inverse=True)
        others = self.points.scores[len(self.wireframe.junctions) :]
        order = torch.sort(others, descending=True, stable=True).indices[: max(0, count - len(used))]
        wireframe = Wireframe(
            self.wireframe.junctions[used],
            self.wireframe.scores[used],
            renumbered,
            LineSegments(segments.ends[:lines], segments.scores[:lines]),
        )
        return PointsWithLines(self.points.part(torch.cat([used, order + len(self.wireframe.junctions)])), wireframe)


class PointsAndLines:
    """Finds keypoints by SuperPoint and line segments by LSD."""

    def __init__(
        self,
        extractor: SuperPoint,
        min_length: float = MIN_LENGTH,
        max_lines: int = MAX_LINES,
        merge_radius: float = MERGE_RADIUS,
    ) -> None:
        self.extractor = extractor
        self.min_length = min_length  # pixels of a segment
        self.max_lines = max_lines  # the longest are kept; 0 for all
        self.merge_radius = merge_radius  # pixels; ends no further apart are one junction

    def preprocess(self, image: Image) -> Tensor:
        return self.extractor.preprocess(image)

    def extract(self, image: Tensor) -> PointsWithLines:
        """Of one image (1, H, W) uint8; a keypoint within ``merge_radius`` of a junction is left out."""
        height, width = image.shape[1:]
        if min(height, width) < CELL:
            return PointsWithLines.empty(self.extractor.dim, (width, height))
        found = detect_lines(np.ascontiguousarray(image[0].numpy()), self.min_length, self.max_lines)
        wireframe = merge_ends(found, self.merge_radius)
        points, descriptors = self.extractor.extract_with(image, wireframe.junctions)
        rest = points.part(_away_from(points.keypoints, wireframe.junctions, self.merge_radius))
        every = LocalFeatures(
            torch.cat([wireframe.junctions, rest.keypoints]),
            torch.cat([wireframe.scores, rest.scores]),
            torch.cat([descriptors, rest.descriptors]),
            (width, height),
        )
        return PointsWithLines(every, wireframe)


def _away_from(keypoints: Tensor, junctions: Tensor, radius: float) -> Tensor:
    """(N,) which keypoints are further than this from every junction."""
    if not len(junctions):
        return torch.ones(len(keypoints), dtype=torch.bool)
    return (torch.cdist(keypoints, junctions) > radius).all(1)
