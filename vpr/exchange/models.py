"""Homographies and fundamental matrices when the pixels of their images are counted in another way."""

from __future__ import annotations

import numpy as np

from vpr.core import Doubles


def scaling(old: tuple[int, int], new: tuple[int, int]) -> Doubles:
    """(3, 3) from pixels of an image of size ``new`` (width, height) to those of the same image of size ``old``.

    The centre of the top-left pixel is (0, 0) in both.
    """
    scale = np.array(old, np.float64) / np.maximum(new, 1)
    matrix: Doubles = np.diag([scale[0], scale[1], 1.0])
    matrix[:2, 2] = 0.5 * scale - 0.5
    return matrix


def shift(pixels: float) -> Doubles:
    """Returns the translation (3, 3) by this number of pixels along x and along y."""
    matrix = np.eye(3)
    matrix[:2, 2] = pixels
    return matrix


def in_other_pixels(model: Doubles, geometry: str, first: Doubles, second: Doubles) -> Doubles:
    """The model between images whose new pixels ``first`` and ``second`` take to the old ones; of norm 1."""
    moved = second.T @ model @ first if geometry == "fundamental" else np.linalg.solve(second, model @ first)
    return np.asarray(moved / max(float(np.linalg.norm(moved)), 1e-300), np.float64)
