"""What makes one wall different from all others: stains, posters, graffiti, pipes and the like."""

from __future__ import annotations

import cv2
import numpy as np

from vpr.demo_city.canvas import Box, Canvas, Colour, noise, pick, shop_name, tint, vary

_LOUD: tuple[Colour, ...] = (
    (200, 40, 60), (240, 200, 40), (40, 90, 190), (30, 150, 90),
    (240, 240, 235), (25, 25, 30), (220, 110, 30), (130, 60, 160),
)  # fmt: skip
_GREY: Colour = (120, 122, 122)


def weather(rng: np.random.Generator, canvas: Canvas) -> None:
    """Blotches over the whole wall, dirt towards the ground, and a few stains with edges."""
    height, width = canvas.image.shape[:2]
    factor = 1 + 0.05 * noise(rng, "soft", height, width) + 0.03 * noise(rng, "rough", height, width)
    factor -= 0.2 * np.exp(-(np.arange(height, 0, -1, dtype=np.float32) / canvas.scale) / 0.5)[:, None]
    stains = noise(rng, "rough", height, width) + noise(rng, "soft", height, width)
    factor[stains > 2.2] *= np.float32(rng.uniform(0.75, 0.92))
    canvas.multiply(factor.astype(np.float32))


def drip(rng: np.random.Generator, canvas: Canvas, left: float, top: float, width: float) -> None:
    """Dark streaks that rain has drawn below a sill."""
    for _ in range(int(rng.integers(1, 5))):
        x0, y0 = canvas.texel(left + rng.uniform(0, width), top + 0.15)
        y1 = y0 + int(rng.integers(10, 42))
        streak = canvas.image[y0:y1, x0 : x0 + int(rng.integers(2, 7)), :3]
        if streak.size:
            fade = np.linspace(rng.uniform(0.6, 0.85), 1, len(streak))[:, None, None]
            streak[:] = (streak * fade).astype(np.uint8)


def put_on_front(rng: np.random.Generator, canvas: Canvas, ground_top: float) -> None:
    """Pipes, cables, posters, graffiti and signs at places of their own; ``ground_top`` is the ground floor's top."""
    width, height = canvas.size_m
    if rng.random() < 0.6:
        _pipe(rng, canvas, rng.choice([0.12, width - 0.3]))
    if rng.random() < 0.5:
        _cable(rng, canvas, ground_top - rng.uniform(0.05, 0.5))
    for _ in range(int(rng.integers(0, 4))):
        poster(rng, canvas, rng.uniform(0.1, max(0.2, width - 0.8)), rng.uniform(ground_top + 1.0, height - 1.2))
    if rng.random() < 0.35:
        graffiti(rng, canvas, (rng.uniform(0, 0.6) * width, height - 1.9, rng.uniform(1.5, 3), 1.4))
    for _ in range(int(rng.integers(1, 4))):
        _appliance(rng, canvas, rng.uniform(0, width - 1), rng.uniform(0.9, height - 1))
    if rng.random() < 0.3:
        _cracks(rng, canvas)
    if rng.random() < 0.2:
        _ivy(rng, canvas)


def put_on_wall(rng: np.random.Generator, canvas: Canvas) -> None:
    """What is found on a blank wall."""
    width, height = canvas.size_m
    _cracks(rng, canvas)
    for _ in range(3):
        _appliance(rng, canvas, rng.uniform(0, max(0.1, width - 1)), rng.uniform(0.5, height - 0.5))
    if rng.random() < 0.5:
        graffiti(rng, canvas, (0.1 * width, height - 2.1, 0.6 * width, 1.7))
    if rng.random() < 0.4:
        _ivy(rng, canvas)


def poster(rng: np.random.Generator, canvas: Canvas, left: float, top: float) -> None:
    """A printed sheet with an image of blocks and two lines of text."""
    wide = rng.uniform(0.45, 0.8)
    tall = wide * 1.4
    ground, ink = pick(rng, _LOUD), pick(rng, _LOUD)
    canvas.rect(left - 0.02, top - 0.02, wide + 0.04, tall + 0.04, (215, 213, 205))
    canvas.rect(left, top, wide, tall, ground)
    for _ in range(int(rng.integers(2, 6))):
        x, y = left + wide * rng.uniform(0, 0.6), top + tall * rng.uniform(0.25, 0.7)
        if rng.random() < 0.5:
            canvas.rect(x, y, wide * rng.uniform(0.1, 0.4), tall * rng.uniform(0.05, 0.25), pick(rng, _LOUD))
        else:
            canvas.disc(x + 0.1, y, wide * rng.uniform(0.05, 0.2), pick(rng, _LOUD))
    canvas.text(shop_name(rng)[0], (left + 0.03, top + 0.03, wide - 0.06, 0.2 * tall), ink)
    canvas.text(str(int(rng.integers(1, 32))), (left + 0.05, top + 0.78 * tall, wide - 0.1, 0.18 * tall), ink)


def graffiti(rng: np.random.Generator, canvas: Canvas, box: Box) -> None:
    """A tag: a few looping strokes with an outline."""
    left, top, wide, tall = box
    colour = pick(rng, _LOUD)
    steps = np.linspace(0, 1, 60)
    for _ in range(int(rng.integers(2, 5))):
        waves = rng.uniform(1, 4, 2)
        phase = rng.uniform(0, 2 * np.pi, 3)
        x = left + wide * np.clip(steps + 0.12 * np.sin(2 * np.pi * waves[0] * steps + phase[0]), 0, 1)
        y = top + tall * (0.5 + 0.45 * np.sin(2 * np.pi * waves[1] * steps + phase[1]) * np.cos(3 * steps + phase[2]))
        points = np.column_stack([x, y])
        canvas.line(points, tint(colour, 0.25), 0.16)
        canvas.line(points, colour, 0.09)


def advertisement(rng: np.random.Generator, canvas: Canvas, box: Box) -> None:
    """A large faded painting with two names on it."""
    left, top, wide, tall = box
    ground, ink = vary(rng, pick(rng, _LOUD), 0.3), pick(rng, _LOUD)
    canvas.rect(left, top, wide, tall, ground)
    canvas.disc(left + wide * rng.uniform(0.2, 0.8), top + tall * 0.5, 0.3 * tall, vary(rng, ink, 0.4))
    canvas.text(" ".join(shop_name(rng)), (left + 0.2, top + 0.1 * tall, wide - 0.4, 0.35 * tall), ink)
    canvas.text(" ".join(shop_name(rng)), (left + 0.2, top + 0.55 * tall, wide - 0.4, 0.3 * tall), tint(ink, 0.6))


def on_the_sill(rng: np.random.Generator, canvas: Canvas, left: float, sill: float, wide: float) -> None:
    """A flower box, an air conditioner or washing."""
    kind = int(rng.integers(3))
    if kind == 0:
        canvas.rect(left, sill - 0.2, wide, 0.2, (110, 62, 40))
        for x in np.arange(left, left + wide, 0.07):
            colour = vary(rng, pick(rng, ((50, 110, 45), (190, 40, 60), (230, 200, 80))), 0.3)
            canvas.disc(x, sill - 0.25 + rng.uniform(-0.1, 0.08), 0.06, colour)
    elif kind == 1:
        canvas.rect(left + 0.1, sill - 0.5, 0.8, 0.5, (205, 205, 198))
        canvas.disc(left + 0.4, sill - 0.25, 0.2, (90, 92, 94))
        canvas.rect(left + 0.1, sill, 0.8, 0.06, (80, 80, 80))
    else:
        for x in np.arange(left, left + wide - 0.2, 0.3):
            canvas.rect(x, sill - 0.1, 0.24, rng.uniform(0.3, 0.7), vary(rng, pick(rng, _LOUD), 0.2))


def _pipe(rng: np.random.Generator, canvas: Canvas, x: float) -> None:
    colour = vary(rng, pick(rng, (_GREY, (90, 70, 55), (200, 198, 190))), 0.2)
    height = canvas.size_m[1]
    canvas.rect(x, 0.5, 0.12, height - 0.5, colour)
    canvas.rect(x + 0.09, 0.5, 0.05, height - 0.5, tint(colour, 0.5))
    for y in np.arange(rng.uniform(1, 2), height, 2.0):
        canvas.rect(x - 0.04, y, 0.2, 0.08, tint(colour, 0.7))


def _cable(rng: np.random.Generator, canvas: Canvas, y: float) -> None:
    width = canvas.size_m[0]
    x = np.linspace(0, width, 30)
    sag = y + rng.uniform(0.02, 0.25) * np.sin(np.pi * x / width * int(rng.integers(1, 4))) ** 2
    canvas.line(np.column_stack([x, sag]), (30, 30, 32), 0.02)


def _appliance(rng: np.random.Generator, canvas: Canvas, x: float, y: float) -> None:
    """A vent, a meter box, a lamp, an enamel plate or a dish."""
    kind = int(rng.integers(5))
    if kind == 0:
        canvas.rect(x, y, 0.4, 0.3, _GREY)
        for slat in np.arange(y + 0.04, y + 0.3, 0.06):
            canvas.rect(x + 0.03, slat, 0.34, 0.03, (40, 42, 44))
    elif kind == 1:
        canvas.rect(x, y, 0.5, 0.7, vary(rng, (170, 172, 165), 0.25))
        canvas.rect(x + 0.05, y + 0.05, 0.4, 0.25, (60, 64, 66))
        canvas.rect(x + 0.24, y + 0.7, 0.05, 1.0, (100, 100, 98))
    elif kind == 2:
        canvas.rect(x, y, 0.16, 0.3, (35, 35, 38))
        canvas.rect(x + 0.03, y + 0.05, 0.1, 0.18, (250, 240, 205), glow=255)
    elif kind == 3:
        board = pick(rng, _LOUD)
        canvas.rect(x, y, 0.7, 0.35, tint(board, 0.6))
        canvas.rect(x + 0.03, y + 0.03, 0.64, 0.29, board)
        canvas.text(shop_name(rng)[1], (x + 0.06, y + 0.05, 0.58, 0.25), (245, 245, 240))
    else:
        canvas.disc(x, y, 0.35, (190, 190, 186))
        canvas.disc(x + 0.04, y + 0.03, 0.28, (215, 215, 212))
        canvas.line(np.array([[x, y], [x + 0.3, y + 0.2]]), (50, 50, 50), 0.04)


def _cracks(rng: np.random.Generator, canvas: Canvas) -> None:
    """Broken lines that wander down the wall, and a patch of newer mortar."""
    width, height = canvas.size_m
    for _ in range(int(rng.integers(1, 4))):
        steps = rng.normal([rng.uniform(-0.08, 0.08), 0.12], 0.12, (20, 2))
        canvas.line(np.cumsum(steps, axis=0) + rng.uniform(0, [width, 0.7 * height]), (70, 66, 60), 0.02)
    x0, y0 = canvas.texel(*rng.uniform(0, [0.8 * width, 0.8 * height]))
    x1, y1 = x0 + int(rng.integers(20, 70)), y0 + int(rng.integers(15, 60))
    patch = canvas.image[y0:y1, x0:x1, :3]
    patch[:] = cv2.LUT(
        np.ascontiguousarray(patch), np.clip(np.arange(256) * rng.uniform(0.7, 1.25), 0, 255).astype(np.uint8)
    )


def _ivy(rng: np.random.Generator, canvas: Canvas) -> None:
    """Leaves that climb from the ground."""
    width, height = canvas.size_m
    root, rise = rng.uniform(0, width), rng.uniform(0.3, 0.8) * height
    for _ in range(int(rise * 45)):
        up = rng.beta(1, 2) * rise
        x = root + rng.normal(0, 0.25 + 0.6 * (1 - up / rise))
        canvas.disc(x, height - up, rng.uniform(0.04, 0.11), vary(rng, (52, 92, 40), 0.45))
