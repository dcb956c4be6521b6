"""Textures of what moves in the street: vans, buses and people; see props for cars."""

from __future__ import annotations

import numpy as np

from vpr.core import Image
from vpr.demo_city.canvas import Canvas, Colour, pick, shop_name, tint, vary
from vpr.demo_city.surfaces import Paint

_LIVERY: tuple[Colour, ...] = ((226, 226, 222), (200, 60, 40), (40, 80, 150), (236, 190, 50), (60, 120, 80))
_CLOTHES: tuple[Colour, ...] = (
    (40, 44, 60), (150, 40, 48), (90, 96, 104), (206, 200, 190), (50, 88, 70), (60, 70, 130), (196, 150, 70),
)  # fmt: skip
_SKIN: tuple[Colour, ...] = ((226, 184, 156), (190, 140, 106), (120, 82, 58))
_GLASS: Colour = (36, 42, 50)


def paint_van_side(paint: Paint) -> Image:
    """A closed box with a name on it, a window at each end, and two wheels."""
    rng = np.random.default_rng([paint.seed, 11])
    canvas, (width, height) = Canvas.blank(paint, _LIVERY[paint.seed % len(_LIVERY)]), paint.size_m
    ink = tint(_LIVERY[(paint.seed + 2) % len(_LIVERY)], 0.8)
    canvas.text(" ".join(shop_name(rng)), (0.25 * width, 0.25 * height, 0.5 * width, 0.25 * height), ink)
    canvas.rect(0.0, 0.62 * height, width, 0.05, ink)
    for left in (0.04, 0.84):
        canvas.rect(left * width, 0.12 * height, 0.12 * width, 0.3 * height, _GLASS)
    _wheels(canvas, (0.18, 0.82))
    return canvas.image


def paint_bus_side(paint: Paint) -> Image:
    """A row of windows with heads in them, an advertisement, and two wheels."""
    rng = np.random.default_rng([paint.seed, 12])
    body = _LIVERY[(paint.seed + 1) % len(_LIVERY)]
    canvas, (width, height) = Canvas.blank(paint, body), paint.size_m
    canvas.rect(0, 0.03 * height, width, 0.06 * height, tint(body, 0.7))
    step = width / 9
    for place in range(9):
        canvas.rect((place + 0.06) * step, 0.14 * height, 0.88 * step, 0.34 * height, _GLASS)
        if rng.random() < 0.6:
            canvas.disc((place + 0.5) * step, 0.42 * height, 0.13, tint(pick(rng, _SKIN), 0.6))
    board = pick(rng, _LIVERY)
    canvas.rect(0.2 * width, 0.55 * height, 0.55 * width, 0.22 * height, board)
    canvas.text(" ".join(shop_name(rng)), (0.22 * width, 0.57 * height, 0.5 * width, 0.18 * height), (30, 30, 34))
    _wheels(canvas, (0.16, 0.84))
    return canvas.image


def paint_end(paint: Paint) -> Image:
    """Front or back of a van or a bus: glass, a sign, lights, a plate."""
    rng = np.random.default_rng([paint.seed, 13])
    shift = 1 if paint.kind.startswith("bus") else 0
    body = _LIVERY[(paint.seed + shift) % len(_LIVERY)]
    canvas, (width, height) = Canvas.blank(paint, body), paint.size_m
    canvas.rect(0.06 * width, 0.14 * height, 0.88 * width, 0.4 * height, _GLASS)
    canvas.fill(np.array([[0.1, 0.16], [0.6, 0.16], [0.3, 0.5]]) * [width, height], tint(_GLASS, 1.8))
    canvas.rect(0.2 * width, 0.03 * height, 0.6 * width, 0.09 * height, (28, 28, 30))
    canvas.text(
        str(int(rng.integers(2, 90))), (0.25 * width, 0.03 * height, 0.5 * width, 0.09 * height), (240, 190, 60)
    )
    for left in (0.05, 0.8):
        canvas.rect(
            left * width, 0.7 * height, 0.15 * width, 0.08 * height, pick(rng, ((238, 232, 210), (170, 24, 24)))
        )
    canvas.rect(0.36 * width, 0.8 * height, 0.28 * width, 0.06 * height, (236, 234, 220))
    canvas.rect(0, 0.92 * height, width, 0.08 * height, tint(body, 0.4))
    return canvas.image


def paint_top(paint: Paint) -> Image:
    shift = 1 if paint.kind.startswith("bus") else 0
    return Canvas.blank(paint, tint(_LIVERY[(paint.seed + shift) % len(_LIVERY)], 0.9)).image


def paint_person(paint: Paint) -> Image:
    """Head, coat, arms and legs of somebody who stands or walks, on nothing."""
    rng = np.random.default_rng([paint.seed, 14])
    coat, trousers, skin = pick(rng, _CLOTHES), vary(rng, pick(rng, _CLOTHES), 0.2), pick(rng, _SKIN)
    canvas, (width, height) = Canvas.blank(paint, tint(coat, 0.8)), paint.size_m
    stride = rng.uniform(0.04, 0.2)
    for side in (-1, 1):
        leg = np.array([[0.5 + 0.1 * side, 0.5], [0.5 + (0.12 + stride) * side, 0.96]]) * [width, height]
        canvas.line(leg, tint(trousers, 0.85 if side < 0 else 1.0), 0.15)
        canvas.line(leg[1:] + np.array([[0.0, 0.0], [0.06, 0.02]]), (30, 28, 26), 0.1)
        arm = np.array([[0.5 + 0.24 * side, 0.22], [0.5 + (0.27 + stride / 2) * side, 0.5]]) * [width, height]
        canvas.line(arm, tint(coat, 0.8), 0.11)
    body = np.array([[0.28, 0.18], [0.72, 0.18], [0.7, 0.56], [0.3, 0.56]]) * [width, height]
    canvas.fill(body, coat)
    if rng.random() < 0.4:
        canvas.rect(0.6 * width, 0.3 * height, 0.2 * width, 0.16 * height, pick(rng, _CLOTHES))
    canvas.rect(0.44 * width, 0.12 * height, 0.12 * width, 0.08 * height, skin)
    canvas.disc(0.5 * width, 0.085 * height, 0.115, skin)
    canvas.disc(0.5 * width, 0.065 * height, 0.105, pick(rng, ((40, 30, 24), (110, 76, 44), (150, 150, 146))))
    return canvas.image


def _wheels(canvas: Canvas, places: tuple[float, ...]) -> None:
    width, height = canvas.size_m
    canvas.rect(0, height - 0.2, width, 0.2, (40, 40, 42))
    for x in places:
        canvas.disc(x * width, height - 0.3, 0.42, (26, 26, 28))
        canvas.disc(x * width, height - 0.3, 0.2, (150, 152, 154))
