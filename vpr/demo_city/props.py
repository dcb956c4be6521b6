"""Textures of what stands in the street: leaves, backbones, cars, lamp posts, signs, awnings and railings."""

from __future__ import annotations

import numpy as np

from vpr.core import Image
from vpr.demo_city.canvas import Canvas, Colour, noise, pick, shop_name, tint, vary
from vpr.demo_city.surfaces import Paint

_PAINTWORK: tuple[Colour, ...] = (
    (205, 207, 208), (34, 36, 40), (120, 124, 128), (150, 24, 28),
    (30, 56, 110), (196, 186, 160), (70, 92, 74), (228, 228, 224),
)  # fmt: skip
_GLASS: Colour = (38, 46, 54)
_CLOTH: tuple[Colour, ...] = ((160, 40, 40), (40, 90, 60), (40, 60, 120), (200, 150, 50), (90, 50, 80))
CAR_COLOURS = len(_PAINTWORK)


def paint_leaves(paint: Paint) -> Image:
    """A spray of leaves on nothing."""
    rng = np.random.default_rng(paint.seed)
    canvas = Canvas.blank(paint, (46, 66, 30))
    width, height = paint.size_m
    base = pick(rng, ((62, 92, 40), (84, 104, 44), (52, 80, 46)))
    for _ in range(int(rng.integers(2, 5))):
        ends = rng.uniform([0.1, 0.1], [width - 0.1, height - 0.1])
        canvas.line(np.array([[width / 2, height / 2], ends]), (70, 56, 42), 0.05)
    twigs = rng.uniform([0.22 * width, 0.22 * height], [0.78 * width, 0.78 * height], (7, 2))
    for _ in range(int(95 * width * height)):
        x, y = np.clip(twigs[int(rng.integers(7))] + rng.normal(0, 0.13, 2) * paint.size_m, 0.1, paint.size_m[0] - 0.1)
        leaf = vary(rng, base, 0.4)
        turn, long = rng.uniform(0, np.pi), rng.uniform(0.07, 0.14)
        tip = long * np.array([np.cos(turn), np.sin(turn)])
        side = 0.45 * np.array([-tip[1], tip[0]])
        canvas.fill(np.array([x, y]) + np.array([tip, side, -tip, -side]), leaf)
    return canvas.image


def paint_bark(paint: Paint) -> Image:
    rng = np.random.default_rng(paint.seed)
    canvas = Canvas.blank(paint, (96, 82, 66))
    height, width = canvas.image.shape[:2]
    canvas.multiply((1 + 0.2 * noise(rng, "fine", height, width)).astype(np.float32))
    canvas.image[:, rng.integers(0, width, max(1, width // 6)), :3] //= 2
    return canvas.image


def paint_plain(paint: Paint) -> Image:
    """Grey metal or stone with a little grain; the seed chooses the shade. Also used for cornices and slabs."""
    rng = np.random.default_rng(paint.seed)
    colour = paint.style.trim if paint.style else pick(rng, ((62, 66, 66), (92, 94, 92), (46, 62, 52)))
    canvas = Canvas.blank(paint, colour)
    height, width = canvas.image.shape[:2]
    canvas.multiply((1 + 0.05 * noise(rng, "rough", height, width)).astype(np.float32))
    for left in np.arange(0.5, paint.size_m[0], 0.5):
        canvas.rect(left, 0, 0.02, paint.size_m[1], tint(colour, 0.7))
    return canvas.image


def paint_kerb(paint: Paint) -> Image:
    rng = np.random.default_rng(paint.seed)
    canvas = Canvas.blank(paint)
    for left in np.arange(0, paint.size_m[0], 1.0):
        canvas.rect(left, 0, 1.0, 1, vary(rng, (140, 138, 132), 0.12))
        canvas.rect(left, 0, 0.03, 1, (80, 78, 75))
    return canvas.image


def paint_lantern(paint: Paint) -> Image:
    return Canvas.blank(paint, (250, 240, 215), glow=255).image


def paint_awning(paint: Paint) -> Image:
    """Striped cloth."""
    rng = np.random.default_rng(paint.seed)
    colour, light = pick(rng, _CLOTH), vary(rng, (220, 214, 200), 0.08)
    canvas = Canvas.blank(paint, light)
    stripe = rng.uniform(0.2, 0.5)
    for left in np.arange(0, paint.size_m[0], 2 * stripe):
        canvas.rect(left, 0, stripe, paint.size_m[1], colour)
    canvas.rect(0, paint.size_m[1] - 0.06, paint.size_m[0], 0.06, tint(colour, 0.6))
    return canvas.image


def paint_railing(paint: Paint) -> Image:
    """Upright bars between two rails, with nothing in between."""
    rng = np.random.default_rng(paint.seed)
    colour = pick(rng, ((36, 38, 40), (70, 74, 70), (190, 188, 180)))
    canvas = Canvas.blank(paint, colour)
    width, height = paint.size_m
    for left in np.arange(0, width + 0.01, 0.14):
        canvas.rect(left - 0.02, 0, 0.05, height, colour)
    for top in (0.0, height - 0.12):
        canvas.rect(0, top, width, 0.08, colour)
    if rng.random() < 0.5:
        canvas.rect(0.1 * width, 0.1, rng.uniform(0.2, 0.6) * width, 0.6 * height, pick(rng, _CLOTH))
    return canvas.image


def paint_blade_sign(paint: Paint) -> Image:
    """A sign that stands out from the wall: letters below one another."""
    rng = np.random.default_rng(paint.seed)
    width, height = paint.size_m
    board = pick(rng, (*_CLOTH, (30, 30, 34), (235, 232, 225)))
    ink = (240, 236, 225) if sum(board) < 450 else (40, 30, 30)
    canvas = Canvas.blank(paint, tint(board, 0.6), glow=60)
    canvas.rect(0.04, 0.04, width - 0.08, height - 0.08, board, glow=150)
    letters = shop_name(rng)[int(rng.integers(2))][:6]
    for row, letter in enumerate(letters):
        tall = (height - 0.2) / len(letters)
        canvas.text(letter, (0.1, 0.1 + row * tall, width - 0.2, tall), ink, glow=220)
    return canvas.image


def paint_traffic_sign(paint: Paint) -> Image:
    """A round or a triangular plate on nothing."""
    rng = np.random.default_rng(paint.seed)
    side = paint.size_m[0]
    canvas = Canvas.blank(paint, (150, 150, 150))
    rim, field = ((190, 30, 35), (235, 235, 232)) if rng.random() < 0.6 else ((30, 70, 150), (30, 70, 150))
    if rng.random() < 0.6:
        canvas.disc(side / 2, side / 2, side * 0.49, rim)
        canvas.disc(side / 2, side / 2, side * 0.38, field)
        ink = (235, 235, 232) if field == rim else (25, 25, 28)
        canvas.text(str(int(rng.integers(2, 9)) * 10), (side * 0.2, side * 0.3, side * 0.6, side * 0.4), ink)
    else:
        corners = np.array([[0.5, 0.02], [0.98, 0.95], [0.02, 0.95]]) * side
        canvas.fill(corners, rim)
        canvas.fill((corners - corners.mean(0)) * 0.62 + corners.mean(0), (235, 235, 232))
        canvas.rect(0.46 * side, 0.45 * side, 0.08 * side, 0.3 * side, (25, 25, 28))
    return canvas.image


def paint_bin(paint: Paint) -> Image:
    rng = np.random.default_rng(paint.seed)
    colour = pick(rng, ((40, 84, 52), (52, 60, 92), (150, 30, 34), (96, 96, 92)))
    canvas = Canvas.blank(paint, colour)
    width, height = paint.size_m
    canvas.rect(0, 0.12 * height, width, 0.05, tint(colour, 0.5))
    canvas.rect(0.2 * width, 0.3 * height, 0.6 * width, 0.3 * height, pick(rng, ((235, 235, 230), (230, 200, 60))))
    return canvas.image


def paint_car_side(paint: Paint) -> Image:
    """The outline of a car 4.3 m long and 1.5 m high with its wheels; the seed chooses the colour."""
    body, width, height = _body(paint), *paint.size_m
    canvas = Canvas.blank(paint, body)
    outline = np.array(
        [[0, 0.6], [0.02, 0.45], [0.2, 0.4], [0.34, 0.02], [0.74, 0.0], [0.9, 0.38], [0.99, 0.44], [1, 0.8], [0, 0.8]]
    )
    canvas.fill(outline * [width, height], body)
    glass = np.array([[0.25, 0.38], [0.355, 0.08], [0.53, 0.07], [0.53, 0.38]])
    canvas.fill(glass * [width, height], _GLASS)
    glass = np.array([[0.56, 0.38], [0.56, 0.07], [0.72, 0.08], [0.84, 0.38]])
    canvas.fill(glass * [width, height], tint(_GLASS, 1.4))
    canvas.rect(0, 0.76 * height, width, 0.06 * height, tint(body, 0.4))
    canvas.rect(0.05 * width, 0.52 * height, 0.9 * width, 0.03, tint(body, 0.7))
    for x in (0.545, 0.2, 0.88):
        canvas.rect(x * width, 0.4 * height, 0.02, 0.36 * height, tint(body, 0.6))
    for x in (0.58, 0.28):
        canvas.rect(x * width, 0.47 * height, 0.18, 0.04, tint(body, 0.3))
    canvas.rect(0.0, 0.47 * height, 0.08, 0.12, (240, 235, 215))
    canvas.rect(width - 0.08, 0.47 * height, 0.08, 0.14, (170, 30, 30))
    for x in (0.19, 0.81):
        canvas.disc(x * width, height - 0.32, 0.38, tint(body, 0.25))
        canvas.disc(x * width, height - 0.32, 0.31, (26, 26, 28))
        canvas.disc(x * width, height - 0.32, 0.19, (160, 162, 164))
        canvas.disc(x * width, height - 0.32, 0.07, (60, 60, 62))
    return canvas.image


def paint_car_front(paint: Paint) -> Image:
    return _car_end(paint, (238, 232, 210))


def paint_car_back(paint: Paint) -> Image:
    return _car_end(paint, (160, 24, 24))


def _car_end(paint: Paint, lamp: Colour) -> Image:
    """Lights, a grille and a plate."""
    rng = np.random.default_rng(paint.seed)
    body, width, height = _body(paint), *paint.size_m
    canvas = Canvas.blank(paint, body)
    canvas.rect(0, 0.72 * height, width, 0.28 * height, tint(body, 0.35))
    for x in (0.06, width - 0.36):
        canvas.rect(x, 0.15 * height, 0.3, 0.25 * height, lamp)
    canvas.rect(0.3 * width, 0.2 * height, 0.4 * width, 0.16 * height, (40, 40, 42))
    canvas.rect(width / 2 - 0.26, 0.5 * height, 0.52, 0.13, (236, 234, 220))
    plate = f"{int(rng.integers(10, 100))} {int(rng.integers(10, 100))}"
    canvas.text(plate, (width / 2 - 0.24, 0.5 * height, 0.48, 0.13), (30, 34, 60))
    return canvas.image


def paint_car_top(paint: Paint) -> Image:
    """Bonnet, roof and boot."""
    body = _body(paint)
    canvas = Canvas.blank(paint, tint(body, 1.05))
    canvas.rect(0.25, 0, 0.04, paint.size_m[1], tint(body, 0.85))
    canvas.rect(paint.size_m[0] - 0.29, 0, 0.04, paint.size_m[1], tint(body, 0.85))
    return canvas.image


def paint_car_glass(paint: Paint) -> Image:
    """A windscreen with its frame, and the sky in it."""
    body, width, height = _body(paint), *paint.size_m
    canvas = Canvas.blank(paint, body)
    canvas.rect(0.08, 0.04, width - 0.16, height - 0.08, _GLASS)
    canvas.fill(np.array([[0.1, 0.05], [0.7 * width, 0.05], [0.4 * width, 0.6 * height]]), tint(_GLASS, 1.9))
    return canvas.image


def paint_under_car(paint: Paint) -> Image:
    """The darkness below a car, with soft corners."""
    canvas = Canvas.blank(paint, (14, 14, 15))
    width, height = paint.size_m
    for x in (0.35, width - 0.35):
        for y in (0.35, height - 0.35):
            canvas.disc(x, y, 0.35, (14, 14, 15))
    canvas.rect(0.35, 0, width - 0.7, height, (14, 14, 15))
    canvas.rect(0, 0.35, width, height - 0.7, (14, 14, 15))
    return canvas.image


def _body(paint: Paint) -> Colour:
    return _PAINTWORK[paint.seed % CAR_COLOURS]
