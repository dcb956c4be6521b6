"""Match images as files: png, jpg and others, pdf, and svg, whose lines are vectors."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vpr.core import ConfigError, Image
from vpr.images import WRITTEN_SUFFIXES
from vpr.report.drawing import (
    GAP,
    KEYPOINT_RGB,
    REJECTED_RGB,
    Correspondences,
    Points,
    confidence_colours,
    draw_matches,
    jpeg_uri,
)
from vpr.runtime.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

SUFFIXES = (*WRITTEN_SUFFIXES, ".pdf", ".svg")
LINE = 22  # height of a line of the caption in pixels
SIZE = 15  # of its letters
LEGEND = 90  # pixels of the bar of confidences


@dataclass(frozen=True, eq=False)
class MatchImage:
    """Two images, their matches, and what is said below them."""

    image_a: Image
    image_b: Image
    matches: Correspondences
    caption: tuple[str, ...] = ()  # lines
    legend: str = "inliers by confidence"

    def drawn(self) -> Image:
        """All of it as pixels, (H, W, 3) RGB."""
        drawn = draw_matches(self.image_a, self.image_b, self.matches)
        return np.concatenate([drawn, self._caption(drawn.shape[1])]) if self.caption else drawn

    def _caption(self, width: int) -> Image:
        from PIL import Image as Pil
        from PIL import ImageDraw, ImageFont

        legend = self.matches.confidences is not None
        strip = Pil.new("RGB", (width, LINE * (len(self.caption) + legend) + 6), "white")
        pen, font = ImageDraw.Draw(strip), ImageFont.load_default(SIZE)
        for number, text in enumerate(self.caption):
            pen.text((6, 3 + LINE * number), text, "black", font)
        if legend:
            top = 3 + LINE * len(self.caption)
            pen.text((6, top), f"{self.legend}: 0", "black", font)
            left = 12 + int(pen.textlength(f"{self.legend}: 0", font))
            bar = np.tile(confidence_colours(np.linspace(0, 1, LEGEND, dtype=np.float32), LEGEND), (SIZE - 2, 1, 1))
            strip.paste(Pil.fromarray(bar), (left, top + 3))
            pen.text((left + LEGEND + 6, top), "1", "black", font)
        return np.asarray(strip)

    def pil(self) -> PilImage:
        """All of it, for Pillow."""
        from PIL import Image as Pil

        return Pil.fromarray(self.drawn())

    def svg(self) -> str:
        """All of it as svg: the images inside as JPEG, the lines as vectors."""
        (height_a, width_a), (height_b, width_b) = self.image_a.shape[:2], self.image_b.shape[:2]
        offset, top = width_a + GAP, max(height_a, height_b)
        legend = self.matches.confidences is not None
        rows = 1 if self.matches.segments is None else 2
        width, below = offset + width_b, rows * (top + GAP) - GAP
        height = below + (LINE * (len(self.caption) + legend) + 6 if self.caption else 0)
        stroke = max(1, round(top / 480))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
            f'viewBox="0 0 {width} {height}">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<image width="{width_a}" height="{height_a}" href="{jpeg_uri(self.image_a, 90)}"/>',
            f'<image x="{offset}" width="{width_b}" height="{height_b}" href="{jpeg_uri(self.image_b, 90)}"/>',
            *_dots(self.matches.query_keypoints, 0, stroke + 0.5),
            *_dots(self.matches.candidate_keypoints, offset, stroke + 0.5),
            *_lines(self.matches, offset, stroke),
            *self._segments_svg(offset, top + GAP),
            *self._caption_svg(below),
            "</svg>\n",
        ]
        return "\n".join(parts)

    def _segments_svg(self, offset: int, top: int) -> list[str]:
        """The second row: both images once more, and matched segments in one colour."""
        segments = self.matches.segments
        if segments is None:
            return []
        images = [
            f'<image x="{x}" y="{top}" width="{image.shape[1]}" height="{image.shape[0]}" opacity="0.6" '
            f'href="{jpeg_uri(image, 90)}"/>'
            for x, image in ((0, self.image_a), (offset, self.image_b))
        ]
        left = np.asarray(segments.query_ends, np.float64) + np.array([0.5, top + 0.5])
        right = np.asarray(segments.candidate_ends, np.float64) + np.array([offset + 0.5, top + 0.5])
        paths = [
            f'<path d="{_move(*one)}{_move(*other)}" stroke="{_hex(colour)}"/>'
            for one, other, colour in zip(left, right, segments.colours(), strict=True)
        ]
        return [*images, f'<g class="segments" stroke-width="{max(2, round(top / 240))}">', *paths, "</g>"]

    def _caption_svg(self, top: int) -> list[str]:
        style = f'x="6" font-family="sans-serif" font-size="{SIZE}"'
        lines = [
            f'<text {style} y="{top + LINE * (number + 1) - 4}">{html.escape(text)}</text>'
            for number, text in enumerate(self.caption)
        ]
        if lines and self.matches.confidences is not None:
            y, left = top + LINE * (len(lines) + 1) - 4, 40 + 8 * len(self.legend)
            stops = confidence_colours(np.linspace(0, 1, 9, dtype=np.float32), 9)
            gradient = "".join(f'<stop offset="{i / 8}" stop-color="{_hex(each)}"/>' for i, each in enumerate(stops))
            lines += [
                f'<text {style} y="{y}">{html.escape(self.legend)}: 0</text>',
                f'<linearGradient id="confidence">{gradient}</linearGradient>',
                f'<rect x="{left}" y="{y - SIZE + 3}" width="{LEGEND}" height="{SIZE - 2}" fill="url(#confidence)"/>',
                f'<text {style.replace("6", str(left + 6 + LEGEND), 1)} y="{y}">1</text>',
            ]
        return lines


def require_suffix(path: Path) -> None:
    """Raise ConfigError for a path whose suffix is no format that can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: not an image format that can be written; use one of {', '.join(SUFFIXES)}")


def write_match_image(path: Path, image: MatchImage) -> None:
    """Write in the format of the path's suffix. Raises ConfigError for one that cannot be written."""
    import cv2

    require_suffix(path)
    suffix = path.suffix.lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".svg":
        write_atomically(path, image.svg())
    elif suffix == ".pdf":
        buffer = io.BytesIO()
        image.pil().save(buffer, "PDF", resolution=150, quality=92)
        write_atomically(path, buffer.getvalue())
    else:
        _, data = cv2.imencode(suffix, image.drawn()[..., ::-1])
        write_atomically(path, data.tobytes())


def forget_drawings(path: Path) -> None:
    """Delete the drawings beside a file of matches, in every format: they are of what it held before."""
    for suffix in SUFFIXES:
        path.with_suffix(suffix).unlink(missing_ok=True)


def _lines(matches: Correspondences, offset: int, stroke: int) -> list[str]:
    """Rejected matches as one path, and a line for each inlier; pixel centres lie at (0.5, 0.5) in svg."""
    starts = np.asarray(matches.query_points, np.float64) + 0.5
    ends = np.asarray(matches.candidate_points, np.float64) + np.array([offset + 0.5, 0.5])
    colours = confidence_colours(matches.confidences, len(starts))
    rejected = "".join(_move(*each) for each in zip(starts[~matches.inliers], ends[~matches.inliers], strict=True))
    lines = [
        f'<path d="{_move(start, end)}" stroke="{_hex(colour)}"/>'
        for start, end, colour in zip(
            starts[matches.inliers], ends[matches.inliers], colours[matches.inliers], strict=True
        )
    ]
    return [
        f'<path class="rejected" d="{rejected}" stroke="{_hex(np.array(REJECTED_RGB))}" stroke-width="{stroke}" '
        'stroke-opacity="0.5"/>',
        f'<g class="inliers" stroke-width="{stroke}" stroke-opacity="0.8">',
        *lines,
        "</g>",
    ]


def _move(start: Points, end: Points) -> str:
    return f"M{start[0]:.2f} {start[1]:.2f}L{end[0]:.2f} {end[1]:.2f}"


def _dots(points: Points | None, offset: int, radius: float) -> list[str]:
    if points is None:
        return []
    moves = "".join(f"M{x + offset + 0.5:.2f} {y + 0.5:.2f}h0" for x, y in np.asarray(points).tolist())
    colour = _hex(np.array(KEYPOINT_RGB))
    return [
        f'<path class="keypoints" d="{moves}" stroke="{colour}" stroke-width="{2 * radius}" stroke-linecap="round"/>'
    ]


def _hex(colour: Image | np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in colour)
