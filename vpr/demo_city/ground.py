"""Asphalt, paving and yards as textures."""

from __future__ import annotations

import cv2
import numpy as np

from vpr.core import Image
from vpr.demo_city.canvas import Canvas, noise, tint, vary
from vpr.demo_city.surfaces import Paint

_WHITE = (205, 205, 200)


def paint_road(paint: Paint) -> Image:
    """A piece of street, the lanes along the texture's columns, with a dashed middle line and two for parking."""
    rng, canvas = _asphalt(paint)
    width, length = paint.size_m
    for top in np.arange(1.0, length - 1, 5.0):
        canvas.rect(width / 2 - 0.07, top, 0.14, 2.4, vary(rng, _WHITE, 0.08))
    for x in (2.25, width - 2.35):
        canvas.rect(x, 0, 0.1, length, vary(rng, _WHITE, 0.1))
    _wear(rng, canvas)
    return canvas.image


def paint_zebra(paint: Paint) -> Image:
    """A piece of street with a pedestrian crossing."""
    rng, canvas = _asphalt(paint)
    width, length = paint.size_m
    for left in np.arange(0.6, width - 0.6, 1.0):
        canvas.rect(left, length / 2 - 1.3, 0.5, 2.6, vary(rng, _WHITE, 0.08))
    _wear(rng, canvas)
    return canvas.image


def paint_crossing(paint: Paint) -> Image:
    rng, canvas = _asphalt(paint)
    _wear(rng, canvas)
    return canvas.image


def paint_pavement(paint: Paint) -> Image:
    """Slabs in rows, no two of one grey, with covers and spots of chewing gum."""
    rng = np.random.default_rng(paint.seed)
    canvas = Canvas.blank(paint)
    height, width = canvas.image.shape[:2]
    slab = round(paint.texels_per_m * float(rng.choice([0.4, 0.5, 0.6])))
    shades = rng.uniform(0.88, 1.08, (height // slab + 2, width // slab + 3))
    row, column = np.arange(height) // slab, np.arange(width)
    place = column[None, :] + (row % 2 * (slab // 2))[:, None]
    factor = shades[row[:, None], place // slab]
    factor[(np.arange(height) % slab == 0)[:, None] | (place % slab == 0)] = 0.68
    canvas.image[..., :3] = np.clip(factor[..., None] * rng.uniform(118, 150) * np.array([1.02, 1.0, 0.95]), 0, 255)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0, paint.size_m)
        canvas.rect(x, y, 0.5, 0.4, (96, 94, 90))
        canvas.rect(x + 0.04, y + 0.04, 0.42, 0.32, (70, 68, 66))
    for _ in range(int(6 * paint.size_m[0])):
        x, y = rng.uniform(0, paint.size_m)
        canvas.disc(x, y, rng.uniform(0.015, 0.05), (78, 76, 74))
    _grain(rng, canvas)
    return canvas.image


def paint_yard(paint: Paint) -> Image:
    """Grass and gravel inside a block, seen only through gaps."""
    rng = np.random.default_rng(paint.seed)
    canvas = Canvas.blank(paint, (92, 98, 66))
    height, width = canvas.image.shape[:2]
    canvas.image[noise(rng, "rough", height, width) > 0.4, :3] = (128, 116, 96)
    _grain(rng, canvas)
    return canvas.image


def _asphalt(paint: Paint) -> tuple[np.random.Generator, Canvas]:
    rng = np.random.default_rng(paint.seed)
    canvas = Canvas.blank(paint, vary(rng, (88, 88, 90), 0.06))
    width, length = paint.size_m
    for _ in range(int(rng.integers(1, 5))):  # trenches that were filled again
        x, y = rng.uniform(0, paint.size_m)
        canvas.rect(x, y, rng.uniform(0.6, 4), rng.uniform(0.6, 4), vary(rng, (80, 80, 82), 0.28))
    for _ in range(int(rng.integers(1, 4))):
        _cover(rng, canvas, rng.uniform(2.5, width - 2.5), rng.uniform(0, length))
    return rng, canvas


def _cover(rng: np.random.Generator, canvas: Canvas, x: float, y: float) -> None:
    """A manhole cover or a drain."""
    dark = vary(rng, (54, 52, 50), 0.15)
    if rng.random() < 0.6:
        canvas.disc(x, y, 0.36, tint(dark, 1.5))
        canvas.disc(x, y, 0.31, dark)
        for shift in (-0.16, -0.04, 0.08):
            canvas.rect(x - 0.2, y + shift, 0.4, 0.05, tint(dark, 1.7))
    else:
        canvas.rect(x, y, 0.5, 0.7, tint(dark, 1.4))
        for shift in np.arange(0.06, 0.7, 0.12):
            canvas.rect(x + 0.05, y + shift, 0.4, 0.05, tint(dark, 0.5))


def _wear(rng: np.random.Generator, canvas: Canvas) -> None:
    """Cracks, some sealed with tar, oil spots, tyre tracks and grain."""
    width, length = canvas.size_m
    for _ in range(int(rng.integers(3, 8))):
        steps = rng.normal(0, 0.22, (24, 2)) + rng.uniform(-0.2, 0.2, 2)
        dark = int(rng.integers(40, 66))
        path = np.cumsum(steps, axis=0) + rng.uniform(0, [width, length])
        canvas.line(path, (dark, dark, dark), rng.uniform(0.02, 0.06))
    for _ in range(int(rng.integers(3, 10))):
        x, y = rng.uniform(0, [width, length])
        canvas.disc(x, y, rng.uniform(0.04, 0.25), vary(rng, (68, 67, 68), 0.15))
    for _ in range(int(rng.integers(0, 3))):
        track = rng.uniform(2.5, width - 2.5) + np.cumsum(rng.normal(0, 0.02, 30))
        canvas.line(np.column_stack([track, np.linspace(0, length, 30)]), (64, 64, 65), 0.12)
    _grain(rng, canvas)


def _grain(rng: np.random.Generator, canvas: Canvas) -> None:
    height, width = canvas.image.shape[:2]
    grain = 0.09 * cv2.GaussianBlur(noise(rng, "fine", height, width), (0, 0), 0.6)
    canvas.multiply((1 + grain + 0.06 * noise(rng, "rough", height, width)).astype(np.float32))
