"""Re-ranking by dense matching of the images themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from vpr.core import Doubles, Image, ImageMatcher, ImageMatches, LocalFeatures, Matches, Verifier
from vpr.features.masks import at_size, covered, points_that_count
from vpr.images import MAX_MEGAPIXELS, ImageLike, as_image
from vpr.rerank import cost, verification
from vpr.rerank.reranker import Pair, PairReranker, RerankSettings, evidence_of, known_score
from vpr.rerank.scores import SCORES


class Settings(RerankSettings):
    """Settings of re-ranking by an image matcher."""

    method: Literal["images"] = "images"
    k: int = Field(10, ge=0)  # candidates re-ranked; each takes seconds on a CPU
    score: str = "confidence_sum"

    known = field_validator("score")(known_score)


class SeenImage(ABC):
    """What is compared of one image."""

    counts: Tensor | None  # (H, W) bool, pixels whose matches count; None: all

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Width and height."""

    @abstractmethod
    def __len__(self) -> int:
        """0 where the image could not be read."""

    def seen(self, keypoints: Tensor) -> Tensor:
        """(M,) bool, whether (M, 2) points lie on pixels that count."""
        if self.counts is None:
            return torch.ones(len(keypoints), dtype=torch.bool)
        return points_that_count(keypoints, self.counts)


@dataclass(frozen=True, eq=False)
class PreparedImage(SeenImage):
    """An image as an image matcher takes it."""

    tensor: Tensor  # (C, H, W); without pixels where the image could not be read
    counts: Tensor | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        return self.tensor.shape[2], self.tensor.shape[1]

    def __len__(self) -> int:
        """Pixels; 0 where the image could not be read."""
        return self.tensor[0].numel()


@dataclass(frozen=True, eq=False)
class ImagePair(Pair):
    """Evidence of two images whose keypoints belong to the pair."""

    found: ImageMatches

    def matched(self, query: SeenImage, candidate: SeenImage) -> tuple[LocalFeatures, LocalFeatures]:
        """Keypoints of the matches, without descriptors."""
        nothing, found = torch.zeros(len(self.found), 0), self.found
        return (
            LocalFeatures(found.keypoints0, found.scores, nothing, query.image_size),
            LocalFeatures(found.keypoints1, found.scores, nothing, candidate.image_size),
        )


def prepared(
    matcher: ImageMatcher, image: ImageLike, mask: Image | None, max_megapixels: float
) -> tuple[Tensor, Tensor | None]:
    """The image as the matcher takes it, and which of its pixels count; None: all."""
    decoded = as_image(image, matcher.channels, max_megapixels)
    if mask is None:
        return matcher.preprocess(decoded), None
    tensor = matcher.preprocess(covered(decoded, mask))
    return tensor, torch.from_numpy(at_size(mask, tensor.shape[2], tensor.shape[1]))


def pair_of(
    query: SeenImage,
    candidate: SeenImage,
    found: ImageMatches,
    verifier: Verifier,
    geometry: verification.Settings,
) -> ImagePair:
    """Evidence of the matches that lie on pixels that count."""
    found = found.part(query.seen(found.keypoints0) & candidate.seen(found.keypoints1))
    points = (found.keypoints0.numpy().astype(np.float64), found.keypoints1.numpy().astype(np.float64))
    (verified,) = verifier.verify([points])
    readable = len(query) and len(candidate)
    by_chance = verification.inliers_by_chance(len(found), geometry, candidate.image_size) if readable else 0.0
    rows = torch.arange(len(found))
    matches = Matches(torch.stack([rows, rows], dim=1), found.scores)
    return ImagePair(matches, verified, evidence_of(found, verified, by_chance), found)


class ImageReranker(PairReranker[PreparedImage]):
    """Matches images densely and verifies the matches."""

    nothing = PreparedImage(torch.zeros(1, 0, 0))

    def __init__(
        self,
        matcher: ImageMatcher,
        verifier: Verifier,
        settings: Settings,
        geometry: verification.Settings,
        *,
        control: cost.Settings | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        # One after the other: a network of this size uses all threads by itself.
        super().__init__(settings, control=control, threads=1, together=1, reads_ahead=False)
        self.weights = matcher.weights
        self.prepare = self._prepared
        self.score_name = settings.score
        self.matcher = matcher
        self.verifier = verifier
        self.settings = settings
        self.geometry = geometry
        self.max_megapixels = max_megapixels

    def _prepared(self, image: ImageLike, mask: Image | None = None) -> PreparedImage:
        return PreparedImage(*prepared(self.matcher, image, mask, self.max_megapixels))

    def compare(self, query: PreparedImage, candidates: Sequence[PreparedImage]) -> list[Pair]:
        return [self._compare(query, candidate) for candidate in candidates]

    def _compare(self, query: PreparedImage, candidate: PreparedImage) -> ImagePair:
        readable = len(query) and len(candidate)
        found = self.matcher.match(query.tensor, [candidate.tensor])[0] if readable else ImageMatches.empty()
        return pair_of(query, candidate, found, self.verifier, self.geometry)

    def scales(self, pairs: Sequence[Pair]) -> tuple[Doubles, Sequence[float]]:
        return np.array([[self.score(pair)] for pair in pairs]), [1.0]

    def score(self, pair: Pair) -> float:
        return SCORES[self.settings.score](pair.evidence)
