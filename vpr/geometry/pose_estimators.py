"""Matches to a relative pose: the estimators of the published tables, by name.

Every estimator takes (M, 2) pixels of both images, both intrinsics and a threshold in pixels, and gives the pose of the
second camera relative to the first, or None for too few or degenerate matches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from vpr.core import Doubles
from vpr.geometry.homography_estimators import require_poselib, require_pycolmap
from vpr.relative_pose import SAMPLE, Pose, by_essential_matrix, finite_or_none, normalised, recover_pose

Estimate = Callable[[Doubles, Doubles, Doubles, Doubles, float], Pose | None]


def opencv_ransac(first: Doubles, second: Doubles, K0: Doubles, K1: Doubles, threshold: float) -> Pose | None:
    """OpenCV's RANSAC on normalised points (SuperGlue, Glue Factory)."""
    found = by_essential_matrix(first, second, K0, K1, threshold=threshold, method=cv2.RANSAC)
    return None if found is None else found.pose


def opencv_magsac(first: Doubles, second: Doubles, K0: Doubles, K1: Doubles, threshold: float) -> Pose | None:
    """OpenCV's MAGSAC++ on normalised points (IMP)."""
    found = by_essential_matrix(first, second, K0, K1, threshold=threshold, method=cv2.USAC_MAGSAC)
    return None if found is None else found.pose


def poselib(first: Doubles, second: Doubles, K0: Doubles, K1: Doubles, threshold: float) -> Pose | None:
    """PoseLib's LO-RANSAC with non-linear refinement and its own defaults; needs the extra "pose"."""
    library = require_poselib()
    if len(first) < SAMPLE:
        return None
    found, report = library.estimate_relative_pose(
        first, second, _camera(K0), _camera(K1), {"max_epipolar_error": threshold}
    )
    if not any(report["inliers"]):
        return None
    return finite_or_none(Pose(np.asarray(found.R, dtype=np.float64), np.asarray(found.t, dtype=np.float64)))


def pycolmap(first: Doubles, second: Doubles, K0: Doubles, K1: Doubles, threshold: float) -> Pose | None:
    """COLMAP's LO-RANSAC with its own defaults; needs pycolmap."""
    library = require_pycolmap()
    if len(first) < SAMPLE:
        return None
    options = library.RANSACOptions()
    options.max_error = threshold
    options.random_seed = 0
    # COLMAP counts pixels from the corner of the top-left pixel; the shift is in both points and principal points.
    cameras = [
        library.Camera(
            model="PINHOLE",
            width=max(1, int(2 * K[0, 2])),
            height=max(1, int(2 * K[1, 2])),
            params=[K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5],
        )
        for K in (K0, K1)
    ]
    found = library.estimate_essential_matrix(first + 0.5, second + 0.5, *cameras, options)
    if found is None:
        return None
    matrix = np.asarray(found["cam2_from_cam1"].matrix(), dtype=np.float64)
    return finite_or_none(Pose(matrix[:, :3], matrix[:, 3]))


POSE_ESTIMATORS: Mapping[str, Estimate] = {
    "opencv": opencv_ransac,
    "magsac": opencv_magsac,
    "poselib": poselib,
    "pycolmap": pycolmap,
}


def pose_of_fundamental(fundamental: Doubles, first: Doubles, second: Doubles, K0: Doubles, K1: Doubles) -> Pose | None:
    """The pose that a fundamental matrix and its inliers tell, once the intrinsics are known."""
    if not len(first):
        return None
    essential = K1.T @ fundamental @ K0
    return recover_pose(essential, normalised(first, K0), normalised(second, K1), None)


def _camera(K: Doubles) -> dict[str, Any]:
    width, height = (max(1, int(2 * centre)) for centre in K[:2, 2])  # not used by the estimation
    return {"model": "PINHOLE", "width": width, "height": height, "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]}
