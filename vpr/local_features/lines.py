"""Line segments of an image, and the wireframe that they make once ends that nearly meet are one junction.

Segments are LSD's (von Gioi, Jakubowicz, Morel and Randall, PAMI 2010), by OpenCV. The wireframe is GlueStick's
(Pautrat et al., ICCV 2023, arXiv:2304.02008).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from vpr.core import Image

MERGE_RADIUS = 3.0  # pixels
MIN_LENGTH = 15.0  # pixels
MAX_LINES = 250


@dataclass(frozen=True, eq=False)
class LineSegments:
    """Segments of one image, the strongest first."""

    ends: Tensor  # (L, 2, 2) float32 x, y in pixels of both ends
    scores: Tensor  # (L,) float32 in [0, 1], 1 the longest

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class Wireframe:
    """Segments whose ends are junctions."""

    junctions: Tensor  # (J, 2) float32 x, y in pixels
    scores: Tensor  # (J,) mean score of the segments that end there
    rows: Tensor  # (L, 2) int64 the junctions of each segment
    segments: LineSegments  # between the junctions

    @property
    def connectivity(self) -> Tensor:
        """(J, J) whether two junctions are joined; each is with itself."""
        joined = torch.eye(len(self.junctions), dtype=torch.bool)
        joined[self.rows[:, 0], self.rows[:, 1]] = True
        joined[self.rows[:, 1], self.rows[:, 0]] = True
        return joined


def detect_lines(image: Image, min_length: float = MIN_LENGTH, most: int = MAX_LINES) -> LineSegments:
    """Segments of a grey image (H, W) uint8, no shorter than ``min_length`` pixels; ``most`` 0 for all."""
    found = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD).detect(np.ascontiguousarray(image))[0]
    ends = np.zeros((0, 2, 2), np.float32) if found is None else found.reshape(-1, 2, 2).astype(np.float32)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] >= min_length][: most or None]
    scores = np.sqrt(lengths[order] / max(lengths[order].max(initial=0), 1e-6))
    return LineSegments(torch.from_numpy(ends[order]), torch.from_numpy(scores.astype(np.float32)))


def merge_ends(segments: LineSegments, radius: float = MERGE_RADIUS) -> Wireframe:
    """Ends no further apart than ``radius`` pixels, directly or by way of others, become one junction amid them."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    ends = segments.ends.reshape(-1, 2)
    if not len(ends):
        return Wireframe(ends, segments.scores, torch.zeros(0, 2, dtype=torch.int64), segments)
    near = cKDTree(ends.numpy()).query_pairs(radius, output_type="ndarray")
    joined = coo_matrix((np.ones(len(near), np.bool_), near.T), shape=(len(ends), len(ends)))
    count, numbers = connected_components(joined, directed=False)
    labels = torch.from_numpy(numbers).long()
    sizes = torch.zeros(count).index_add_(0, labels, torch.ones(len(labels)))
    junctions = torch.zeros(count, 2).index_add_(0, labels, ends) / sizes[:, None]
    scores = torch.zeros(count).index_add_(0, labels, segments.scores.repeat_interleave(2)) / sizes
    rows = labels.view(-1, 2)
    return Wireframe(junctions, scores, rows, LineSegments(junctions[rows], segments.scores))
