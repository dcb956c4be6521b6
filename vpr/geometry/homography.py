"""Errors of an estimated homography, and of matches, against the true homography.

Points are (N, 2) pixels, a homography maps pixels of the first image to pixels of the second.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from vpr.core import Doubles

# Where an image of width W ends: at the centre of its last pixel, W - 1 (SuperPoint), or at W (Glue Factory).
Corners = Literal["centres", "outer"]


def warp(points: Doubles, homography: Doubles) -> Doubles:
    """Where the homography sends the points; infinite or NaN for points on its horizon."""
    mapped = points @ homography[:, :2].T + homography[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        warped: Doubles = mapped[:, :2] / mapped[:, 2:]
    return warped


def invert(homography: Doubles) -> Doubles:
    return np.asarray(np.linalg.inv(homography), dtype=np.float64)


def corner_error(estimate: Doubles | None, truth: Doubles, size: tuple[int, int], corners: Corners) -> float:
    """Mean distance in pixels between the corners of an image of (width, height) under both; infinity without one."""
    if estimate is None:
        return np.inf
    right, bottom = size if corners == "outer" else (size[0] - 1, size[1] - 1)
    four = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=np.float64)
    error = float(np.linalg.norm(warp(four, estimate) - warp(four, truth), axis=1).mean())
    return error if np.isfinite(error) else np.inf


def transfer_errors(first: Doubles, second: Doubles, homography: Doubles) -> Doubles:
    """Distance (N,) in the second image between each match and its true place; infinity where there is none."""
    return _finite(np.linalg.norm(warp(first, homography) - second, axis=1))


def symmetric_transfer_errors(first: Doubles, second: Doubles, homography: Doubles) -> Doubles:
    """Mean (N,) of the distances in both images (Glue Factory)."""
    forth = np.linalg.norm(warp(first, homography) - second, axis=1)
    back = np.linalg.norm(warp(second, invert(homography)) - first, axis=1)
    return _finite((forth + back) / 2)


def scale_homography(homography: Doubles, first: tuple[float, float], second: tuple[float, float]) -> Doubles:
    """The homography between the images after resizing each by its factors along x and y.

    The centre of the top-left pixel is (0, 0), so resizing by s sends x to s (x + 0.5) - 0.5.
    """
    scaled: Doubles = resizing(second) @ homography @ invert(resizing(first))
    return scaled / scaled[2, 2] if scaled[2, 2] else scaled


def resizing(factors: tuple[float, float]) -> Doubles:
    """The affine map (3, 3) of pixels when an image is resized by factors along x and y."""
    x, y = factors
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def _finite(errors: Doubles) -> Doubles:
    return np.where(np.isfinite(errors), errors, np.inf)
