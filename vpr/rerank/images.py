"""Re-ranking by dense matching of the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from vpr.core import Doubles, ImageMatcher, ImageMatches, LocalFeatures, Matches, Verifier
from vpr.images import as_image
from vpr.rerank import cost, verification
from vpr.rerank.reranker import Pair, PairReranker, RerankSettings, evidence_of, known_score
from vpr.rerank.scores import SCORES


class Settings(RerankSettings):
    """Settings of re-ranking by an image matcher."""

    method: Literal["images"] = "images"
    k: int = Field(10, ge=0)  # candidates re-ranked; each takes seconds on a CPU
    score: str = "confidence_sum"

    known = field_validator("score")(known_score)


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as an image matcher takes it."""

    tensor: Tensor  # (C, H, W); without pixels where the image could not be read

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height."""
        return self.tensor.shape[2], self.tensor.shape[1]

    def __len__(self) -> int:
        """Pixels; 0 where the image could not be read."""
        return self.tensor[0].numel()


@dataclass(frozen=True, eq=False)
class ImagePair(Pair):
    """Evidence of two images whose keypoints belong to the pair."""

    found: ImageMatches

    def matched(self, query: PreparedImage, candidate: PreparedImage) -> tuple[LocalFeatures, LocalFeatures]:
        """Keypoints of the matches, without descriptors."""
        nothing, found = torch.zeros(len(self.found), 0), self.found
        return (
            LocalFeatures(found.keypoints0, found.scores, nothing, query.image_size),
            LocalFeatures(found.keypoints1, found.scores, nothing, candidate.image_size),
        )


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
    ) -> None:
        # One after the other: a network of this size uses all threads by itself.
        super().__init__(
            settings.k, settings.retrieval_weight, control=control, threads=1, together=1, reads_ahead=False
        )
        self.weights = matcher.weights
        self.prepare = lambda image: PreparedImage(matcher.preprocess(as_image(image, matcher.channels)))
        self.score_name = settings.score
        self.matcher = matcher
        self.verifier = verifier
        self.settings = settings
        self.geometry = geometry

    def compare(self, query: PreparedImage, candidates: Sequence[PreparedImage]) -> list[Pair]:
        return [self._compare(query, candidate) for candidate in candidates]

    def _compare(self, query: PreparedImage, candidate: PreparedImage) -> ImagePair:
        readable = len(query) and len(candidate)
        found = self.matcher.match(query.tensor, [candidate.tensor])[0] if readable else ImageMatches.empty()
        points = (found.keypoints0.numpy().astype(np.float64), found.keypoints1.numpy().astype(np.float64))
        (verified,) = self.verifier.verify([points])
        by_chance = verification.inliers_by_chance(len(found), self.geometry, candidate.image_size) if readable else 0.0
        rows = torch.arange(len(found))
        matches = Matches(torch.stack([rows, rows], dim=1), found.scores)
        return ImagePair(matches, verified, evidence_of(found, verified, by_chance), found)

    def scales(self, pairs: Sequence[Pair]) -> tuple[Doubles, Sequence[float]]:
        return np.array([[self.score(pair)] for pair in pairs]), [1.0]

    def score(self, pair: Pair) -> float:
        return SCORES[self.settings.score](pair.evidence)
