"""Images for people: thumbnails, and matches drawn between two images, coloured by their confidence."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles, Floats, Image

# Okabe and Ito's bluish green, lightened, and grey: apart in hue and in lightness, so colour-blind eyes tell them too.
INLIER_RGB = (86, 224, 180)
REJECTED_RGB = (160, 160, 160)
KEYPOINT_RGB = (70, 220, 255)  # cyan, which no confidence has
Points = Doubles | Floats
DARKEST = 110  # level of 255 in the colour map for confidence 0: its beginning is too dark to be seen on images
GAP = 8  # pixels between two images that stand side by side


@dataclass(frozen=True, eq=False)
class MatchedSegments:
    """Matched line segments of a query and a candidate, in pixels of the images they were found in."""

    query_ends: Points  # (L, 2, 2) x, y of both ends
    candidate_ends: Points  # (L, 2, 2); need not be in the same order
    agree: NDArray[np.bool_]  # (L,) which of them agree with the geometry of the points

    def __post_init__(self) -> None:
        shape = (len(self.agree), 2, 2)
        if self.query_ends.shape != shape or self.candidate_ends.shape != shape:
            raise ValueError(f"segments {self.query_ends.shape} and {self.candidate_ends.shape} are not of {shape}")

    def colours(self) -> Image:
        """(L, 3) RGB: one colour for partners, others for their neighbours; grey for those that do not agree."""
        import cv2

        if not len(self.agree):
            return np.zeros((0, 3), np.uint8)
        order = np.empty(len(self.agree), np.int64)  # along the image, so that neighbours get hues far apart
        order[np.argsort(self.query_ends.mean(1) @ [1.0, 0.37], kind="stable")] = np.arange(len(order))
        hues = (180 * ((order * 0.618034) % 1)).astype(np.uint8)
        full = np.full_like(hues, 255)
        colours = cv2.cvtColor(np.stack([hues, (0.75 * full).astype(np.uint8), full], axis=1)[None], cv2.COLOR_HSV2RGB)
        return np.where(self.agree[:, None], colours[0], np.array(REJECTED_RGB)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Matched points of a query and a candidate, in pixels of the images they were found in."""

    query_points: Points  # (M, 2) x, y
    candidate_points: Points  # (M, 2) x, y
    inliers: NDArray[np.bool_]  # (M,) which of them agree with one geometry
    confidences: Floats | None = None  # (M,) in [0, 1]; None where they are not known
    query_keypoints: Points | None = None  # (N, 2) all that were found; None where they are not to be shown
    candidate_keypoints: Points | None = None
    segments: MatchedSegments | None = None  # drawn in a row of their own; None where none are matched

    def __post_init__(self) -> None:
        count = len(self.inliers)
        if self.query_points.shape != (count, 2) or self.candidate_points.shape != (count, 2):
            raise ValueError(
                f"points {self.query_points.shape} and {self.candidate_points.shape} with {self.inliers.shape} "
                "inliers do not describe the same matches"
            )
        if self.confidences is not None and self.confidences.shape != (count,):
            raise ValueError(f"{self.confidences.shape} confidences of {count} matches")


def draw_matches(image_a: Image, image_b: Image, matches: Correspondences) -> Image:
    """Two images side by side, top aligned, with a line per match; (H, W, 3) RGB.

    Inliers are coloured by confidence where it is known. Rejected matches are thin, grey and below the inliers;
    keypoints, where they are to be shown, are dots below both. Matched segments are shown in a second row.
    """
    drawn = _draw_points(image_a, image_b, matches)
    if matches.segments is None:
        return drawn
    gap = np.full((GAP, drawn.shape[1], 3), 255, np.uint8)
    return np.concatenate([drawn, gap, draw_segments(image_a, image_b, matches.segments)])


def draw_segments(image_a: Image, image_b: Image, segments: MatchedSegments) -> Image:
    """Two images side by side, darkened, with matched segments in one colour in both; (H, W, 3) RGB."""
    import cv2

    canvas, offset = side_by_side(*((0.6 * as_rgb(each)).astype(np.uint8) for each in (image_a, image_b)))
    width = max(2, round(len(canvas) / 240))
    colours = segments.colours().tolist()
    right = np.asarray(segments.candidate_ends, np.float64) + np.array([offset, 0.0])
    for row in np.argsort(segments.agree, kind="stable").tolist():  # those that agree above the others
        for ends in (np.asarray(segments.query_ends[row], np.float64), right[row]):
            start, end = _fixed_point(ends)
            cv2.line(canvas, start, end, colours[row], width, cv2.LINE_AA, _SHIFT)
    return canvas


def _draw_points(image_a: Image, image_b: Image, matches: Correspondences) -> Image:
    import cv2

    canvas, offset = side_by_side(image_a, image_b)
    starts = np.asarray(matches.query_points, dtype=np.float64)
    ends = np.asarray(matches.candidate_points, dtype=np.float64) + np.array([offset, 0.0])
    width = max(1, round(len(canvas) / 480))  # reads alike on small and large images
    for points, left in ((matches.query_keypoints, 0.0), (matches.candidate_keypoints, float(offset))):
        found = np.zeros((0, 2)) if points is None else np.asarray(points, np.float64) + np.array([left, 0.0])
        for point in _fixed_point(found):
            cv2.circle(canvas, point, (2 * width + 1) << (_SHIFT - 1), KEYPOINT_RGB, -1, cv2.LINE_AA, _SHIFT)
    colours = confidence_colours(matches.confidences, len(starts)).tolist()
    for kind, colour, opacity in ((~matches.inliers, REJECTED_RGB, 0.5), (matches.inliers, None, 0.8)):
        over = canvas.copy()
        lines = zip(np.flatnonzero(kind).tolist(), _fixed_point(starts[kind]), _fixed_point(ends[kind]), strict=True)
        for row, start, end in lines:
            cv2.line(over, start, end, colour or colours[row], width, cv2.LINE_AA, _SHIFT)
        canvas = np.asarray(cv2.addWeighted(over, opacity, canvas, 1 - opacity, 0), dtype=np.uint8)
    return canvas


def side_by_side(image_a: Image, image_b: Image) -> tuple[Image, int]:
    """Two images top aligned on white, (H, W, 3) RGB, and the x at which the second begins."""
    left, right = as_rgb(image_a), as_rgb(image_b)
    height, offset = max(len(left), len(right)), left.shape[1] + GAP
    canvas = np.full((height, offset + right.shape[1], 3), 255, dtype=np.uint8)
    canvas[: len(left), : left.shape[1]] = left
    canvas[: len(right), offset:] = right
    return canvas, offset


def confidence_colours(confidences: Floats | None, count: int) -> Image:
    """(count, 3) RGB, from magenta at 0 to yellow at 1; the colour of inliers where confidences are unknown."""
    import cv2

    if confidences is None or not count:
        return np.tile(np.array(INLIER_RGB, dtype=np.uint8), (count, 1))
    levels = (np.clip(np.nan_to_num(confidences), 0, 1) * (255 - DARKEST) + DARKEST).round().astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels[:, None], cv2.COLORMAP_PLASMA)[:, 0, ::-1], dtype=np.uint8)


def thumbnail(image: Image, side: int) -> Image:
    """The image shrunk to fit a square of that side; never enlarged."""
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def jpeg_bytes(image: Image, quality: int) -> bytes:
    """An RGB or grey image as a JPEG file."""
    import cv2

    return cv2.imencode(".jpg", as_rgb(image)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def jpeg_uri(image: Image, quality: int = 80) -> str:
    """An RGB or grey image as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(image, quality)).decode("ascii")


_SHIFT = 4  # OpenCV draws at fractions of 1 / 2**_SHIFT pixel


def _fixed_point(points: Doubles) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in (points * 2**_SHIFT).round()]


def as_rgb(image: Image) -> Image:
    """(H, W, 3), of a grey image as well."""
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
