"""Which surface each pixel shows, and that surface's texture there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles, Floats, Image, Rows
from vpr.demo_city.camera import Camera
from vpr.demo_city.surfaces import Paint, Surfaces
from vpr.demo_city.textures import texture

NEAR_M = 0.15  # nothing nearer is drawn
NO_SURFACE = -1
_EDGE_ON_M = 1e-6  # a plane that passes the camera so closely is not seen
_SUBPIXEL_BITS = 4

Owners = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Raster:
    """Visible surfaces of a camera, before lighting."""

    colour: Image  # (H, W, 4) RGB as painted, and how much it glows at night; zeros for sky
    owner: Owners  # (H, W) row of the surface that is seen, NO_SURFACE for sky
    inverse_depth: Floats  # (H, W) 1 / metres along the optical axis, 0 for sky


@dataclass(frozen=True, eq=False)
class Outlines:
    """M flat convex outlines ready to be filled into an image."""

    boxes: NDArray[np.int64]  # (M, 4) left, top, right, bottom within the image; empty ones are possible
    polygons: NDArray[np.int32]  # (M, P, 2) from the box's corner, in sixteenths of a pixel


def rasterise(surfaces: Surfaces, paints: tuple[Paint, ...], camera: Camera) -> Raster:
    """Draw every surface that the camera may see, the nearest first, so that hidden ones cost no texture."""
    width, height = camera.size
    out = Raster(
        np.zeros((height, width, 4), np.uint8),
        np.full((height, width), NO_SURFACE, np.int32),
        np.zeros((height, width), np.float32),
    )
    rows, corners = _in_view(surfaces, camera)
    clipped = _clip_near(corners)
    pixels = (clipped @ camera.matrix.T)[..., :2] / clipped[..., 2:]
    outlines = outline(pixels, camera.size)
    planes = inverse_depth_planes(surfaces, camera)[rows]
    nearest = 1 / clipped[..., 2].min(axis=1)
    to_metres = _to_metres(surfaces.take(rows), camera)
    speeds = _speeds(to_metres, pixels.mean(axis=1))
    for k, row in enumerate(rows):
        left, top, right, bottom = outlines.boxes[k].tolist()
        if left >= right or top >= bottom or out.inverse_depth[top:bottom, left:right].min() >= nearest[k]:
            continue  # outside, or hidden by what is nearer: three of four surfaces end here
        mask, inverse = fill_nearest(out.inverse_depth, outlines.boxes[k], outlines.polygons[k], planes[k])
        x, y, wide, tall = cv2.boundingRect(mask)
        if wide == 0:
            continue
        part, area = _part(x, y, wide, tall), _part(left + x, top + y, wide, tall)
        paint = paints[surfaces.paint[row]]
        patch = _warp(paint, to_metres[k], speeds[k], (left + x, top + y), (wide, tall))
        mask = mask[part]
        if paint.cutout:
            mask[patch[..., 3] < 128] = 0
            patch[..., 3] = 0
        cv2.copyTo(patch, mask, out.colour[area])
        cv2.copyTo(inverse[part], mask, out.inverse_depth[area])
        np.copyto(out.owner[area], row, where=mask != 0)
    return out


def _part(left: int, top: int, width: int, height: int) -> tuple[slice, slice]:
    return slice(top, top + height), slice(left, left + width)


def inverse_depth_planes(surfaces: Surfaces, camera: Camera) -> Doubles:
    """(N, 3) a, b, c with 1 / depth = a x + b y + c at pixel x, y of each surface's plane.

    A plane through the camera's centre has no depth; its numbers are not finite, and no pixel shows it.
    """
    facing = np.cross(surfaces.down, surfaces.across) @ camera.rotation.T
    anchor = surfaces.anchor @ camera.rotation.T + camera.world_to_camera[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        planes = facing / (facing * anchor).sum(axis=1, keepdims=True)
        return np.asarray(planes @ np.linalg.inv(camera.matrix), np.float64)


def outline(pixels: Doubles, size: tuple[int, int]) -> Outlines:
    """Prepare (M, P, 2) convex polygons for an image of that width and height."""
    low = np.maximum(np.floor(pixels.min(axis=1)), 0).astype(np.int64)
    high = np.minimum(np.ceil(pixels.max(axis=1)) + 1, size).astype(np.int64)
    polygons = np.rint((pixels - low[:, None]) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    return Outlines(np.hstack([low, high]), polygons)


def fill_nearest(
    nearness: Floats, box: NDArray[np.int64], polygon: NDArray[np.int32], plane: Doubles
) -> tuple[Image, Floats]:
    """Where an outline is nearer than what was drawn: a mask of its box, 255 or 0, and a x + b y + c over the box."""
    left, top, right, bottom = box.tolist()
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillConvexPoly(mask, polygon, 255, shift=_SUBPIXEL_BITS)
    a, b, c = plane.tolist()
    columns, rows = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)
    value = (b * rows + c)[:, None] + a * columns
    mask &= cv2.compare(value, nearness[top:bottom, left:right], cv2.CMP_GT)
    return mask, value


def _in_view(surfaces: Surfaces, camera: Camera) -> tuple[Rows, Doubles]:
    """Rows of the surfaces that are near enough, face the camera and touch its pyramid of view; nearest first.

    Also their (M, 4, 3) corners in the camera's frame.
    """
    to_camera = camera.centre - surfaces.anchor
    facing = (np.cross(surfaces.down, surfaces.across) * to_camera).sum(axis=1)
    seen = (facing > _EDGE_ON_M) | (surfaces.both_sides & (facing < -_EDGE_ON_M))
    seen &= ((surfaces.corners.mean(axis=1) - camera.centre) ** 2).sum(axis=1) < surfaces.reach**2
    rows = np.flatnonzero(seen)
    corners = surfaces.corners[rows] @ camera.rotation.T + camera.world_to_camera[:3, 3]
    x, y, z = corners[..., 0], corners[..., 1], corners[..., 2]
    wide, tall = (camera.size[0] / 2 + 1) / camera.matrix[0, 0], (camera.size[1] / 2 + 1) / camera.matrix[1, 1]
    outside = [z < NEAR_M, x > wide * z, x < -wide * z, y > tall * z, y < -tall * z]
    inside = ~np.any([beyond.all(axis=1) for beyond in outside], axis=0)
    order = np.argsort(z[inside].min(axis=1), kind="stable")
    return rows[inside][order], corners[inside][order]


def _clip_near(corners: Doubles) -> Doubles:
    """(M, 4, 3) quadrilaterals to (M, 5, 3) outlines of their parts at least NEAR_M before the camera.

    Where fewer than five corners are needed the last is repeated.
    """
    clipped = np.concatenate([corners, corners[:, -1:]], axis=1)
    for k in np.flatnonzero(corners[..., 2].min(axis=1) < NEAR_M):
        points = []
        for here, there in zip(corners[k], np.roll(corners[k], -1, axis=0), strict=True):
            if here[2] >= NEAR_M:
                points.append(here)
            if (here[2] >= NEAR_M) != (there[2] >= NEAR_M):
                points.append(here + (NEAR_M - here[2]) / (there[2] - here[2]) * (there - here))
        clipped[k] = points + [points[-1]] * (5 - len(points))
    return clipped


def _to_metres(surfaces: Surfaces, camera: Camera) -> Doubles:
    """(N, 3, 3) from pixels to homogeneous metres on each surface: across, down, 1."""
    seen = camera.rotation @ np.stack([surfaces.across, surfaces.down, surfaces.anchor], axis=-1)
    seen[..., 2] += camera.world_to_camera[:3, 3]
    return np.asarray(np.linalg.inv(camera.matrix @ seen), np.float64)


def _speeds(to_metres: Doubles, pixels: Doubles) -> Doubles:
    """(N, 2) metres across and down each surface that one pixel spans at the (N, 2) pixels."""
    u, v, w = np.moveaxis(to_metres @ np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)[..., None], 1, 0)
    place = np.stack([u / w, v / w], axis=1)
    slopes = (to_metres[:, :2, :2] - place * to_metres[:, 2:, :2]) / w[..., None]
    return np.asarray(np.abs(slopes).max(axis=2), np.float64)


def _warp(paint: Paint, to_metres: Doubles, speed: Doubles, corner: tuple[int, int], size: tuple[int, int]) -> Image:
    """The texture as it appears in an area of the image, from the level that has about one texel per pixel."""
    painted = texture(paint)
    across, down = np.rint(np.log2(np.maximum(speed * paint.texels_per_m, 1))).astype(int)
    level = painted.level(min(across, painted.most[0]), min(down, painted.most[1]))
    scale = np.array([[level.shape[1] / paint.size_m[0]], [level.shape[0] / paint.size_m[1]], [1.0]])
    to_texels = scale * to_metres
    to_texels[:2] -= 0.5 * to_texels[2]
    to_texels[:, 2] += to_texels[:, 0] * corner[0] + to_texels[:, 1] * corner[1]
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(level, to_texels, size, flags=how, borderMode=cv2.BORDER_REPLICATE), np.uint8)
