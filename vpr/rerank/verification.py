"""Geometric verification: which matches does one epipolar geometry, or one plane, explain?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from pydantic import Field

from vpr.config import Method, MethodSettings
from vpr.core import ConfigError, Doubles, Verified, Verifier
from vpr.rerank.ransac import Fundamental, Homography, TorchRansac

Model = Literal["fundamental", "homography"]

# Matches that always fit a model, since it is computed from this many.
SAMPLE_SIZE: dict[Model, int] = {"fundamental": 7, "homography": 4}

_OPENCV = {"magsac": cv2.USAC_MAGSAC, "accurate": cv2.USAC_ACCURATE}


class Settings(MethodSettings):
    """Settings of geometric verification."""

    method: Literal["magsac", "accurate", "poselib", "torch", "none"] = "magsac"
    model: Model = "fundamental"
    threshold: float = Field(3.0, gt=0)  # pixels of the images the local features saw
    confidence: float = Field(0.999, gt=0, lt=1)
    max_iterations: int = Field(1000, ge=1)


class OpenCvVerifier:
    """OpenCV's USAC: MAGSAC++ (Barath et al., CVPR 2020) or LO-RANSAC with inner Gauss-Newton ("accurate").

    Its random state is fixed, so equal matches give equal inliers.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def verify(self, pairs: Sequence[tuple[Doubles, Doubles]]) -> list[Verified]:
        return [self._verify(*pair) for pair in pairs]

    def _verify(self, query_points: Doubles, candidate_points: Doubles) -> Verified:
        if len(query_points) <= SAMPLE_SIZE[self.settings.model]:
            return _nothing(len(query_points))
        try:
            matrix, mask = self._estimate(query_points, candidate_points)
        except cv2.error:  # degenerate points
            return _nothing(len(query_points))
        if matrix is None or mask is None or matrix.shape != (3, 3):
            return _nothing(len(query_points))
        return Verified(mask.ravel().astype(bool), matrix)

    def _estimate(self, query_points: Doubles, candidate_points: Doubles) -> tuple[Any, Any]:
        settings = self.settings
        how = _OPENCV[settings.method]
        if settings.model == "homography":
            return cv2.findHomography(
                query_points,
                candidate_points,
                how,
                settings.threshold,
                maxIters=settings.max_iterations,
                confidence=settings.confidence,
            )
        return cv2.findFundamentalMat(
            query_points, candidate_points, how, settings.threshold, settings.confidence, settings.max_iterations
        )


class PoseLibVerifier:
    """PoseLib's LO-RANSAC with non-linear refinement (Larsson, github.com/PoseLib/PoseLib); needs the extra "pose"."""

    def __init__(self, settings: Settings) -> None:
        try:
            import poselib
        except ImportError:
            raise ConfigError(
                'verification.method = "poselib" needs PoseLib: pip install "vpr[pose]", or choose "magsac"'
            ) from None
        self.settings = settings
        self.estimate = poselib.estimate_fundamental if settings.model == "fundamental" else poselib.estimate_homography

    def verify(self, pairs: Sequence[tuple[Doubles, Doubles]]) -> list[Verified]:
        return [self._verify(*pair) for pair in pairs]

    def _verify(self, query_points: Doubles, candidate_points: Doubles) -> Verified:
        settings = self.settings
        if len(query_points) <= SAMPLE_SIZE[settings.model]:
            return _nothing(len(query_points))
        options = {
            "max_epipolar_error": settings.threshold,
            "max_reproj_error": settings.threshold,
            "success_prob": settings.confidence,
            "max_iterations": settings.max_iterations,
        }
        matrix, report = self.estimate(query_points, candidate_points, options)
        return Verified(np.array(report["inliers"], dtype=bool), np.asarray(matrix, dtype=np.float64))


class NoVerifier:
    """Takes every match for an inlier."""

    def verify(self, pairs: Sequence[tuple[Doubles, Doubles]]) -> list[Verified]:
        return [Verified(np.ones(len(query_points), dtype=bool)) for query_points, _ in pairs]


def _nothing(matches: int) -> Verified:
    return Verified(np.zeros(matches, dtype=bool))


def _torch_ransac(settings: Settings, device: torch.device) -> TorchRansac:
    geometry = Fundamental() if settings.model == "fundamental" else Homography()
    return TorchRansac(geometry, settings.threshold, settings.max_iterations, device)


VERIFIERS: dict[str, Method[Verifier]] = {
    "magsac": Method(Settings, lambda settings, device: OpenCvVerifier(settings)),
    "accurate": Method(Settings, lambda settings, device: OpenCvVerifier(settings)),
    "poselib": Method(Settings, lambda settings, device: PoseLibVerifier(settings)),
    "torch": Method(Settings, _torch_ransac),
    "none": Method(Settings, lambda settings, device: NoVerifier()),
}


def inliers_by_chance(matches: int, settings: Settings, image_size: tuple[int, int]) -> float:
    """Returns the inliers that as many unrelated matches give: about the 95th percentile of RANSAC's best model.

    The sample always fits; each other match falls into the threshold's band around its epipolar line (or circle around
    its point) with probability p, and the best of thousands of models collects some 6.5 deviations more than the mean.
    Measured with USAC_MAGSAC on uniform points, 320x240 to 1280x960, 1.5 and 3 px, 8 to 1000 matches: within 5 inliers
    (``benchmarks/chance.py`` repeats it).
    """
    if settings.method == "none" or matches == 0:
        return 0.0
    width, height = image_size
    area = max(1, width * height)
    band = settings.threshold * (width + height) if settings.model == "fundamental" else np.pi * settings.threshold**2
    expected = matches * min(1.0, band / area)
    return float(min(matches, SAMPLE_SIZE[settings.model] + expected + 6.5 * np.sqrt(expected)))
