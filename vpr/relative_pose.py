"""The relative pose of two cameras: from matches by an essential matrix, and errors against the true one.

A pose is (R, t): a point X of the first camera's frame is R X + t in the second's. Points are (N, 2) pixels with the
centre of the top-left pixel at (0, 0), intrinsics are (3, 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles

AUC_BOUNDS_DEG = (5.0, 10.0, 20.0)
SAMPLE = 5  # matches that an essential matrix takes
CONFIDENCE = 0.99999


@dataclass(frozen=True, eq=False)
class Pose:
    """A relative pose; the length of the translation does not matter."""

    rotation: Doubles  # (3, 3)
    translation: Doubles  # (3,)


@dataclass(frozen=True, eq=False)
class FoundPose:
    """A relative pose that was estimated from matches."""

    pose: Pose
    inliers: NDArray[np.bool_]  # (M,) which matches agree with its essential matrix


def by_essential_matrix(
    first: Doubles, second: Doubles, K0: Doubles, K1: Doubles, *, threshold: float, method: int
) -> FoundPose | None:
    """The pose that most matches, (M, 2) pixels of both images, agree with; ``method`` is one of OpenCV.

    The threshold, in pixels, is divided by the mean of fx of the first and fy of the second camera, as SuperGlue does.
    None for too few or degenerate matches.
    """
    if len(first) < SAMPLE:
        return None
    first, second = normalised(first, K0), normalised(second, K1)
    focal = (K0[0, 0] + K1[1, 1]) / 2
    try:
        found, mask = cv2.findEssentialMat(
            first, second, np.eye(3), threshold=threshold / focal, prob=CONFIDENCE, method=method
        )
    except cv2.error:  # degenerate points
        return None
    if found is None or found.size < 9:
        return None
    inliers = np.asarray(mask[:, 0], dtype=np.bool_)
    pose = recover_pose(found, first, second, mask)
    return None if pose is None else FoundPose(pose, inliers)


def recover_pose(essentials: Any, first: Doubles, second: Doubles, mask: Any) -> Pose | None:
    """Of the stacked essential matrices (3 k, 3), the pose that puts most normalised points before both cameras.

    Points further away than 50 times the baseline, OpenCV's default, do not count, and a pair of which all are further
    has no pose. The published scripts behave like this too: the 1e9 that they pass is taken for another argument.
    OpenCV narrows the mask from one candidate to the next, there as here.
    """
    best, most = None, 0
    for essential in essentials.reshape(-1, 3, 3):
        count, rotation, translation, _ = cv2.recoverPose(essential, first, second, np.eye(3), mask=mask)
        if count > most:
            most = count
            best = Pose(np.asarray(rotation, dtype=np.float64), np.asarray(translation[:, 0], dtype=np.float64))
    return None if best is None else finite_or_none(best)


def finite_or_none(pose: Pose) -> Pose | None:
    return pose if np.isfinite(pose.rotation).all() and np.isfinite(pose.translation).all() else None


def rotation_error_deg(estimate: Doubles, truth: Doubles) -> float:
    """Angle of the rotation from one to the other."""
    cosine = (np.trace(estimate.T @ truth) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def translation_error_deg(estimate: Doubles, truth: Doubles) -> float:
    """Angle between the directions, at most 90: an essential matrix does not tell a direction from its opposite.

    A translation of length zero has no direction; the error is then 90.
    """
    lengths = np.linalg.norm(estimate) * np.linalg.norm(truth)
    if lengths == 0:
        return 90.0
    angle = float(np.degrees(np.arccos(np.clip(estimate @ truth / lengths, -1, 1))))
    return min(angle, 180 - angle)


def pose_error_deg(estimate: Pose | None, truth: Pose) -> float:
    """The larger of both angles: the error of SuperGlue, Glue Factory, IMP and LoFTR; infinity without an estimate."""
    if estimate is None:
        return np.inf
    return max(
        rotation_error_deg(estimate.rotation, truth.rotation),
        translation_error_deg(estimate.translation, truth.translation),
    )


def normalised(points: Doubles, intrinsics: Doubles) -> Doubles:
    """Pixels to rays with depth 1, (N, 2). Uses only focal lengths and principal point, as all four do."""
    focal = np.array([intrinsics[0, 0], intrinsics[1, 1]])
    rays: Doubles = (points - intrinsics[:2, 2]) / focal
    return rays


def essential_matrix(pose: Pose) -> Doubles:
    x, y, z = pose.translation
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    essential: Doubles = cross @ pose.rotation
    return essential


def squared_epipolar_errors(first: Doubles, second: Doubles, essential: Doubles) -> Doubles:
    """Sum (N,) of the squared distances of normalised points from both epipolar lines: SuperGlue and LoFTR."""
    product, along0, along1 = _epipolar(first, second, essential)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _finite(product**2 * (1 / along0**2 + 1 / along1**2))


def epipolar_errors(first: Doubles, second: Doubles, essential: Doubles) -> Doubles:
    """Mean (N,) of the distances of normalised points from both epipolar lines: Glue Factory and IMP."""
    product, along0, along1 = _epipolar(first, second, essential)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _finite(np.abs(product) * (1 / along0 + 1 / along1) / 2)


def _epipolar(first: Doubles, second: Doubles, essential: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """x1' E x0 and the lengths of the normals of the lines E x0 and E' x1, each (N,)."""
    one = np.ones((len(first), 1))
    first, second = np.hstack([first, one]), np.hstack([second, one])
    lines1, lines0 = first @ essential.T, second @ essential
    return (
        (second * lines1).sum(axis=1),
        np.linalg.norm(lines1[:, :2], axis=1),
        np.linalg.norm(lines0[:, :2], axis=1),
    )


def _finite(errors: Doubles) -> Doubles:
    return np.where(np.isfinite(errors), errors, np.inf)
