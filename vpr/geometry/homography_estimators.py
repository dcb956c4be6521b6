"""Matches to a homography: the estimators of the published tables, by name.

Every estimator takes (M, 2) pixels of both images, scores (M,) and a threshold in pixels, and gives the homography
(3, 3), first to second, or None for too few or degenerate matches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import cv2
import numpy as np

from vpr.core import ConfigError, Doubles

SAMPLE = 4
Estimate = Callable[[Doubles, Doubles, Doubles, float], Doubles | None]


@dataclass(frozen=True)
class HomographyEstimator:
    """One row of the table."""

    estimate: Estimate
    swept: bool  # whether it has a threshold


def direct_linear(first: Doubles, second: Doubles, scores: Doubles, threshold: float = 0.0) -> Doubles | None:
    """Weighted least squares over all matches, without outlier rejection.

    As in Glue Factory, whose solver takes one step of inverse iteration from a vector of ones towards the smallest
    eigenvector; on noisy matches that differs from the eigenvector by up to a tenth of a pixel at the corners.
    """
    if len(first) < SAMPLE:
        return None
    (p, to_unit_first), (q, to_unit_second) = _to_unit(first, scores), _to_unit(second, scores)
    one, zero = np.ones((len(p), 1)), np.zeros((len(p), 3))
    p = np.hstack([p, one])
    along_x = np.hstack([p, zero, -q[:, :1] * p])
    along_y = np.hstack([zero, p, -q[:, 1:] * p])
    normal = sum(rows.T @ (scores[:, None] * rows) for rows in (along_x, along_y))
    try:
        homography = np.linalg.solve(normal, np.ones(9)).reshape(3, 3)
    except np.linalg.LinAlgError:  # the matches fit without any error, or leave more than one homography
        homography = np.linalg.eigh(normal)[1][:, 0].reshape(3, 3)
    homography = homography / max(float(np.linalg.norm(homography)), 1e-300)
    return _scaled(np.linalg.inv(to_unit_second) @ homography @ to_unit_first)


def opencv_ransac(first: Doubles, second: Doubles, scores: Doubles, threshold: float) -> Doubles | None:
    """OpenCV's RANSAC with the iterations and confidence of Glue Factory; 3 px is that of SuperPoint's protocol too."""
    if len(first) < SAMPLE:
        return None
    try:
        found, _ = cv2.findHomography(first, second, cv2.RANSAC, threshold, maxIters=3000, confidence=0.995)
    except cv2.error:  # degenerate points
        return None
    return _scaled(None if found is None else np.asarray(found, dtype=np.float64))


def poselib(first: Doubles, second: Doubles, scores: Doubles, threshold: float) -> Doubles | None:
    """PoseLib's LO-RANSAC with its own defaults; needs the extra "pose"."""
    library = require_poselib()
    if len(first) < SAMPLE:
        return None
    found, _ = library.estimate_homography(first, second, {"max_reproj_error": threshold})
    return _scaled(np.asarray(found, dtype=np.float64))


def pycolmap(first: Doubles, second: Doubles, scores: Doubles, threshold: float) -> Doubles | None:
    """COLMAP's LO-RANSAC with its own defaults; needs pycolmap."""
    library = require_pycolmap()
    if len(first) < SAMPLE:
        return None
    options = library.RANSACOptions()
    options.max_error = threshold
    options.random_seed = 0
    found = library.estimate_homography_matrix(first, second, options)
    return None if found is None else _scaled(np.asarray(found["H"], dtype=np.float64))


HOMOGRAPHY_ESTIMATORS: Mapping[str, HomographyEstimator] = {
    "dlt": HomographyEstimator(direct_linear, swept=False),
    "opencv": HomographyEstimator(opencv_ransac, swept=True),
    "poselib": HomographyEstimator(poselib, swept=True),
    "pycolmap": HomographyEstimator(pycolmap, swept=True),
}


def require_poselib() -> Any:
    try:
        import poselib
    except ImportError:
        raise ConfigError('the estimator "poselib" needs PoseLib: pip install "vpr[pose]", or leave it out') from None
    return poselib


def require_pycolmap() -> Any:
    try:
        return import_module("pycolmap")
    except ImportError:
        raise ConfigError('the estimator "pycolmap" needs pycolmap: pip install pycolmap, or leave it out') from None


def _to_unit(points: Doubles, weights: Doubles) -> tuple[Doubles, Doubles]:
    """Points moved to their weighted mean and scaled to a mean distance of the root of 2, and the matrix for it."""
    weights = weights if weights.sum() > 0 else np.ones(len(points))
    centre = np.average(points, axis=0, weights=weights)
    distance = float(np.average(np.linalg.norm(points - centre, axis=1), weights=weights))
    scale = np.sqrt(2) / max(distance, 1e-8)
    matrix = np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])
    return (points - centre) * scale, matrix


def _scaled(homography: Doubles | None) -> Doubles | None:
    """With a bottom right entry of 1; None for a matrix that maps no image."""
    if homography is None or homography.shape != (3, 3) or not np.isfinite(homography).all():
        return None
    if abs(np.linalg.det(homography)) < 1e-15:
        return None
    return homography / homography[2, 2] if homography[2, 2] else homography
