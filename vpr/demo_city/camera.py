"""Pinhole cameras, and the way from a pixel of one image to the same point in another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import ConfigError, DataError, Doubles, Floats

FIELD_OF_VIEW_DEG = 70.0  # horizontal, of every camera of the demo city


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera without distortion; x to the right, y down, z forward."""

    matrix: Doubles  # (3, 3) intrinsics, pixels; the centre of the top-left pixel is (0, 0)
    world_to_camera: Doubles  # (4, 4) rigid, metres; the world is east, north, up from the city's origin
    size: tuple[int, int]  # width, height in pixels

    def __post_init__(self) -> None:
        if self.matrix.shape != (3, 3) or self.world_to_camera.shape != (4, 4):
            raise DataError(
                f"a camera needs a (3, 3) matrix and a (4, 4) pose, "
                f"not {self.matrix.shape} and {self.world_to_camera.shape}"
            )

    @property
    def rotation(self) -> Doubles:
        return self.world_to_camera[:3, :3]

    @property
    def centre(self) -> Doubles:
        """(3,) where the camera stands in the world."""
        return np.asarray(-self.rotation.T @ self.world_to_camera[:3, 3], np.float64)

    def project(self, points: Doubles) -> tuple[Doubles, Doubles]:
        """(N, 3) world points to (N, 2) pixels and (N,) depth along the optical axis in metres.

        A point that is not before the camera has a depth of at most zero and not-a-number pixels.
        """
        seen = points @ self.rotation.T + self.world_to_camera[:3, 3]
        depth = seen[:, 2]
        before = np.where(depth > 0, depth, np.nan)[:, None]
        pixels = seen / before @ self.matrix.T
        return pixels[:, :2], depth

    def unproject(self, pixels: Doubles, depth: Doubles) -> Doubles:
        """(N, 2) pixels and (N,) finite depth in metres to (N, 3) world points; undoes ``project``."""
        rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(self.matrix).T
        points = rays * depth[:, None] - self.world_to_camera[:3, 3]
        return np.asarray(points @ self.rotation, np.float64)


def street_camera(
    position: Doubles, heading_deg: float, pitch_deg: float, roll_deg: float, size: tuple[int, int]
) -> Camera:
    """A camera at (3,) east, north, up; heading clockwise from north, pitch up, roll clockwise as it looks."""
    heading, pitch, roll = np.deg2rad([heading_deg, pitch_deg, roll_deg])
    forward = np.array([np.sin(heading) * np.cos(pitch), np.cos(heading) * np.cos(pitch), np.sin(pitch)])
    level = np.array([np.cos(heading), -np.sin(heading), 0.0])
    upright = np.cross(forward, level)  # points down
    right = np.cos(roll) * level + np.sin(roll) * upright
    pose = np.eye(4)
    pose[:3, :3] = [right, np.cross(forward, right), forward]
    pose[:3, 3] = -pose[:3, :3] @ position
    return Camera(intrinsics(size), pose, size)


def intrinsics(size: tuple[int, int]) -> Doubles:
    """(3, 3) matrix of square pixels, the principal point in the middle. Raises ConfigError for an empty image."""
    width, height = size
    if min(size) < 1:
        raise ConfigError(f"an image needs at least 1 x 1 pixels, not {width} x {height}")
    focal = width / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW_DEG) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def reproject(pixels: Doubles, depth: Doubles, source: Camera, target: Camera) -> tuple[Doubles, Doubles]:
    """Where (N, 2) pixels of one camera with (N,) finite depth fall in another: (N, 2) pixels and (N,) depth there."""
    return target.project(source.unproject(pixels, depth))


def visible(pixels: Doubles, expected_depth: Doubles, depth: Floats, tolerance: float = 0.02) -> NDArray[np.bool_]:
    """(N,) whether points expected at these pixels and depths are what the image with that (H, W) depth shows.

    The expected depth must lie between the least and the greatest of the four pixels around, give or take a
    fraction ``tolerance``: so a slanted road passes, and what is hidden behind a car or outside the image fails.
    """
    height, width = depth.shape
    inside = (expected_depth > 0) & ((pixels >= 0) & (pixels <= [width - 1, height - 1])).all(axis=1)
    places = np.where(inside[:, None], pixels, 0)
    (left, top), (right, bottom) = np.floor(places).astype(np.int64).T, np.ceil(places).astype(np.int64).T
    around = np.stack([depth[top, left], depth[top, right], depth[bottom, left], depth[bottom, right]])
    near = around.min(axis=0) * (1 - tolerance)
    far = np.where(np.isfinite(around), around, 0).max(axis=0) * (1 + tolerance)  # sky hides nothing behind it
    return np.asarray(inside & (near <= expected_depth) & (expected_depth <= far), np.bool_)
