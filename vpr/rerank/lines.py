"""Re-ranking by keypoints and line segments that are matched together, as GlueStick does.

Points give the geometry, as without lines; segments that agree with it add their confidence to the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from vpr.core import Doubles, Image, ImageMatcher, Verifier
from vpr.images import MAX_MEGAPIXELS, ImageLike
from vpr.local_features.points_and_lines import PointsWithLines
from vpr.matchers.gluestick import LineMatches, MatchedBoth
from vpr.rerank import cost, verification
from vpr.rerank.images import ImagePair, SeenImage, pair_of, prepared
from vpr.rerank.line_agreement import lines_agree
from vpr.rerank.reranker import Pair, PairReranker, RerankSettings, known_score
from vpr.rerank.scores import SCORES


@runtime_checkable
class LineMatcher(ImageMatcher, Protocol):
    """An image matcher that matches line segments too."""

    dim: int  # length of a descriptor

    def describe(self, image: Tensor) -> PointsWithLines:
        """Keypoints and segments of one image as preprocessed."""

    def match_both(self, query: PointsWithLines, candidates: Sequence[PointsWithLines]) -> list[MatchedBoth]:
        """Points and lines of the query and each candidate; each pair as if it were the only one."""


class Settings(RerankSettings):
    """Settings of re-ranking by points and lines."""

    method: Literal["points_and_lines"] = "points_and_lines"
    k: int = Field(20, ge=0)  # candidates re-ranked
    score: str = "confidence_sum"  # of the points
    line_weight: float = Field(1.0, ge=0)  # of the summed confidence of segments that agree with the geometry

    known = field_validator("score")(known_score)


@dataclass(frozen=True, eq=False)
class DescribedImage(SeenImage):
    """Points and lines of one image."""

    features: PointsWithLines
    counts: Tensor | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        return self.features.points.image_size

    def __len__(self) -> int:
        """Keypoints; 0 where the image could not be read."""
        return len(self.features)


@dataclass(frozen=True, eq=False)
class LinePair(ImagePair):
    """Evidence of two images, of which segments are matched too."""

    lines: LineMatches
    lines_agree: NDArray[np.bool_]  # (L,) which of them agree with the geometry of the points

    @property
    def confidence_of_lines(self) -> float:
        """Summed over those that agree."""
        return float(self.lines.scores.numpy()[self.lines_agree].sum(dtype=np.float64))


class LineReranker(PairReranker[DescribedImage]):
    """Matches points and lines of images, a query with several candidates at once, and verifies the points."""

    def __init__(
        self,
        matcher: LineMatcher,
        verifier: Verifier,
        settings: Settings,
        geometry: verification.Settings,
        *,
        control: cost.Settings | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
        together: int = 4,
    ) -> None:
        # One thread: a network of this size uses all of them by itself.
        super().__init__(settings, control=control, threads=1, together=together, reads_ahead=False)
        self.nothing = DescribedImage(PointsWithLines.empty(matcher.dim))
        self.weights = matcher.weights
        self.prepare = self._prepared
        self.score_name = f"{settings.score}, and lines"
        self.matcher = matcher
        self.verifier = verifier
        self.settings = settings
        self.geometry = geometry
        self.max_megapixels = max_megapixels

    def _prepared(self, image: ImageLike, mask: Image | None = None) -> DescribedImage:
        tensor, counts = prepared(self.matcher, image, mask, self.max_megapixels)
        return DescribedImage(self.matcher.describe(tensor), counts)

    def compare(self, query: DescribedImage, candidates: Sequence[DescribedImage]) -> list[Pair]:
        found = self.matcher.match_both(query.features, [each.features for each in candidates])
        pairs: list[Pair] = []
        for candidate, (points, lines, _, _) in zip(candidates, found, strict=True):
            pair = pair_of(query, candidate, points, self.verifier, self.geometry)
            ends0, ends1 = lines.ends0, lines.ends1
            seen = (query.seen(ends0.flatten(0, 1)) & candidate.seen(ends1.flatten(0, 1))).view(-1, 2).all(1)
            kept = lines.part(seen)
            pairs.append(LinePair(**vars(pair), lines=kept, lines_agree=self._agreeing(kept, pair)))
        return pairs

    def _agreeing(self, lines: LineMatches, pair: Pair) -> NDArray[np.bool_]:
        model, geometry = pair.verified.model, self.geometry
        if model is None:
            return np.full(len(lines), geometry.method == "none")
        ends0, ends1 = (each.numpy().astype(np.float64) for each in (lines.ends0, lines.ends1))
        return lines_agree(ends0, ends1, model, geometry.model, geometry.threshold)

    def scales(self, pairs: Sequence[Pair]) -> tuple[Doubles, Sequence[float]]:
        return np.array([[self.score(pair)] for pair in pairs]), [1.0]

    def score(self, pair: Pair) -> float:
        assert isinstance(pair, LinePair)
        return SCORES[self.settings.score](pair.evidence) + self.settings.line_weight * pair.confidence_of_lines
