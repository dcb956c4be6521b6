"""A homography from matched points and matched line segments together.

Of a segment only its line is believed, since its ends are where a detector stopped. Hypotheses come from samples of
four matches of either kind; the best is refined over all that agree with it, by the distances of points from points,
and of the ends of segments from the lines of their partners. With points alone it is an ordinary RANSAC, refined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from vpr.core import Doubles
from vpr.geometry.homography import invert, warp

SAMPLE = 4
FARTHEST = 1e6  # pixels; where a hypothesis sends nothing nearer


@dataclass(frozen=True, eq=False)
class PointAndLineMatches:
    """What is matched in two images; pixels."""

    points0: Doubles  # (M, 2)
    points1: Doubles  # (M, 2)
    ends0: Doubles  # (L, 2, 2) both ends of each segment
    ends1: Doubles  # (L, 2, 2)

    @property
    def count(self) -> int:
        return len(self.points0) + len(self.ends0)


def homography_from(
    matched: PointAndLineMatches, threshold: float, *, samples: int = 2000, seed: int = 0
) -> Doubles | None:
    """The homography (3, 3) that most matches agree with, first to second; None if no four do.

    A point or segment agrees if it is nearer than ``threshold`` pixels to its partner, in both images in the mean.
    """
    if matched.count < SAMPLE:
        return None
    rows, (to_unit0, to_unit1) = _equations(matched)
    random = np.random.default_rng(seed)
    chosen = np.stack([random.choice(matched.count, SAMPLE, replace=False) for _ in range(samples)])
    hypotheses = np.linalg.svd(rows[chosen].reshape(samples, 2 * SAMPLE, 9))[2][:, -1].reshape(-1, 3, 3)
    hypotheses = np.linalg.inv(to_unit1) @ hypotheses @ to_unit0
    best, most = None, -1.0
    for hypothesis in hypotheses:
        if abs(np.linalg.det(hypothesis)) < 1e-12 * np.linalg.norm(hypothesis) ** 3:
            continue
        score = float(np.clip(1 - (errors_of(matched, hypothesis) / threshold) ** 2, 0, None).sum())
        if score > most:
            best, most = hypothesis, score
    if best is None:
        return None
    for _ in range(3):
        agreeing = errors_of(matched, best) < threshold
        if agreeing.sum() < SAMPLE:
            return None
        best = _refined(_part(matched, agreeing), best, threshold)
    return best


def errors_of(matched: PointAndLineMatches, homography: Doubles) -> Doubles:
    """(M + L,) of points and then of segments: mean distance in both images."""
    try:
        back = invert(homography)
    except np.linalg.LinAlgError:
        return np.full(matched.count, FARTHEST)
    return np.concatenate(
        [
            (_apart(matched.points0, matched.points1, homography) + _apart(matched.points1, matched.points0, back)) / 2,
            np.abs(_from_lines(matched.ends0, matched.ends1, homography)).mean(1) / 2
            + np.abs(_from_lines(matched.ends1, matched.ends0, back)).mean(1) / 2,
        ]
    )


def _apart(points: Doubles, others: Doubles, homography: Doubles) -> Doubles:
    return _near(np.linalg.norm(warp(points, homography) - others, axis=1))


def _from_lines(ends: Doubles, others: Doubles, homography: Doubles) -> Doubles:
    """(L, 2) signed distances of both ends, where they are sent, from the line through the other segment."""
    sent = warp(ends.reshape(-1, 2), homography).reshape(-1, 2, 2)
    along = others[:, 1] - others[:, 0]
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    return _near(((sent - others[:, :1]) * normal[:, None]).sum(2))


def _near(distances: Doubles) -> Doubles:
    return np.clip(np.nan_to_num(distances, nan=FARTHEST), -FARTHEST, FARTHEST)


def _part(matched: PointAndLineMatches, chosen: NDArray[np.bool_]) -> PointAndLineMatches:
    points, lines = chosen[: len(matched.points0)], chosen[len(matched.points0) :]
    return PointAndLineMatches(
        matched.points0[points], matched.points1[points], matched.ends0[lines], matched.ends1[lines]
    )


def _refined(matched: PointAndLineMatches, homography: Doubles, threshold: float) -> Doubles:
    """The homography with the smallest robust sum of squares."""

    def residuals(parameters: Doubles) -> Doubles:
        candidate = np.append(parameters, 1.0).reshape(3, 3) * scale
        sent = _near(warp(matched.points0, candidate) - matched.points1)
        return np.concatenate([sent.ravel(), _from_lines(matched.ends0, matched.ends1, candidate).ravel()])

    scaled = homography / homography[2, 2]
    scale = np.array([[1, 1, 1], [1, 1, 1], [1e-3, 1e-3, 1]])  # so that a step of each does about as much
    start = (scaled / scale).ravel()[:8]
    found = least_squares(residuals, start, loss="soft_l1", f_scale=threshold / 3, x_scale="jac", max_nfev=50)
    refined: Doubles = np.append(found.x, 1.0).reshape(3, 3) * scale
    return refined


def _equations(matched: PointAndLineMatches) -> tuple[Doubles, tuple[Doubles, Doubles]]:
    """Two linear equations (M + L, 2, 9) of each match in normalised coordinates, and the maps to those."""
    to_unit0, to_unit1 = (
        _to_unit(np.concatenate([points, ends.reshape(-1, 2)]))
        for points, ends in ((matched.points0, matched.ends0), (matched.points1, matched.ends1))
    )
    p, q = _homogeneous(warp(matched.points0, to_unit0)), warp(matched.points1, to_unit1)
    zero = np.zeros_like(p)
    of_points = np.stack(
        [np.hstack([p, zero, -q[:, :1] * p]), np.hstack([zero, p, -q[:, 1:] * p])],
        axis=1,
    )
    # Each end of a segment is sent to the line of its partner: line1 . (H x0) = 0.
    ends0 = _homogeneous(warp(matched.ends0.reshape(-1, 2), to_unit0)).reshape(-1, 2, 3)
    ends1 = _homogeneous(warp(matched.ends1.reshape(-1, 2), to_unit1)).reshape(-1, 2, 3)
    lines = np.cross(ends1[:, 0], ends1[:, 1])
    lines /= np.linalg.norm(lines[:, :2], axis=1, keepdims=True)
    of_lines = (lines[:, None, :, None] * ends0[:, :, None, :]).reshape(-1, 2, 9)
    return np.concatenate([of_points, of_lines]), (to_unit0, to_unit1)


def _homogeneous(points: Doubles) -> Doubles:
    return np.hstack([points, np.ones((len(points), 1))])


def _to_unit(points: Doubles) -> Doubles:
    """The map that centres points and brings them to a mean distance of about 1."""
    centre = points.mean(0)
    scale = 1 / max(float(np.linalg.norm(points - centre, axis=1).mean()), 1e-9)
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])
