"""Trees, lamps, signs and bins on the pavement, and the cars at the kerb."""

from __future__ import annotations

import numpy as np

from vpr.core import Doubles
from vpr.demo_city.buildings import UP
from vpr.demo_city.props import CAR_COLOURS
from vpr.demo_city.surfaces import Builder, Paint, Surfaces

LAMP_HEIGHT_M = 5.2
_TEXELS = 40.0
_FAR_M = 140.0
_NEAR_M = 70.0


def add_tree(rng: np.random.Generator, builder: Builder, foot: Doubles) -> None:
    """A backbone of two crossed strips and a crown of leafy cards, (3,) foot in metres."""
    size = rng.uniform(0.8, 1.25)
    bark = Paint("bark", int(rng.integers(6)), (0.28, round(2.6 * size, 3)), _TEXELS)
    turn = rng.uniform(0, np.pi)
    for angle in (turn, turn + np.pi / 2):
        across = np.array([np.cos(angle), np.sin(angle), 0.0])
        builder.panel(foot - 0.14 * across + bark.size_m[1] * UP, across, -UP, bark, reach=_FAR_M, both_sides=True)
    crown = foot + (2.6 * size + 0.9) * UP
    for _ in range(11):
        away = rng.normal(size=3) * [0.75, 0.75, 0.55] * size
        middle = crown + away
        basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        leaves = Paint("leaves", int(rng.integers(16)), (2.0, 2.0), _TEXELS, cutout=True)
        corner = middle - basis[0] - basis[1]
        light = away + 0.8 * UP
        builder.panel(
            corner, basis[0], basis[1], leaves, reach=_FAR_M, both_sides=True, normal=light / np.linalg.norm(light)
        )


def add_lamp(rng: np.random.Generator, builder: Builder, foot: Doubles, to_street: Doubles) -> Doubles:
    """A post with an arm over the street; returns the (3,) point that shines."""
    metal = int(rng.integers(6))
    _post(builder, foot, 0.13, LAMP_HEIGHT_M, metal)
    head = foot + LAMP_HEIGHT_M * UP
    aside = np.cross(UP, to_street)
    arm = Paint("plain", metal, (1.5, 0.09), _TEXELS)
    builder.panel(head, to_street, -UP, arm, reach=_FAR_M, both_sides=True)
    lantern = Paint("lantern", 0, (0.25, 0.14), _TEXELS)
    corner = head + 1.0 * to_street - 0.12 * aside - 0.06 * UP
    builder.box(corner, aside, to_street, np.array([0.25, 0.5, 0.14]), lantern, reach=_FAR_M)
    builder.panel(corner + 0.5 * to_street + 0.25 * aside, -aside, -UP, lantern, reach=_FAR_M)
    return head + 1.25 * to_street - 0.3 * UP


def add_sign(rng: np.random.Generator, builder: Builder, foot: Doubles, across: Doubles) -> None:
    """A traffic sign on a post, seen by those whose right hand is ``across``."""
    _post(builder, foot, 0.07, 2.9, 3)
    plate = Paint("traffic_sign", int(rng.integers(50)), (0.7, 0.7), 80.0, cutout=True)
    facing = np.cross(-UP, across)
    builder.panel(foot + 2.9 * UP - 0.35 * across + 0.06 * facing, across, -UP, plate, reach=_NEAR_M, both_sides=True)


def add_bin(rng: np.random.Generator, builder: Builder, foot: Doubles, across: Doubles) -> None:
    size = np.array([*rng.uniform(0.4, 0.7, 2), rng.uniform(0.8, 1.2)])
    paint = Paint("bin", int(rng.integers(40)), (1.0, 1.0), _TEXELS)
    builder.box(foot + size[2] * UP, across, np.cross(UP, across), size, paint, reach=_NEAR_M)


def _post(builder: Builder, foot: Doubles, width: float, height: float, seed: int) -> None:
    paint = Paint("plain", seed, (width, height), _TEXELS)
    for across in (np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])):
        builder.panel(foot + height * UP - width / 2 * across, across, -UP, paint, reach=_FAR_M, both_sides=True)


def car_models(builder: Builder) -> tuple[Surfaces, ...]:
    """One car per colour, standing at the origin with its nose to the north.

    A car is its outline twice, 1.7 m apart, and the sheets between. Its paints go to ``builder``, its surfaces do not.
    """
    models = []
    for colour in range(CAR_COLOURS):
        car = Builder(paints=builder.paints)
        _add_car(car, colour)
        models.append(car.finish())
    return tuple(models)


def _add_car(car: Builder, colour: int) -> None:
    long, half, high = 4.3, 0.85, 1.5
    nose = np.array([0.0, long / 2, high])  # the top of the box around the car
    back, east = np.array([0.0, -1.0, 0.0]), np.array([1.0, 0.0, 0.0])
    side = Paint("car_side", colour, (long, high), _TEXELS, cutout=True)
    for x in (-half, half):
        car.panel(nose + x * east, back, -UP, side, reach=_FAR_M, both_sides=True, normal=np.sign(x) * east)
    # Upper and lower edge of each sheet on the outline, as fractions of the length from the nose and of the height.
    from_before = [("car_front", (0.01, 0.45), (0.0, 0.82)), ("car_top", (0.2, 0.4), (0.01, 0.45)),
                   ("car_glass", (0.34, 0.02), (0.2, 0.4))]  # fmt: skip
    from_behind = [("car_top", (0.34, 0.02), (0.74, 0.0)), ("car_glass", (0.74, 0.0), (0.9, 0.38)),
                   ("car_top", (0.9, 0.38), (0.99, 0.44)), ("car_back", (0.99, 0.44), (1.0, 0.82))]  # fmt: skip
    for right, sheets in ((-east, from_before), (east, from_behind)):
        for kind, *edges in sheets:
            upper, lower = (nose - half * right + x * long * back - y * high * UP for x, y in edges)
            length = float(np.linalg.norm(lower - upper))
            paint = Paint(kind, colour, (2 * half, round(length, 3)), _TEXELS)
            car.panel(upper, right, (lower - upper) / length, paint, reach=_FAR_M)
    shade = Paint("under_car", 0, (2 * half + 0.3, long + 0.2), 20.0, cutout=True)
    car.panel(nose - (half + 0.15) * east - 0.1 * back + (0.02 - high) * UP, east, back, shade, reach=_FAR_M)
