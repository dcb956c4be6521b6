"""Two stored images matched as a benchmark measures them: by local features, or by a matcher of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from vpr.core import Doubles, ImageMatcher, LocalFeatures, Matcher, Matches, Rows
from vpr.geometry.homography import resizing
from vpr.geometry.views import Resize, UprightImage, View, Views
from vpr.images import MAX_MEGAPIXELS, read_image

Matched = tuple[View, View, Rows, Doubles]  # both views, rows (M, 2) of their points, confidences (M,)
Cameras = tuple[Doubles, Doubles]  # intrinsics (3, 3) of both images as they are stored
UPRIGHT = (0, 0)


class Matching(Protocol):
    """Matches two stored images."""

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the weights in use, by the section of the settings that names them."""

    @property
    def detects(self) -> bool:
        """Whether the points of an image are found without the other one, so that they can be judged as well."""

    def of(
        self, first: Path, second: Path, turns: tuple[int, int] = UPRIGHT, cameras: Cameras | None = None
    ) -> Matched:
        """Raises ImageError."""


@dataclass(frozen=True, eq=False)
class FeatureMatching:
    """By local features and their matcher."""

    views: Views
    matcher: Matcher
    detects = True

    @property
    def weights(self) -> Mapping[str, str]:
        return {"local_features": self.views.extractor.weights, "matcher": self.matcher.weights}

    def of(
        self, first: Path, second: Path, turns: tuple[int, int] = UPRIGHT, cameras: Cameras | None = None
    ) -> Matched:
        one, other = self.views.view(first, turns[0]), self.views.view(second, turns[1])
        return matched_views(self.matcher, one, other, cameras)


def matched_views(matcher: Matcher, first: View, second: View, cameras: Cameras | None) -> Matched:
    """Two views by a matcher of features; one that estimates a pose on its way is told the cameras."""
    calibrated = getattr(matcher, "match_calibrated", None)
    if calibrated is None or cameras is None:
        matches: Matches = matcher.match(first.features, [second.features])[0]
    else:
        intrinsics = resizing(first.factors) @ cameras[0], resizing(second.factors) @ cameras[1]
        points = first.points, second.points
        matches = calibrated(first.features, second.features, points, intrinsics).matches
    return first, second, matches.pairs.numpy(), np.asarray(matches.scores.numpy(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ImageMatching:
    """By a matcher of the images themselves; the points of a view are those of the matches."""

    matcher: ImageMatcher
    how: Resize
    max_megapixels: float = MAX_MEGAPIXELS
    detects = False

    @property
    def weights(self) -> Mapping[str, str]:
        return {"image_matcher": self.matcher.weights}

    def of(
        self, first: Path, second: Path, turns: tuple[int, int] = UPRIGHT, cameras: Cameras | None = None
    ) -> Matched:
        shown = [
            UprightImage.of(read_image(path, self.matcher.channels, self.max_megapixels), self.how, turned)
            for path, turned in zip((first, second), turns, strict=True)
        ]
        seen = [self.matcher.preprocess(each.image) for each in shown]
        (found,) = self.matcher.match(seen[0], [seen[1]])
        nothing = torch.zeros(len(found), 0)
        one, other = (
            each.view(LocalFeatures(points, found.scores, nothing, (image.shape[2], image.shape[1])))
            for each, points, image in zip(shown, (found.keypoints0, found.keypoints1), seen, strict=True)
        )
        rows = np.arange(len(found), dtype=np.int64)
        return one, other, np.stack([rows, rows], axis=1), one.scores
