"""Patch-NetVLAD's second stage: patches that are each other's nearest, and how well their places agree.

Hausler et al., CVPR 2021, arXiv:2103.01486. Each patch size is scored on its own, standardised over the candidates, and
weighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vpr.core import Doubles, Floats, Matches, Rows, Verified
from vpr.global_descriptors.patches import CELL, PatchFeatures, PatchGrid
from vpr.rerank import cost, verification
from vpr.rerank.reranker import Pair, PairReranker, RerankSettings
from vpr.rerank.scores import PairEvidence

Bools = NDArray[np.bool_]


class Settings(RerankSettings):
    """Settings of re-ranking by patches."""

    method: Literal["patch_netvlad"] = "patch_netvlad"
    k: int = Field(100, ge=0)
    retrieval_weight: float = Field(0.0, ge=0)
    patch_weights: tuple[Annotated[float, Field(ge=0)], ...] = (0.45, 0.15, 0.4)  # one for each patch size
    scoring: Literal["ransac", "spatial"] = "ransac"  # inliers of a homography, or the spread of the shifts
    as_published: bool = False  # with strides above 1 repeat the published code's slip in the patches' places


@dataclass(frozen=True, eq=False)
class PatchPair(Pair):
    """A query and a candidate; the matches number the patches through all patch sizes."""

    scores: Doubles  # (S,) of each patch size


@dataclass(frozen=True, eq=False)
class Scale:
    """Scores of a query and a candidate at one patch size."""

    pairs: Rows  # (M, 2) patch of the query, patch of the candidate
    similarity: Floats  # (M,)
    inliers: Bools  # (M,)
    score: float  # 0 without evidence


class PatchReranker(PairReranker[PatchFeatures]):
    """Compares patch descriptors, which may be in half precision, in fp32."""

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        *,
        control: cost.Settings | None = None,
        threads: int = 2,
        together: int = 16,
        reads_ahead: bool = False,
    ) -> None:
        super().__init__(
            settings,
            control=control,
            threads=threads,
            together=together,
            reads_ahead=reads_ahead,
        )
        self.score_name = settings.scoring
        self.settings = settings
        self.device = device

    @torch.inference_mode()
    def compare(self, query: PatchFeatures, candidates: Sequence[PatchFeatures]) -> list[Pair]:
        mine = [each.to(self.device).float() for each in query.descriptors]  # once for all candidates
        return [self._compare(query, mine, candidate) for candidate in candidates]

    def scales(self, pairs: Sequence[Pair]) -> tuple[Doubles, Sequence[float]]:
        return np.stack([_scores(pair) for pair in pairs]), self.settings.patch_weights

    def score(self, pair: Pair) -> float:
        """The weighted sum of a pair's scores; in a shortlist they are standardised before."""
        return float(_scores(pair) @ np.asarray(self.settings.patch_weights))

    def _compare(self, query: PatchFeatures, mine: Sequence[Tensor], candidate: PatchFeatures) -> PatchPair:
        if not len(query) or not len(candidate):  # an image that could not be read
            evidence = PairEvidence(matches=0, inliers=0, confidence=0.0, by_chance=0.0)
            nothing = np.zeros(len(self.settings.patch_weights))
            return PatchPair(Matches.empty(), Verified(np.zeros(0, dtype=bool)), evidence, nothing)
        of_sizes = zip(query.grids, mine, candidate.descriptors, strict=True)
        scales = [self._scale(grid, ours, theirs.to(self.device).float()) for grid, ours, theirs in of_sizes]
        starts = np.cumsum([0, *map(len, query.grids[:-1])])
        pairs = np.concatenate([scale.pairs + start for scale, start in zip(scales, starts, strict=True)])
        similarity = np.concatenate([scale.similarity for scale in scales]).clip(0, 1)
        inliers = np.concatenate([scale.inliers for scale in scales])
        evidence = PairEvidence(
            matches=len(pairs),
            inliers=int(inliers.sum()),
            confidence=float(similarity[inliers].sum(dtype=np.float64)),
            by_chance=self._by_chance(query, scales),
        )
        matches = Matches(torch.from_numpy(pairs), torch.from_numpy(similarity))
        return PatchPair(matches, Verified(inliers), evidence, np.array([scale.score for scale in scales]))

    def _scale(self, grid: PatchGrid, ours: Tensor, theirs: Tensor) -> Scale:
        pairs, similarity = mutual_nearest(ours @ theirs.T)
        cells, points = (each.numpy().astype(np.float64) for each in grid.positions(self.settings.as_published))
        if self.settings.scoring == "spatial":
            score = shift_agreement(cells[pairs[:, 0]], cells[pairs[:, 1]], extent=cells.max(axis=0))
            return Scale(pairs, similarity, np.ones(len(pairs), dtype=bool), score / len(grid))
        inliers = homography_inliers(points[pairs[:, 0]], points[pairs[:, 1]], _threshold(grid))
        return Scale(pairs, similarity, inliers, float(inliers.sum()) / len(grid))

    def _by_chance(self, query: PatchFeatures, scales: Sequence[Scale]) -> float:
        if self.settings.scoring == "spatial":
            return 0.0
        return sum(
            verification.inliers_by_chance(
                len(scale.pairs),
                verification.Settings(model="homography", threshold=_threshold(grid)),
                query.image_size,
            )
            for grid, scale in zip(query.grids, scales, strict=True)
        )


def mutual_nearest(similarity: Tensor) -> tuple[Rows, Floats]:
    """Rows and columns that are each other's maximum, ordered by column, (M, 2), and their similarities (M,).

    Of equal maxima the first counts, so that a patch is in one pair at most.
    """
    # On a CPU NumPy's argmax takes a ninth of torch's time, and a maximum per column a fifth of NumPy's argmax there.
    on_cpu = similarity.device.type == "cpu"
    nearest = torch.from_numpy(similarity.numpy().argmax(axis=1)) if on_cpu else similarity.argmax(dim=1)
    best = similarity.gather(1, nearest[:, None])[:, 0]
    rows = (best == similarity.amax(dim=0)[nearest]).nonzero()[:, 0]
    columns, first = np.unique(nearest[rows].cpu().numpy(), return_index=True)
    chosen = rows.cpu().numpy()[first]
    return np.stack([chosen, columns], axis=1), best.cpu().numpy()[chosen]


def homography_inliers(query_points: Doubles, candidate_points: Doubles, threshold: float) -> Bools:
    """Which of M pairs of points one homography explains; none of 3 or fewer. OpenCV's first RANSAC, as published."""
    none = np.zeros(len(query_points), dtype=bool)
    if len(query_points) <= 3:
        return none
    try:
        _, mask = cv2.findHomography(candidate_points, query_points, cv2.RANSAC, threshold)
    except cv2.error:  # degenerate points
        return none
    return none if mask is None else np.asarray(mask).ravel().astype(bool)


def shift_agreement(query_cells: Doubles, candidate_cells: Doubles, extent: Doubles) -> float:
    """Returns the agreement of M shifts: the sum, over pairs and axes, of (extent - deviation from their mean)^2."""
    if not len(query_cells):
        return 0.0
    shifts = query_cells - candidate_cells
    deviations = np.abs(shifts - shifts.mean(axis=0))
    return float(((extent - deviations) ** 2).sum())


def _threshold(grid: PatchGrid) -> float:
    return 1.5 * CELL * grid.stride


def _scores(pair: Pair) -> Doubles:
    if not isinstance(pair, PatchPair):
        raise AssertionError(f"a pair of patches was expected, got {type(pair).__name__}")
    return pair.scores
