"""Which matched line segments agree with the geometry that the matched points gave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles
from vpr.rerank.verification import Model

LEAST_OVERLAP = 0.5  # of the shorter of a segment and what the other image's segment is sent to
PARALLEL = np.sin(np.deg2rad(10))  # of a segment along its epipolar lines, which then say nothing of its ends


def lines_agree(ends0: Doubles, ends1: Doubles, model: Doubles, geometry: Model, threshold: float) -> NDArray[np.bool_]:
    """(L,) of segments (L, 2, 2), pixels of the query and the candidate, in whichever order their ends are.

    ``model`` (3, 3) leads from query to candidate. A homography has to send both ends of a segment within ``threshold``
    pixels of the line through its partner. Of a fundamental matrix the epipolar lines of the ends cut out a part of the
    partner's line: it has to overlap the partner. Both have to hold in both images.
    """
    if not len(ends0):
        return np.zeros(0, np.bool_)
    check = _sent_to if geometry == "homography" else _cut_out
    back = _inverse(model) if geometry == "homography" else model.T
    if back is None:
        return np.zeros(len(ends0), np.bool_)
    return np.asarray(check(ends0, ends1, model, threshold) & check(ends1, ends0, back, threshold), np.bool_)


def _sent_to(ends: Doubles, others: Doubles, homography: Doubles, threshold: float) -> NDArray[np.bool_]:
    sent = _homogeneous(ends) @ homography.T
    depth = sent[..., 2:]
    if np.linalg.det(homography) < 0:  # so that points before the camera have positive depths
        depth = -depth
    points = sent[..., :2] / np.where(np.abs(sent[..., 2:]) > 1e-9, sent[..., 2:], 1e-9)
    start, unit, length = _along(others)
    offset = points - start[:, None]
    away = np.abs(offset[..., 0] * unit[:, None, 1] - offset[..., 1] * unit[:, None, 0])
    places = (offset * unit[:, None]).sum(2)
    near = np.asarray((away <= threshold).all(1) & (depth > 0).all((1, 2)), np.bool_)
    return near & _overlap(places, length)


def _cut_out(ends: Doubles, others: Doubles, fundamental: Doubles, threshold: float) -> NDArray[np.bool_]:
    lines = _homogeneous(ends) @ fundamental.T  # (L, 2, 3) a x + b y + c = 0
    lines = lines / np.maximum(np.linalg.norm(lines[..., :2], axis=2, keepdims=True), 1e-12)
    start, unit, length = _along(others)
    steepness = (lines[..., :2] * unit[:, None]).sum(2)  # sine of the angle between epipolar line and segment
    from_start = (lines[..., :2] * start[:, None]).sum(2) + lines[..., 2]
    crossing = np.abs(steepness).min(1) > PARALLEL
    places = -from_start / np.where(np.abs(steepness) > 1e-9, steepness, 1e-9)
    far_end = from_start + steepness * length[:, None]
    on_line = (np.maximum(np.abs(from_start), np.abs(far_end)) <= threshold).all(1)
    agree: NDArray[np.bool_] = np.where(crossing, _overlap(places, length), on_line)
    return agree


def _overlap(places: Doubles, length: Doubles) -> NDArray[np.bool_]:
    """Whether the part between two places (L, 2) along segments of these lengths overlaps them enough."""
    low, high = places.min(1), places.max(1)
    shared = np.minimum(high, length) - np.maximum(low, 0)
    enough: NDArray[np.bool_] = shared >= LEAST_OVERLAP * np.maximum(np.minimum(high - low, length), 1e-9)
    return enough


def _along(ends: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Starts (L, 2), unit directions (L, 2) and lengths (L,)."""
    offset = ends[:, 1] - ends[:, 0]
    length = np.linalg.norm(offset, axis=1)
    return ends[:, 0], offset / np.maximum(length, 1e-9)[:, None], length


def _homogeneous(points: Doubles) -> Doubles:
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)


def _inverse(homography: Doubles) -> Doubles | None:
    try:
        return np.asarray(np.linalg.inv(homography), np.float64)
    except np.linalg.LinAlgError:
        return None
