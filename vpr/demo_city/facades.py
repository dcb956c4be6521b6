"""The fronts, sides and backs of buildings as textures, and where their windows are."""

from __future__ import annotations

import numpy as np

from vpr.core import Image
from vpr.demo_city import details
from vpr.demo_city.canvas import Box, Canvas, Colour, bare_wall, pick, shop_name, tint, vary
from vpr.demo_city.surfaces import Paint, Style

PARAPET_M = 0.8

_CURTAINS: tuple[Colour, ...] = ((226, 220, 205), (180, 160, 130), (150, 60, 55), (95, 120, 140), (205, 190, 120))
_SIGNS: tuple[Colour, ...] = ((170, 30, 35), (25, 70, 130), (20, 95, 60), (225, 190, 40), (35, 35, 40), (235, 232, 222))
_DOORS: tuple[Colour, ...] = ((96, 52, 32), (40, 62, 48), (38, 46, 70), (120, 30, 32), (70, 70, 72), (150, 120, 80))
_GOODS: tuple[Colour, ...] = (
    (190, 60, 50),
    (220, 180, 90),
    (80, 120, 90),
    (90, 100, 150),
    (215, 210, 200),
    (60, 50, 50),
)


def wall_height(style: Style, floors: int) -> float:
    """Metres from the ground to the top of the parapet; ``floors`` are those above the ground floor."""
    return style.ground_m + floors * style.floor_m + PARAPET_M


def windows(style: Style, width_m: float, floors: int) -> list[Box]:
    """The windows above the ground floor, the top floor first, from left to right."""
    bays = max(1, int((width_m - 0.6) // style.bay_m))
    margin = (width_m - bays * style.bay_m) / 2
    wide, tall = style.window_m
    return [
        (margin + (bay + 0.5) * style.bay_m - wide / 2, PARAPET_M + floor * style.floor_m + 0.55, wide, tall)
        for floor in range(floors)
        for bay in range(bays)
    ]


def paint_front(paint: Paint) -> Image:
    """A front: windows, a ground floor with shop, door or garage, and what is only on this one building."""
    style, rng, canvas = _begin(paint)
    top = wall_height(style, paint.floors) - style.ground_m
    details.weather(rng, canvas)
    _bands(canvas, style, paint.floors)
    for box in windows(style, paint.size_m[0], paint.floors):
        _window(rng, canvas, style, box)
        if rng.random() < 0.5:
            details.drip(rng, canvas, box[0], box[1] + box[3], box[2])
    GROUND_FLOORS[style.ground_floor](rng, canvas, style, top)
    details.put_on_front(rng, canvas, top)
    return canvas.image


def paint_side(paint: Paint) -> Image:
    """A wall that was not meant to be seen: few windows, perhaps a painted advertisement."""
    style, rng, canvas = _begin(paint)
    details.weather(rng, canvas)
    width, height = canvas.size_m
    for box in windows(style, paint.size_m[0], paint.floors):
        if rng.random() < 0.25:
            _window(rng, canvas, style, box)
    if rng.random() < 0.35:
        details.advertisement(rng, canvas, (0.1 * width, 0.15 * height, 0.8 * width, 0.35 * height))
    details.put_on_wall(rng, canvas)
    return canvas.image


def paint_hoarding(paint: Paint) -> Image:
    """The fence of an empty lot: boards, posters and graffiti."""
    rng = np.random.default_rng(paint.seed)
    width, height = paint.size_m
    colour = pick(rng, ((150, 140, 120), (90, 110, 100), (170, 165, 155), (120, 85, 60)))
    canvas = Canvas.blank(paint, colour)
    for left in np.arange(0, width, 0.3):
        canvas.rect(left, 0, 0.28, height, vary(rng, colour, 0.15))
        canvas.rect(left + 0.28, 0, 0.02, height, tint(colour, 0.5))
    details.weather(rng, canvas)
    for _ in range(int(width / 2)):
        details.poster(rng, canvas, rng.uniform(0, width - 0.8), rng.uniform(0.1, 0.5))
    details.graffiti(rng, canvas, (rng.uniform(0, 0.5 * width), 0.3, 0.4 * width, height - 0.5))
    return canvas.image


def _begin(paint: Paint) -> tuple[Style, np.random.Generator, Canvas]:
    assert paint.style is not None
    rng = np.random.default_rng(paint.seed)
    return paint.style, rng, bare_wall(rng, paint, paint.style)


def _bands(canvas: Canvas, style: Style, floors: int) -> None:
    """String courses between the floors and the painted part of the cornice."""
    width = canvas.size_m[0]
    canvas.rect(0, 0, width, 0.12, tint(style.trim, 0.8))
    canvas.rect(0, 0.12, width, 0.28, style.trim)
    canvas.rect(0, 0.4, width, 0.04, tint(style.trim, 0.45))
    if style.cornice_m:
        for left in np.arange(0.1, width, 0.4):
            canvas.rect(left, 0.44, 0.16, 0.16, tint(style.trim, 0.85))
    for floor in range(1, floors + 1):
        top = PARAPET_M + floor * style.floor_m
        canvas.rect(0, top, width, 0.1, tint(style.trim, 0.95))
        canvas.rect(0, top + 0.1, width, 0.03, tint(style.wall, 0.5))


def _window(rng: np.random.Generator, canvas: Canvas, style: Style, box: Box) -> None:
    left, top, wide, tall = box
    canvas.rect(left - 0.12, top - 0.2, wide + 0.24, tall + 0.3, style.trim)
    canvas.rect(left - 0.12, top - 0.2, wide + 0.24, 0.03, tint(style.trim, 1.15))
    if style.arched:
        canvas.disc(left + wide / 2, top, wide / 2 + 0.1, style.trim)
        canvas.disc(left + wide / 2, top, wide / 2, tint(style.frame, 0.7))
    canvas.rect(left, top, wide, tall, style.frame)
    _glass(rng, canvas, (left + 0.06, top + 0.06, wide - 0.12, tall - 0.12))
    across, down = style.panes
    for bar in range(1, across):
        canvas.rect(left + bar * wide / across - 0.025, top, 0.05, tall, style.frame)
    for bar in range(1, down):
        canvas.rect(left, top + bar * tall / down - 0.025, wide, 0.05, style.frame)
    canvas.rect(left, top, wide, 0.08, tint(style.frame, 0.35))  # the shadow of the lintel
    canvas.rect(left - 0.16, top + tall + 0.02, wide + 0.32, 0.08, tint(style.trim, 1.1))
    canvas.rect(left - 0.12, top + tall + 0.1, wide + 0.24, 0.05, tint(style.wall, 0.55))
    if rng.random() < 0.22:
        details.on_the_sill(rng, canvas, left, top + tall, wide)


def _glass(rng: np.random.Generator, canvas: Canvas, box: Box) -> None:
    """A pane: a reflection of the sky, perhaps curtains or blinds, and at night perhaps light."""
    left, top, wide, tall = box
    glow = int(rng.integers(120, 256)) if rng.random() < 0.35 else 0
    base = (int(rng.integers(28, 55)), int(rng.integers(36, 62)), int(rng.integers(45, 75)))
    canvas.rect(left, top, wide, tall, base, glow=glow)
    sky = rng.uniform(0.15, 0.6)
    canvas.rect(left, top, wide, sky * tall, tint(base, rng.uniform(1.3, 2.2)), glow=glow)
    edge = np.array(
        [[left, top + sky * tall], [left + wide * rng.uniform(0.2, 0.9), top + tall * sky], [left, top + tall]]
    )
    canvas.fill(edge, tint(base, 1.35), glow=glow)
    covering, colour = rng.random(), vary(rng, pick(rng, _CURTAINS), 0.15)
    if covering < 0.4:
        for side in (0.0, 1.0):
            cloth = wide * rng.uniform(0.12, 0.42)
            start = left + side * (wide - cloth)
            canvas.rect(start, top, cloth, tall, colour, glow=glow)
            for fold in np.arange(start + 0.05, start + cloth, 0.09):
                canvas.rect(fold, top, 0.03, tall, tint(colour, 0.8), glow=glow)
    elif covering < 0.65:
        drawn = tall * rng.uniform(0.15, 0.95)
        canvas.rect(left, top, wide, drawn, colour, glow=glow // 2)
        for slat in np.arange(top + 0.05, top + drawn, 0.07):
            canvas.rect(left, slat, wide, 0.02, tint(colour, 0.72), glow=glow // 2)
    elif covering < 0.8:
        for _ in range(int(rng.integers(1, 4))):
            x, y = left + wide * rng.uniform(0, 0.7), top + tall * rng.uniform(0.3, 0.8)
            canvas.rect(x, y, wide * rng.uniform(0.1, 0.3), tall * 0.2, vary(rng, pick(rng, _GOODS), 0.3), glow=glow)


def _shop(rng: np.random.Generator, canvas: Canvas, style: Style, top: float) -> None:
    """Show windows between pillars under a sign, and a door."""
    width, tall = canvas.size_m[0], style.ground_m
    board = pick(rng, _SIGNS)
    ink = pick(rng, tuple(sign for sign in _SIGNS if abs(sum(sign) - sum(board)) > 150))
    canvas.rect(0, top, width, tall, vary(rng, style.trim, 0.2))
    canvas.rect(0.2, top + 0.15, width - 0.4, 0.75, board, glow=90)
    canvas.rect(0.2, top + 0.9, width - 0.4, 0.06, tint(board, 0.5))
    canvas.text(" ".join(shop_name(rng)), (0.5, top + 0.2, width - 1.0, 0.62), ink, glow=160)
    panes = max(2, int(width // 2.2))
    door = int(rng.integers(panes))
    for pane in range(panes):
        left, wide = 0.2 + pane * (width - 0.4) / panes, (width - 0.4) / panes
        if pane == door:
            _door(rng, canvas, (left + 0.15, top + 1.0, min(1.2, wide - 0.3), tall - 1.0))
            continue
        canvas.rect(left + 0.08, top + 1.0, wide - 0.16, tall - 1.55, style.frame)
        _show_window(rng, canvas, (left + 0.16, top + 1.08, wide - 0.32, tall - 1.75))
        canvas.rect(left + 0.08, top + tall - 0.55, wide - 0.16, 0.5, vary(rng, board, 0.3))


def _show_window(rng: np.random.Generator, canvas: Canvas, box: Box) -> None:
    left, top, wide, tall = box
    canvas.rect(left, top, wide, tall, (44, 44, 46), glow=210)
    for shelf in np.arange(top + 0.35, top + tall, 0.45):
        canvas.rect(left, shelf, wide, 0.04, (120, 110, 95), glow=200)
        x = left + 0.05
        while x < left + wide - 0.15:
            goods = min(rng.uniform(0.08, 0.3), left + wide - x)
            rise = rng.uniform(0.08, 0.3)
            canvas.rect(x, shelf - rise, goods, rise, vary(rng, pick(rng, _GOODS), 0.35), glow=220)
            x += goods + rng.uniform(0.01, 0.15)
    if rng.random() < 0.5:
        details.poster(rng, canvas, left + rng.uniform(0, 0.4) * wide, top + 0.3)


def _house(rng: np.random.Generator, canvas: Canvas, style: Style, top: float) -> None:
    """A plinth, a door with steps and windows like those above."""
    width, tall = canvas.size_m[0], style.ground_m
    canvas.rect(0, top + tall - 0.6, width, 0.6, tint(style.wall, 0.7))
    canvas.rect(0, top + tall - 0.62, width, 0.04, tint(style.trim, 1.1))
    bays = windows(style, width, 1)
    door = int(rng.integers(len(bays)))
    for bay, (left, _, wide, high) in enumerate(bays):
        if bay == door:
            _door(rng, canvas, (left + wide / 2 - 0.6, top + 0.4, 1.2, tall - 0.4))
        else:
            _window(rng, canvas, style, (left, top + 0.55, wide, min(high, tall - 1.4)))


def _garage(rng: np.random.Generator, canvas: Canvas, style: Style, top: float) -> None:
    """Roller shutters, often sprayed upon, and a door."""
    width, tall = canvas.size_m[0], style.ground_m
    left = 0.5
    while left + 3.2 < width:
        colour = vary(rng, (150, 152, 150), 0.35)
        canvas.rect(left - 0.1, top + 0.3, 2.9, tall - 0.3, tint(style.trim, 0.8))
        for slat in np.arange(top + 0.45, top + tall, 0.12):
            canvas.rect(left, slat, 2.7, 0.09, vary(rng, colour, 0.04))
            canvas.rect(left, slat + 0.09, 2.7, 0.03, tint(colour, 0.55))
        if rng.random() < 0.5:
            details.graffiti(rng, canvas, (left + 0.2, top + 0.8, 2.3, tall - 1.2))
        left += 3.4
    if width - left > 1.3:
        _door(rng, canvas, (left, top + 0.5, 1.1, tall - 0.5))


def _door(rng: np.random.Generator, canvas: Canvas, box: Box) -> None:
    left, top, wide, tall = box
    colour = pick(rng, _DOORS)
    canvas.rect(left - 0.1, top - 0.1, wide + 0.2, tall + 0.1, tint(colour, 0.45))
    canvas.rect(left, top + 0.45, wide, tall - 0.45, colour)
    canvas.rect(left, top, wide, 0.4, (70, 78, 84), glow=int(rng.integers(200)))
    for row in range(2):
        for column in range(2):
            x, y = left + wide * (0.12 + 0.44 * column), top + 0.6 + (tall - 0.8) * 0.5 * row
            canvas.rect(x, y, wide * 0.32, (tall - 0.8) * 0.38, tint(colour, 0.75 + 0.1 * row))
    canvas.disc(left + 0.88 * wide, top + 0.6 * tall, 0.05, (210, 190, 110))
    canvas.rect(left + wide + 0.18, top + 0.5, 0.32, 0.22, (235, 235, 230))
    canvas.text(str(int(rng.integers(1, 240))), (left + wide + 0.19, top + 0.51, 0.3, 0.2), (25, 35, 90))


GROUND_FLOORS = {"shop": _shop, "house": _house, "garage": _garage}
