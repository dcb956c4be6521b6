"""Images for people: thumbnails, and matches drawn between two images."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles, Floats, Image

# Okabe and Ito's bluish green, lightened, and grey: apart in hue and in lightness, so colour-blind eyes tell them too.
INLIER_RGB = (86, 224, 180)
REJECTED_RGB = (160, 160, 160)
Points = Doubles | Floats
GAP = 8  # pixels between two images that stand side by side


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Matched points of a query and a candidate, in pixels of the images they were found in."""

    query_points: Points  # (M, 2) x, y
    candidate_points: Points  # (M, 2) x, y
    inliers: NDArray[np.bool_]  # (M,) which of them agree with one geometry

    def __post_init__(self) -> None:
        count = len(self.inliers)
        if self.query_points.shape != (count, 2) or self.candidate_points.shape != (count, 2):
            raise ValueError(
                f"points {self.query_points.shape} and {self.candidate_points.shape} with {self.inliers.shape} "
                "inliers do not describe the same matches"
            )


def draw_matches(
    image_a: Image, image_b: Image, points_a: Points, points_b: Points, inliers: NDArray[np.bool_]
) -> Image:
    """Two images side by side, top aligned, with a line per match; (H, W, 3) RGB.

    Points are (M, 2) x, y in pixels of their image. Rejected matches are thin, grey and below the inliers.
    """
    import cv2

    left, right = _rgb(image_a), _rgb(image_b)
    height, offset = max(len(left), len(right)), left.shape[1] + GAP
    canvas = np.full((height, offset + right.shape[1], 3), 255, dtype=np.uint8)
    canvas[: len(left), : left.shape[1]] = left
    canvas[: len(right), offset:] = right
    starts = np.asarray(points_a, dtype=np.float64)
    ends = np.asarray(points_b, dtype=np.float64) + np.array([offset, 0.0])
    width = max(1, round(height / 720))  # reads alike on small and large images
    for kind, colour, opacity in ((~inliers, REJECTED_RGB, 0.5), (inliers, INLIER_RGB, 0.8)):
        over = canvas.copy()
        for start, end in zip(_fixed_point(starts[kind]), _fixed_point(ends[kind]), strict=True):
            cv2.line(over, start, end, colour, width, cv2.LINE_AA, _SHIFT)
        canvas = np.asarray(cv2.addWeighted(over, opacity, canvas, 1 - opacity, 0), dtype=np.uint8)
    return canvas


def thumbnail(image: Image, side: int) -> Image:
    """The image shrunk to fit a square of that side; never enlarged."""
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def jpeg_uri(image: Image, quality: int = 80) -> str:
    """An RGB or grey image as a data URI."""
    import cv2

    _, data = cv2.imencode(".jpg", _rgb(image)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


_SHIFT = 4  # OpenCV draws at fractions of 1 / 2**_SHIFT pixel


def _fixed_point(points: Doubles) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in (points * 2**_SHIFT).round()]


def _rgb(image: Image) -> Image:
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
