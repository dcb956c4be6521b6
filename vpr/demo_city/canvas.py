"""Drawing in metres, noise at several scales, and the materials that walls are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from vpr.core import Doubles, Floats, Image
from vpr.demo_city.surfaces import Paint, Style

Colour = tuple[int, int, int]  # RGB
Box = tuple[float, float, float, float]  # left, top, width, height in metres from the texture's top-left corner

_TILE = 1280  # texels of a side of a noise or material tile
_NAMES = "MORI ALBA NORD KIKU LUMA TARO VERA ODEN PIKO SOLE HANA BRIO KATO MIRA RENO SORA TULA YUKI ZENO ELMA".split()
_TRADES = "CAFE BOOKS BAKERY TAILOR RAMEN FLOWERS BANK HOTEL PIZZA CYCLES OPTIC SHOES TOYS TEA MUSIC WINE HAIR".split()
# Of each kind of noise: weights by size in texels.
_NOISE = {"fine": {1: 1.0, 2: 0.7}, "rough": {1: 0.5, 4: 0.6, 16: 0.7, 64: 0.8}, "soft": {32: 0.6, 96: 1.0, 256: 1.0}}
# Bricks, blocks and tiles in texels: height of a course, length of a brick, brightness of the joint, spread of shades.
_COURSES = {"brick": (4, 12, 1.3, 0.16), "stone": (16, 36, 0.72, 0.08), "tile": (6, 6, 0.8, 0.07)}
MATERIALS = (*_COURSES, "siding", "concrete", "plaster")


@dataclass(frozen=True, eq=False)
class Canvas:
    """A texture being painted, addressed in metres from its top-left corner."""

    image: Image  # (H, W, 4) RGB, and what Paint.cutout says of the fourth channel
    scale: float  # texels per metre
    fourth: int = 0  # what is drawn leaves in the fourth channel, unless it glows

    @staticmethod
    def blank(paint: Paint, colour: Colour = (0, 0, 0), glow: int = 0) -> Canvas:
        """One colour; of a cutout nothing is there yet, and what is drawn will be."""
        width, height = texels(paint)
        image = np.full((height, width, 4), (*colour, glow), np.uint8)
        return Canvas(image, paint.texels_per_m, 255 if paint.cutout else 0)

    @property
    def size_m(self) -> tuple[float, float]:
        return self.image.shape[1] / self.scale, self.image.shape[0] / self.scale

    def texel(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self.scale), round(y * self.scale)

    def rect(self, x: float, y: float, width: float, height: float, colour: Colour, *, glow: int = 0) -> None:
        """Fill a rectangle of at least one texel."""
        left, top = self.texel(x, y)
        right, bottom = self.texel(x + width, y + height)
        ink = (*colour, glow or self.fourth)
        cv2.rectangle(self.image, (left, top), (max(left, right - 1), max(top, bottom - 1)), ink, -1)

    def line(self, points: Doubles, colour: Colour, thickness_m: float = 0.02) -> None:
        """Draw a line through (N, 2) points in metres."""
        path = np.rint(points * self.scale).astype(np.int32)
        thickness = max(1, round(thickness_m * self.scale))
        cv2.polylines(self.image, [path], False, (*colour, self.fourth), thickness, cv2.LINE_AA)

    def fill(self, points: Doubles, colour: Colour, *, glow: int = 0) -> None:
        """Fill a polygon of (N, 2) points in metres."""
        outline = np.rint(points * self.scale).astype(np.int32)
        cv2.fillPoly(self.image, [outline], (*colour, glow or self.fourth), cv2.LINE_AA)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        size = max(1, round(radius * self.scale))
        cv2.circle(self.image, self.texel(x, y), size, (*colour, self.fourth), -1, cv2.LINE_AA)

    def text(self, words: str, box: Box, colour: Colour, *, glow: int = 0) -> None:
        """Write words as large as the box allows, in its middle."""
        x, y, width, height = (side * self.scale for side in box)
        font, weight = cv2.FONT_HERSHEY_DUPLEX, max(1, round(height / 12))
        (wide, tall), _ = cv2.getTextSize(words, font, 1.0, weight)
        size = min(width / max(wide, 1), 0.9 * height / max(tall, 1))
        corner = (round(x + (width - wide * size) / 2), round(y + (height + tall * size) / 2))
        cv2.putText(self.image, words, corner, font, size, (*colour, glow or self.fourth), weight, cv2.LINE_AA)

    def multiply(self, factor: Floats) -> None:
        """Brighten or darken by an (H, W) factor below 2, in steps of 1/128."""
        steps = cv2.convertScaleAbs(factor, alpha=128)
        factors = cv2.merge([steps, steps, steps, np.full_like(steps, 128)])
        cv2.multiply(self.image, factors, self.image, scale=1 / 128)


def texels(paint: Paint) -> tuple[int, int]:
    """Width and height of a paint's texture."""
    width, height = (max(1, round(side * paint.texels_per_m)) for side in paint.size_m)
    return width, height


def tint(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(min(255, max(0, channel * factor))) for channel in colour)
    return red, green, blue


def vary(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """The colour made lighter or darker by up to a fraction ``spread``."""
    return tint(colour, 1 + spread * rng.uniform(-1, 1))


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def shop_name(rng: np.random.Generator) -> tuple[str, str]:
    """A name and a trade."""
    return _NAMES[int(rng.integers(len(_NAMES)))], _TRADES[int(rng.integers(len(_TRADES)))]


def noise(rng: np.random.Generator, kind: str, height: int, width: int) -> Floats:
    """(height, width) noise of about unit deviation: "fine" grain, "rough" with all scales, "soft" blotches."""
    return _piece(rng, _noise_tile(kind), height, width)


@lru_cache(maxsize=len(_NOISE))
def _noise_tile(kind: str) -> Floats:
    rng = np.random.default_rng([7, list(_NOISE).index(kind)])
    total = np.zeros((_TILE, _TILE), np.float32)
    for size, weight in _NOISE[kind].items():
        lattice = rng.standard_normal((_TILE // size + 2, _TILE // size + 2), dtype=np.float32)
        total += np.float32(weight) * cv2.resize(lattice, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(total / total.std(), np.float32)


def _piece(rng: np.random.Generator, tile: Floats, height: int, width: int) -> Floats:
    """A random piece of a tile, as a view; whoever wants more than the tile gets it enlarged."""
    if height > _TILE or width > _TILE:
        tile = np.asarray(cv2.resize(tile, (max(_TILE, width), max(_TILE, height))), np.float32)
    top, left = (int(rng.integers(have - want + 1)) for have, want in zip(tile.shape, (height, width), strict=True))
    return tile[top : top + height, left : left + width]


def bare_wall(rng: np.random.Generator, paint: Paint, style: Style) -> Canvas:
    """A wall of the style's material before anything is put on it; every building has its own tone and pattern."""
    width, height = texels(paint)
    shade = _piece(rng, _material_tile(style.material, style.seed), height, width)
    wall = np.array(style.wall) * rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, 3)
    steps = cv2.convertScaleAbs(shade, alpha=128)
    table = np.clip(np.arange(256)[None, :, None] * np.append(wall, 0) / 128, 0, 255).astype(np.uint8)
    painted = cv2.LUT(cv2.merge([steps, steps, steps, steps]), table)
    return Canvas(np.asarray(painted, np.uint8), paint.texels_per_m)


@lru_cache(maxsize=32)
def _material_tile(material: str, seed: int) -> Floats:
    """(_TILE, _TILE) shades about 1 of bare wall, the same for all buildings of a style."""
    rng = np.random.default_rng([11, seed])
    shade = 1 + 0.035 * noise(rng, "fine", _TILE, _TILE) + 0.03 * noise(rng, "rough", _TILE, _TILE)
    if material in _COURSES:
        shade *= _courses(rng, *_COURSES[material])
    elif material == "siding":
        board = np.arange(_TILE) % 8
        shade *= np.select([board == 0, board == 1], [0.62, 0.85], 1.0)[:, None].astype(np.float32)
    elif material == "concrete":
        joint = np.arange(_TILE) % 90 < 1
        shade[joint[:, None] | joint[None, :]] *= 0.65
    else:
        shade += 0.05 * noise(rng, "rough", _TILE, _TILE)
    return np.asarray(shade, np.float32)


def _courses(rng: np.random.Generator, height: int, length: int, joint: float, spread: float) -> Floats:
    """(_TILE, _TILE) shades of bricks laid in courses, every second one shifted by half a brick."""
    rows, columns = np.arange(_TILE), np.arange(_TILE)
    course = rows // height
    place = columns[None, :] + (course % 2 * (length // 2))[:, None]
    shades = 1 + spread * rng.uniform(-1, 1, (_TILE // height + 2, _TILE // length + 3))
    wall = shades[course[:, None], place // length]
    wall[(rows % height == 0)[:, None] | (place % length == 0)] = joint
    return np.asarray(wall, np.float32)
