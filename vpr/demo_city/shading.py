"""How much light falls on each pixel: sun with shadows, sky, street lamps; and what the sky looks like."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from vpr.core import Doubles, Floats
from vpr.demo_city.light import Light
from vpr.demo_city.raster import fill_nearest, outline
from vpr.demo_city.surfaces import Surfaces

_TEXELS_PER_M = 7.0  # of the shadow map
_SIDE = 768  # texels; 110 m
_LOW = -1e6  # below everything
_LAMP_COLOUR = np.array([1.0, 0.68, 0.36])


def light_on(light: Light, points: Floats, normals: Floats, sunny: Floats, lamps: Doubles) -> Floats:
    """(H, W, 3) light on (H, W, 3) points with unit normals, of which the sun reaches a fraction (H, W).

    ``lamps`` are the (L, 3) lamps to reckon with; they cast no shadow.
    """
    upward = 0.5 + 0.5 * normals[..., 2]
    # Less of the sky is seen from the foot of a wall; the ground itself is not closed in.
    upward_open = np.where(upward > 0.9, 1, 0.72 + 0.28 * np.clip(points[..., 2] / 3, 0, 1))
    facing = np.maximum(normals @ light.sun.astype(np.float32), 0) * sunny
    parts = [(upward * upward_open, light.sky_colour), ((1 - upward) * upward_open, light.ground_colour)]
    parts += [(facing, light.sun_colour)]
    if light.lamps:
        parts += [(light.lamps * _lamp_light(points, normals, lamps), _LAMP_COLOUR)]
    amounts = np.stack([amount for amount, _ in parts], axis=-1)
    return amounts @ np.array([colour for _, colour in parts], np.float32)


def _lamp_light(points: Floats, normals: Floats, lamps: Doubles) -> Floats:
    """(H, W) brightness under (L, 3) lamps; squared distances come from products, one matrix for all lamps."""
    centre = points.mean(axis=(0, 1))  # small numbers keep the differences of squares exact
    near, lamp = points - centre, (lamps - centre).astype(np.float32)
    square = (near**2).sum(axis=-1)[..., None] - 2 * near @ lamp.T + (lamp**2).sum(axis=-1)
    facing = normals @ lamp.T - (near * normals).sum(axis=-1)[..., None]
    facing = np.maximum(facing, 0) / np.sqrt(np.maximum(square, 0.01))
    return np.asarray(((0.1 + 0.9 * facing) * 14 / (np.maximum(square, 0) + 3)).sum(axis=-1), np.float32)


def sunny(surfaces: Surfaces, light: Light, points: Floats, focus: Doubles) -> Floats:
    """(H, W) 1 where the sun reaches the (H, W, 3) points and 0 in shadow, within 55 m of the (3,) focus; 1 beyond.

    The city is drawn once as the sun sees it; a point with something nearer to the sun is in shadow.
    """
    east = np.cross(np.eye(3)[1 if light.sun[2] > 0.99 else 2], light.sun)
    east /= np.linalg.norm(east)
    frame = np.array([east, np.cross(light.sun, east), light.sun])
    heights = _shadow_map(surfaces, frame, focus)
    to_texels = np.diag([_TEXELS_PER_M, _TEXELS_PER_M, 1.0]) @ frame
    shift = np.array([_SIDE / 2, _SIDE / 2, 0.05]) - to_texels @ focus
    seen = cv2.transform(points, np.column_stack([to_texels, shift]))
    nearest = cv2.remap(
        heights, seen[..., 0], seen[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(_LOW,)
    )
    return (nearest < seen[..., 2]).astype(np.float32)


def _shadow_map(surfaces: Surfaces, frame: Doubles, focus: Doubles) -> Floats:
    """(_SIDE, _SIDE) height towards the sun, over the focus, of what the sun sees."""
    heights = np.full((_SIDE, _SIDE), _LOW, np.float32)
    casts = (surfaces.shade > 0) & (surfaces.both_sides | (surfaces.normal @ frame[2] > 0))
    casts &= (surfaces.shade == 1) | (np.arange(len(surfaces)) % 2 == 0)  # half the leaves cast shade enough
    corners = (surfaces.corners[casts] - focus) @ frame.T
    middle = corners.mean(axis=1, keepdims=True)
    corners = middle + surfaces.shade[casts, None, None] * (corners - middle)
    texels = corners[..., :2] * _TEXELS_PER_M + _SIDE / 2
    edges = texels[:, 1:3] - texels[:, :1]
    wide = ((texels.max(axis=1) > 0) & (texels.min(axis=1) < _SIDE)).all(axis=1) & (np.abs(np.linalg.det(edges)) > 4)
    rises = corners[wide, 1:3, 2] - corners[wide, :1, 2]
    slopes = np.linalg.solve(edges[wide], rises[..., None])[..., 0]
    levels = corners[wide, 0, 2] - (slopes * texels[wide, 0]).sum(axis=1)
    outlines = outline(texels[wide], (_SIDE, _SIDE))
    for box, polygon, plane in zip(outlines.boxes, outlines.polygons, np.column_stack([slopes, levels]), strict=True):
        mask, drawn = fill_nearest(heights, box, polygon, plane)
        left, top, right, bottom = box.tolist()
        cv2.copyTo(drawn, mask, heights[top:bottom, left:right])
    return heights


@lru_cache(maxsize=1)
def _clouds() -> Floats:
    """(1024, 1024) thickness of a layer of clouds, about normal."""
    rng = np.random.default_rng(23)
    total = np.zeros((1024, 1024), np.float32)
    for cells, weight in ((4, 1.0), (8, 0.8), (16, 0.5), (32, 0.35), (64, 0.2), (128, 0.1)):
        lattice = rng.standard_normal((cells, cells), dtype=np.float32)
        total += weight * cv2.resize(lattice, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    return np.asarray(total / total.std(), np.float32)


def sky(light: Light, rays: Floats, seed: int) -> Floats:
    """(H, W, 3) brightness of the sky in the directions (H, W, 3) of the world; clouds lie where the seed puts them."""
    rise = np.clip(rays[..., 2] / np.sqrt((rays**2).sum(axis=-1)), 0, 1)
    shift = np.random.default_rng([seed, 3]).uniform(0, 1024, 2)
    flat = np.float32(160) / np.maximum(rays[..., 2], 0.02)  # the clouds lie in a level sheet
    x, y = ((rays[..., k] * flat + shift[k]).astype(np.float32) for k in (0, 1))
    thickness = cv2.remap(_clouds(), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    cover = np.clip((thickness + 2.4 * (light.clouds - 0.5)) * 0.7, 0, 1) * np.clip(rise * 6, 0, 1)
    white = light.horizon * 0.75 + light.sun_colour * 0.3
    height = (1 - cover) * rise**0.55
    parts = np.stack([1 - cover - height, height, cover * (1.05 - 0.25 * cover)], axis=-1)
    return np.asarray(parts @ np.array([light.horizon, light.zenith, white]), np.float32)
