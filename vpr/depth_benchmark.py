"""Average precision of matched points and line segments on pairs of images with depth, as for ETH3D.

Pautrat et al., ICCV 2023, arXiv:2304.02008, and Glue Factory: matches of all pairs are pooled and ranked by score. One
is right if depth and poses put both at the same place; what is not known counts in nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpr.build import build_image_matcher, build_local, build_matcher, compares_images
from vpr.core import ConfigError, DataError, Doubles, Floats, Image, LocalExtractor, LocalFeatures, Matcher, Matches
from vpr.datasets.eth3d import DepthPair, read_eth3d_depth
from vpr.datasets.posed_views import PosedView
from vpr.images import moved, read_image, resize
from vpr.rerank.lines import LineMatcher
from vpr.runtime import device as machine
from vpr.runtime.files import write_atomically, write_json
from vpr.runtime.progress import Progress
from vpr.settings import Settings
from vpr.training import line_matching
from vpr.training.correspondence import UNKNOWN, Depth, DepthView, Truth
from vpr.training.correspondence import Settings as Thresholds
from vpr.training.line_matching import line_truth

POINTS, LINES = "points", "lines"


@dataclass(eq=False)
class PooledMatches:
    """Matches of all pairs, of one kind."""

    scores: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    wanted: int = 0  # points or segments of the first images with a partner

    def add(self, found: Matches, truth: Truth) -> None:
        """Of one pair; matches of what nothing is known of are left out."""
        partner = truth.first[0][found.pairs[:, 0]]
        known = partner != UNKNOWN
        self.scores += found.scores[known].tolist()
        self.right += (partner == found.pairs[:, 1])[known].tolist()
        self.wanted += int((truth.first >= 0).sum())

    def figures(self) -> dict[str, float]:
        right = np.array(self.right, np.bool_)
        return {
            "AP": 100 * average_precision(np.array(self.scores, np.float64), right, self.wanted),
            "precision": 100 * float(right.mean()) if len(right) else 0.0,
            "recall": 100 * float(right.sum()) / max(1, self.wanted),
            "wanted": self.wanted,
        }


def average_precision(scores: Doubles, right: NDArray[np.bool_], wanted: int) -> float:
    """Area under precision over recall, of (M,) matches of which ``wanted`` could be right; 0 if none could.

    The precision at a recall is the best at this or a higher one.
    """
    if not len(scores) or not wanted:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(best * np.diff(hits / wanted, prepend=0.0)))


class SeenPair(NamedTuple):
    """What was found in a pair of images, points in pixels of the images as the method sees them."""

    points: tuple[LocalFeatures, LocalFeatures]
    matches: Matches
    segments: tuple[Tensor, Tensor] | None = None  # (K, 2, 2) and (L, 2, 2)
    line_matches: Matches | None = None


class _ByFeatures:
    """Local features and their matcher."""

    kinds = (POINTS,)

    def __init__(self, extractor: LocalExtractor, matcher: Matcher) -> None:
        self.extractor, self.matcher, self.channels = extractor, matcher, extractor.channels

    def __call__(self, first: Image, second: Image) -> SeenPair:
        one, other = (self.extractor.extract([self.extractor.preprocess(each)])[0] for each in (first, second))
        return SeenPair((one, other), self.matcher.match(one, [other])[0])


class _ByLines:
    """A matcher of points and lines."""

    kinds = (POINTS, LINES)

    def __init__(self, matcher: LineMatcher) -> None:
        self.matcher, self.channels = matcher, matcher.channels

    def __call__(self, first: Image, second: Image) -> SeenPair:
        one, other = (self.matcher.describe(self.matcher.preprocess(each)) for each in (first, second))
        (found,) = self.matcher.match_both(one, [other])
        segments = one.wireframe.segments.ends, other.wireframe.segments.ends
        return SeenPair((one.points, other.points), found.point_rows, segments, found.line_rows)


def run_depth_pairs(benchmark: str, pairs: Sequence[DepthPair], settings: Settings, out: Path, command: str) -> str:
    """Measure, write ``summary.json`` and ``summary.md``, and return the table.

    Raises ConfigError for a method that matches images without keypoints of its own.
    """
    match = _method(settings)
    out.mkdir(parents=True, exist_ok=True)
    pooled = {kind: PooledMatches() for kind in match.kinds}
    for pair in Progress("match", len(pairs), "pair").over(pairs):
        _measure(pair, match, pooled)
    found = {kind: each.figures() for kind, each in pooled.items()}
    about = {"benchmark": benchmark, "pairs": len(pairs), "scenes": len({pair.scene for pair in pairs})}
    facts = machine.facts(command, torch.device("cpu"))
    write_json(out / "summary.json", {**facts, **about, "measures": found})
    text = _table(about, found)
    write_atomically(out / "summary.md", text)
    return text


def _method(settings: Settings) -> _ByFeatures | _ByLines:
    if not compares_images(settings):
        return _ByFeatures(build_local(settings), build_matcher(settings))
    matcher = build_image_matcher(settings)
    if not isinstance(matcher, LineMatcher):
        raise ConfigError(
            f"image_matcher.method = {settings.image_matcher.method!r} has no keypoints of each image, whose matches "
            "could be ranked; gluestick has, and every matcher of local features"
        )
    return _ByLines(matcher)


def _measure(pair: DepthPair, match: _ByFeatures | _ByLines, pooled: dict[str, PooledMatches]) -> None:
    (first, view), (second, other_view) = (_view(each, match.channels) for each in (pair.first, pair.second))
    seen = match(first, second)
    pose = pair.second.world_to_camera @ np.linalg.inv(pair.first.world_to_camera)
    geometry = Depth(view, other_view, torch.from_numpy(pose)[None].float())
    sizes = [(image.shape[1], image.shape[0]) for image in (first, second)]
    points, others = (
        _in_pixels(each.keypoints, each.image_size, size)[None] for each, size in zip(seen.points, sizes, strict=True)
    )
    if points.shape[1] and others.shape[1]:
        nothing = torch.zeros(1, points.shape[1], others.shape[1])
        pooled[POINTS].add(seen.matches, geometry.truth(points, others, nothing, Thresholds()))
    if seen.segments is None or seen.line_matches is None or not all(map(len, seen.segments)):
        return
    ends, other_ends = (
        _in_pixels(each.flatten(0, 1), features.image_size, size).view(1, -1, 2, 2)
        for each, features, size in zip(seen.segments, seen.points, sizes, strict=True)
    )
    pooled[LINES].add(seen.line_matches, line_truth(ends, other_ends, geometry, line_matching.Settings()))


def _in_pixels(points: Tensor, seen: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.asarray(moved(points.numpy(), seen, size), np.float32))


def _view(view: PosedView, channels: Any) -> tuple[Image, DepthView]:
    """The image at the size of its depth, where the errors are measured."""
    image, depth = read_image(view.image, channels), read_eth3d_depth(view.depth)
    (height, width), stored = depth.shape, (image.shape[1], image.shape[0])
    if abs(stored[0] * height - stored[1] * width) > 0.02 * stored[0] * height:
        raise DataError(
            f"{view.depth}: {width} x {height} pixels, the image has {stored[0]} x {stored[1]}: another shape"
        )
    scale = np.array([width / stored[0], height / stored[1]])
    matrix = view.matrix.copy()
    matrix[:2, :2] *= scale[:, None]
    matrix[:2, 2] = (matrix[:2, 2] + 0.5) * scale - 0.5
    known: Floats = depth
    shown = np.asarray(resize(image, (width, height)))
    return shown, DepthView(torch.from_numpy(known)[None], torch.from_numpy(matrix)[None].float())


def _table(about: dict[str, Any], found: dict[str, dict[str, float]]) -> str:
    lines = [f"{about['benchmark']}: {about['pairs']} pairs of {about['scenes']} scenes", ""]
    lines += ["| | AP | precision | recall | with a partner |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {kind} | {each['AP']:.2f} | {each['precision']:.1f} | {each['recall']:.1f} | {each['wanted']:.0f} |"
        for kind, each in found.items()
    ]
    return "\n".join(lines) + "\n"
