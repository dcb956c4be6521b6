"""Lots along the streets, and the surfaces of the buildings on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vpr.core import Doubles
from vpr.demo_city.canvas import MATERIALS, Box, Colour
from vpr.demo_city.facades import PARAPET_M, wall_height, windows
from vpr.demo_city.surfaces import Builder, Paint, Style

UP = np.array([0.0, 0.0, 1.0])
_TEXELS = 40.0  # per metre
_DETAIL_REACH_M = 75.0  # beyond, balconies and awnings are smaller than the pixels that would tell them

_WALLS: tuple[Colour, ...] = (
    (150, 78, 62), (196, 178, 148), (168, 168, 162), (210, 200, 180),
    (122, 92, 76), (186, 150, 120), (140, 150, 152), (206, 188, 140),
)  # fmt: skip
_TRIMS: tuple[Colour, ...] = ((214, 208, 196), (170, 160, 144), (120, 112, 104), (228, 226, 220), (96, 84, 76))
_FRAMES: tuple[Colour, ...] = ((232, 230, 224), (70, 58, 48), (48, 52, 54), (90, 110, 100), (140, 120, 96))


@dataclass(frozen=True, eq=False)
class Lot:
    """A piece of ground with a building on it."""

    footprint: Doubles  # (4, 2) metres, counter-clockwise; wall k leads from corner k to the next
    fronts: tuple[int, ...]  # the walls that face a street; the others are bare
    style: Style
    floors: int  # above the ground floor
    seed: int


@dataclass(frozen=True, eq=False)
class Wall:
    """One wall of a building, as its viewer sees it."""

    top_left: Doubles  # (3,) metres
    across: Doubles  # (3,) unit direction to the viewer's right
    width_m: float

    @property
    def inward(self) -> Doubles:
        """(3,) unit direction away from the viewer."""
        return np.cross(UP, self.across)

    def at(self, right_m: float, down_m: float, out_m: float = 0.0) -> Doubles:
        """(3,) the point so far from the top-left corner, and so far before the wall."""
        return self.top_left + right_m * self.across - down_m * UP - out_m * self.inward


def invent_styles(rng: np.random.Generator, count: int) -> list[Style]:
    """Looks for the whole city; few, so that one street resembles another."""

    def choose(options: tuple[Colour, ...]) -> Colour:
        return options[int(rng.integers(len(options)))]

    return [
        Style(
            material=MATERIALS[k % len(MATERIALS)],
            wall=choose(_WALLS),
            trim=choose(_TRIMS),
            frame=choose(_FRAMES),
            ground_floor=("shop", "house", "shop", "garage")[k % 4],
            ground_m=float(rng.uniform(3.3, 4.2)),
            floor_m=float(rng.uniform(2.9, 3.4)),
            bay_m=float(rng.uniform(1.9, 3.1)),
            window_m=(float(rng.uniform(1.0, 1.7)), float(rng.uniform(1.4, 2.0))),
            panes=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
            arched=bool(rng.random() < 0.25),
            cornice_m=float(rng.choice([0.0, 0.35, 0.5])),
            balconies=bool(rng.random() < 0.4),
            seed=int(rng.integers(1 << 30)),
        )
        for k in range(count)
    ]


def divide(rng: np.random.Generator, line: Doubles, styles: list[Style]) -> tuple[list[Lot], list[Doubles]]:
    """Lots around a block whose building line is the (4, 2) outline, and the (2, 2) gaps between them.

    A corner lot belongs to the side that starts at the corner and has a second front on the side that ends there.
    """
    along = np.roll(line, -1, axis=0) - line
    length = np.linalg.norm(along, axis=1)
    along = along / length[:, None]
    wide, deep = rng.uniform(9, 14, 4), rng.uniform(8, 11, 4)
    lots, gaps = [], []
    local = [styles[int(k)] for k in rng.choice(len(styles), 4)]
    for k in range(4):
        here, before = line[k], -deep[k] * along[k - 1]
        corner = np.array([here, here + wide[k] * along[k], here + wide[k] * along[k] + before, here + before])
        lots.append(_lot(rng, corner, (0, 3), local))
        inward = np.array([-along[k, 1], along[k, 0]])
        start, stop = wide[k], length[k] - deep[(k + 1) % 4]
        for first, last in _cut(rng, start, stop):
            left, right = here + first * along[k], here + last * along[k]
            if rng.random() < 0.08:
                gaps.append(np.array([left, right]))
                continue
            recess, back = rng.choice([0.0, 0.0, 0.25, 0.6]) * inward, rng.uniform(8, 11) * inward
            left, right = left + recess, right + recess
            lots.append(_lot(rng, np.array([left, right, right + back, left + back]), (0,), local))
    return lots, gaps


def _cut(rng: np.random.Generator, start: float, stop: float) -> list[tuple[float, float]]:
    """Cut a length into pieces of 6 to 15 metres."""
    count = max(1, round((stop - start) / 10.5))
    cuts = np.linspace(start, stop, count + 1)
    cuts[1:-1] += rng.uniform(-2.2, 2.2, count - 1)
    return list(pairwise(cuts.tolist()))


def _lot(rng: np.random.Generator, footprint: Doubles, fronts: tuple[int, ...], styles: list[Style]) -> Lot:
    style = styles[int(rng.integers(len(styles)))]
    return Lot(footprint, fronts, style, int(rng.choice([1, 2, 2, 3, 3, 4, 5])), int(rng.integers(1 << 30)))


def closing_lot(rng: np.random.Generator, near: Doubles, far: Doubles, styles: list[Style]) -> Lot:
    """A building across the street from ``near`` to ``far``, so that no street leads out of the city."""
    along = (far - near) / np.linalg.norm(far - near)
    right = np.array([along[1], -along[0]])
    middle = near + rng.uniform(22, 45) * along
    front = [middle - 9.5 * right, middle + 9.5 * right]
    return _lot(rng, np.array([*front, front[1] + 9 * along, front[0] + 9 * along]), (0,), styles)


def add_building(builder: Builder, lot: Lot) -> None:
    """The walls of a building and what stands out from its fronts."""
    rng = np.random.default_rng(lot.seed)
    height = wall_height(lot.style, lot.floors)
    for side in range(4):
        start, end = lot.footprint[side], lot.footprint[(side + 1) % 4]
        width = float(np.linalg.norm(end - start))
        wall = Wall(np.append(start, height), np.append((end - start) / width, 0.0), width)
        is_front = side in lot.fronts
        paint = Paint(
            kind="front" if is_front else "side",
            seed=lot.seed + side,
            size_m=(round(width, 3), round(height, 3)),
            texels_per_m=_TEXELS,
            style=lot.style,
            floors=lot.floors,
        )
        builder.panel(wall.top_left, wall.across, -UP, paint, strip_m=4.0 if is_front else 6.0)
        if is_front:
            _add_front_details(rng, builder, lot, wall)


def _add_front_details(rng: np.random.Generator, builder: Builder, lot: Lot, wall: Wall) -> None:
    style = lot.style
    stone = Paint("plain", style.seed % 97, (1.0, 1.0), _TEXELS, style=style)
    if style.cornice_m:
        size = np.array([wall.width_m, style.cornice_m, 0.4])
        builder.box(wall.at(0, 0, style.cornice_m), wall.across, wall.inward, size, stone, reach=2 * _DETAIL_REACH_M)
    if style.balconies:
        for window in windows(style, wall.width_m, lot.floors):
            if rng.random() < 0.3:
                _add_balcony(rng, builder, wall, window, stone)
    if style.ground_floor == "shop":
        over_shop_m = lot.floors * style.floor_m + PARAPET_M + 1.0
        if rng.random() < 0.45:
            _add_awning(rng, builder, wall, over_shop_m)
        if rng.random() < 0.5:
            _add_blade_sign(rng, builder, wall, over_shop_m)


def _add_balcony(rng: np.random.Generator, builder: Builder, wall: Wall, window: Box, stone: Paint) -> None:
    """A slab below a window, with railings on three sides."""
    left, top, wide, tall = window
    left, wide, deep, high = left - 0.3, wide + 0.6, 0.9, 0.95
    floor = top + tall
    size = np.array([wide, deep, 0.14])
    builder.box(wall.at(left, floor, deep), wall.across, wall.inward, size, stone, reach=_DETAIL_REACH_M)
    front = Paint("railing", int(rng.integers(40)), (round(wide, 3), high), _TEXELS, cutout=True)
    rails = [(wall.at(left, floor - high, deep), wall.across, front)]
    side = replace(front, size_m=(deep, high))
    rails += [(wall.at(end, floor - high), -wall.inward, side) for end in (left, left + wide)]
    for corner, across, paint in rails:
        builder.panel(corner, across, -UP, paint, reach=_DETAIL_REACH_M, both_sides=True)


def _add_awning(rng: np.random.Generator, builder: Builder, wall: Wall, top_m: float) -> None:
    """Cloth that slopes down from the wall over the pavement."""
    slope = -rng.uniform(0.9, 1.4) * wall.inward - 0.55 * UP
    length = float(np.linalg.norm(slope))
    paint = Paint("awning", int(rng.integers(60)), (round(wall.width_m - 0.6, 3), round(length, 3)), _TEXELS)
    builder.panel(
        wall.at(0.3, top_m),
        wall.across,
        slope / length,
        paint,
        reach=_DETAIL_REACH_M,
        both_sides=True,
        strip_m=5.0,
    )


def _add_blade_sign(rng: np.random.Generator, builder: Builder, wall: Wall, foot_m: float) -> None:
    """A sign at right angles to the wall, legible from both sides."""
    wide, tall = rng.uniform(0.5, 0.9), rng.uniform(1.2, 2.4)
    right_m, top_m = rng.uniform(0.1, 0.9) * wall.width_m, foot_m - tall - 0.2
    paint = Paint("blade_sign", int(rng.integers(1 << 20)), (round(wide, 3), round(tall, 3)), _TEXELS)
    builder.panel(wall.at(right_m, top_m, 0.15), -wall.inward, -UP, paint, reach=_DETAIL_REACH_M)
    builder.panel(wall.at(right_m + 0.03, top_m, 0.15 + wide), wall.inward, -UP, paint, reach=_DETAIL_REACH_M)
