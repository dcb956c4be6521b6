"""Errors of an estimated relative pose, and of matches, against the true relative pose of two cameras.

A pose is (R, t): a point X of the first camera's frame is R X + t in the second's. Points are (N, 2) pixels with the
centre of the top-left pixel at (0, 0), intrinsics are (3, 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vpr.core import Doubles

AUC_BOUNDS_DEG = (5.0, 10.0, 20.0)


@dataclass(frozen=True, eq=False)
class Pose:
    """A relative pose; the length of the translation does not matter."""

    rotation: Doubles  # (3, 3)
    translation: Doubles  # (3,)


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
