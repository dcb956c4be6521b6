"""Images of simple shapes whose corners are known, to teach a detector what a corner is.

The primitives of DeTone et al., CVPR workshops 2018: lines, polygons one and many, ellipses, stars, checkerboards,
stripes, cubes, and noise. Ellipses and noise have no corners. Drawn at four times the size and shrunk, which gives
soft edges as a camera does; corners that another part covers are not reported.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from vpr.core import Doubles, Image

SCALE = 4  # drawn so much larger
NOTHING: Doubles = np.zeros((0, 2))

Draw = Callable[[Image, np.random.Generator], Doubles]


def draw_shape(size: tuple[int, int], random: np.random.Generator) -> tuple[Image, Doubles]:
    """A grey image of (width, height), and the corners in it, (N, 2) x, y in pixels."""
    primitive = PRIMITIVES[int(random.integers(len(PRIMITIVES)))]
    large = cv2.resize(_background(size, random), (size[0] * SCALE, size[1] * SCALE), interpolation=cv2.INTER_LINEAR)
    corners = primitive(np.asarray(large, dtype=np.uint8), random)
    image = cv2.resize(large, size, interpolation=cv2.INTER_AREA)
    points = (np.asarray(corners, dtype=np.float64).reshape(-1, 2) + 0.5) / SCALE - 0.5
    visible = ((points >= 0) & (points <= np.array(size) - 1)).all(axis=1)
    return np.asarray(image, dtype=np.uint8), points[visible]


def _background(size: tuple[int, int], random: np.random.Generator) -> Image:
    """Blurred blobs of two greys, so that contrast with a shape varies over the image."""
    level = int(random.integers(0, 256))
    image = np.full((size[1], size[0]), level, np.uint8)
    for _ in range(int(random.integers(0, 60))):
        centre = random.integers((0, 0), size)
        shade = int(np.clip(level + random.normal(0, 30), 0, 255))
        cv2.circle(image, centre.tolist(), int(random.integers(3, 20)), shade, -1)
    blur = 2 * int(random.integers(1, 10)) + 1
    return np.asarray(cv2.blur(image, (blur, blur)), dtype=np.uint8)


def _grey(near: Image, random: np.random.Generator, contrast: int = 30) -> int:
    """A grey that stands out from the image's mean."""
    mean = float(near.mean())
    while True:
        shade = int(random.integers(0, 256))
        if abs(shade - mean) >= contrast:
            return shade


def _fill(image: Image, corners: Doubles, shade: int) -> None:
    cv2.fillPoly(image, [np.round(corners).astype(np.int32)], shade, cv2.LINE_AA)


def _lines(image: Image, random: np.random.Generator) -> Doubles:
    """Segments that do not cross; their ends are corners."""
    height, width = image.shape
    ends: list[Doubles] = []
    for _ in range(int(random.integers(1, 10))):
        segment = random.uniform((0, 0), (width, height), (2, 2))
        if np.linalg.norm(segment[0] - segment[1]) < height / 8 or any(_cross(segment, other) for other in ends):
            continue
        start, end = np.round(segment).astype(int).tolist()
        cv2.line(image, start, end, _grey(image, random), int(random.integers(4, 24)), cv2.LINE_AA)
        ends.append(segment)
    return np.concatenate(ends) if ends else NOTHING


def _cross(one: Doubles, other: Doubles) -> bool:
    return _side(one, other[0]) * _side(one, other[1]) < 0 and _side(other, one[0]) * _side(other, one[1]) < 0


def _side(line: Doubles, point: Doubles) -> float:
    """On which side of a line through two points a third lies."""
    (x, y), (u, v) = line[1] - line[0], point - line[0]
    return float(x * v - y * u)


def _outline(centre: Doubles, radius: float, random: np.random.Generator, corners: int) -> Doubles:
    """A polygon around the centre whose angles are neither sharp nor flat."""
    turns = np.sort(random.uniform(0, 2 * np.pi, corners))
    distances = radius * random.uniform(0.6, 1, corners)
    return np.asarray(centre + distances[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1))


def _is_plain(polygon: Doubles) -> bool:
    """Whether no corner is nearly flat or nearly doubled."""
    before, after = np.roll(polygon, 1, axis=0) - polygon, np.roll(polygon, -1, axis=0) - polygon
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosines = (before * after).sum(axis=1) / np.maximum(lengths, 1e-9)
    return bool((np.abs(cosines) < np.cos(np.radians(20))).all() and np.linalg.norm(after, axis=1).min() > 24)


def _polygon_at(image: Image, centre: Doubles, radius: float, random: np.random.Generator) -> Doubles:
    for _ in range(20):
        polygon = _outline(centre, radius, random, int(random.integers(3, 7)))
        if _is_plain(polygon):
            _fill(image, polygon, _grey(image, random))
            return polygon
    return NOTHING


def _polygon(image: Image, random: np.random.Generator) -> Doubles:
    height, width = image.shape
    centre = random.uniform((0.25 * width, 0.25 * height), (0.75 * width, 0.75 * height))
    return _polygon_at(image, centre, random.uniform(0.15, 0.5) * height, random)


def _polygons(image: Image, random: np.random.Generator) -> Doubles:
    """Several, apart from each other."""
    height, width = image.shape
    found: list[Doubles] = []
    circles: list[tuple[Doubles, float]] = []
    for _ in range(30):
        centre, radius = random.uniform((0, 0), (width, height)), random.uniform(0.08, 0.2) * height
        if all(np.linalg.norm(centre - other) > radius + reach + 8 for other, reach in circles):
            circles.append((centre, radius))
            found.append(_polygon_at(image, centre, radius, random))
    return np.concatenate(found) if found else NOTHING


def _ellipses(image: Image, random: np.random.Generator) -> Doubles:
    height, width = image.shape
    for _ in range(int(random.integers(1, 20))):
        centre = random.integers((0, 0), (width, height)).tolist()
        axes = random.integers(height // 30, height // 6, 2).tolist()
        cv2.ellipse(image, centre, axes, random.uniform(0, 360), 0, 360, _grey(image, random), -1, cv2.LINE_AA)
    return NOTHING


def _star(image: Image, random: np.random.Generator) -> Doubles:
    """Rays from one point; the point and the ends are corners."""
    height, width = image.shape
    centre = random.uniform((0.3 * width, 0.3 * height), (0.7 * width, 0.7 * height))
    rays = int(random.integers(3, 7))
    turns = 2 * np.pi * (np.arange(rays) + random.uniform(-0.25, 0.25, rays)) / rays + random.uniform(0, 2 * np.pi)
    lengths = random.uniform(0.15, 0.4, rays) * height
    ends = centre + lengths[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    shade, thickness = _grey(image, random), int(random.integers(4, 20))
    for end in np.round(ends).astype(int).tolist():
        cv2.line(image, np.round(centre).astype(int).tolist(), end, shade, thickness, cv2.LINE_AA)
    return np.concatenate([centre[None], ends])


def _in_perspective(corners: Doubles, image: Image, random: np.random.Generator) -> Doubles:
    """Points of the unit square as some plane in the image shows them; (..., 2)."""
    height, width = image.shape
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float32)
    size = random.uniform(0.5, 1.1) * np.array([width, height])
    place = random.uniform(-0.1, 0.5, 2) * np.array([width, height])
    turn = random.uniform(-0.6, 0.6)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shown = (unit + random.uniform(-0.15, 0.15, (4, 2)) - 0.5) * size @ rotation.T + size / 2 + place
    matrix = cv2.getPerspectiveTransform(unit, shown.astype(np.float32))
    moved = cv2.perspectiveTransform(corners.reshape(1, -1, 2).astype(np.float64), matrix)
    return np.asarray(moved, dtype=np.float64).reshape(corners.shape)


def _checkerboard(image: Image, random: np.random.Generator) -> Doubles:
    rows, columns = (int(n) for n in random.integers(3, 8, 2))
    x, y = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1))
    grid = _in_perspective(np.stack([x, y], axis=-1), image, random)
    shades = random.integers(0, 256, 2)
    while abs(int(shades[0]) - int(shades[1])) < 40:
        shades = random.integers(0, 256, 2)
    for row in range(rows):
        for column in range(columns):
            around = grid[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            shade = int(np.clip(shades[(row + column) % 2] + random.normal(0, 8), 0, 255))
            _fill(image, around, shade)
    return grid.reshape(-1, 2)


def _stripes(image: Image, random: np.random.Generator) -> Doubles:
    """Bars side by side; their corners are those of the two ends."""
    bars = int(random.integers(4, 13))
    cuts = np.concatenate([[0], np.sort(random.uniform(0.05, 0.95, bars - 1)), [1]])
    cuts = cuts[np.concatenate([[True], np.diff(cuts) > 0.04])]
    ends = np.stack([np.stack([cuts, np.zeros_like(cuts)], axis=1), np.stack([cuts, np.ones_like(cuts)], axis=1)])
    shown = _in_perspective(ends, image, random)
    shade = int(random.integers(0, 256))
    for left in range(len(cuts) - 1):
        shade = (shade + int(random.integers(40, 216))) % 256
        _fill(image, np.stack([shown[0, left], shown[0, left + 1], shown[1, left + 1], shown[1, left]]), shade)
    return shown.reshape(-1, 2)


def _cube(image: Image, random: np.random.Generator) -> Doubles:
    """Three faces of a box seen from afar; the corner behind is hidden."""
    height, width = image.shape
    sides = random.uniform(0.3, 1, 3) * 0.5 * height
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * sides
    turn, tilt = random.uniform(0.25, 1.3), random.uniform(0.25, 1.2)
    around = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    over = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    seen = (corners - sides / 2) @ around.T @ over.T
    flat = seen[:, :2] + random.uniform((0.3 * width, 0.3 * height), (0.7 * width, 0.7 * height))
    nearest = int(np.argmin(seen[:, 2]))
    bits = [nearest >> 2 & 1, nearest >> 1 & 1, nearest & 1]
    shade = _grey(image, random)
    for axis in range(3):  # the three faces that meet in the nearest corner
        others = [other for other in range(3) if other != axis]
        face = []
        for first, second in ((0, 0), (1, 0), (1, 1), (0, 1)):
            chosen = list(bits)
            chosen[others[0]] ^= first
            chosen[others[1]] ^= second
            face.append(flat[chosen[0] * 4 + chosen[1] * 2 + chosen[2]])
        _fill(image, np.array(face), int(np.clip(shade + 45 * (axis - 1), 0, 255)))
    hidden = 7 - nearest
    return np.delete(flat, hidden, axis=0)


def _noise(image: Image, random: np.random.Generator) -> Doubles:
    grain = random.integers(0, 256, (image.shape[0] // SCALE, image.shape[1] // SCALE), dtype=np.uint8)
    image[:] = cv2.resize(grain, image.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return NOTHING


PRIMITIVES: tuple[Draw, ...] = (
    _lines,
    _polygon,
    _polygons,
    _ellipses,
    _star,
    _checkerboard,
    _stripes,
    _cube,
    _noise,
)
