"""An image of the city with its depth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from vpr.core import Floats, Image
from vpr.demo_city import shading
from vpr.demo_city.camera import Camera
from vpr.demo_city.labels import labels_of
from vpr.demo_city.layout import City
from vpr.demo_city.light import Light
from vpr.demo_city.raster import NO_SURFACE, Owners, Raster, inverse_depth_planes, rasterise
from vpr.demo_city.surfaces import Surfaces, join
from vpr.demo_city.traffic import moving

_SIGHT_M = 190.0  # nothing is drawn beyond
_FOCUS_M = 35.0  # ahead of the camera is the middle of the shadow map
_SHADOW_GAP_M = 0.25
_LAMPS_IN_SIGHT_M = 55.0
_SKY_STEP = 3  # the sky is smooth: one ray for this many pixels each way
_HAZE_ONLY_M = 1e4
_FARTHEST = 1e-4  # inverse depth, per metre
_WARM = np.array([1.0, 0.78, 0.48], np.float32)


@dataclass(frozen=True, eq=False)
class Rendering:
    """Image, depth and labels of a camera."""

    image: Image  # (H, W, 3) RGB
    depth: Floats  # (H, W) metres along the optical axis at the centre of each pixel; infinite for sky
    labels: Image  # (H, W) uint8, the Cityscapes id of what each pixel shows


def render(
    city: City, camera: Camera, light: Light, seed: int, traffic: int | None, *, traffic_share: float = 0.0
) -> Rendering:
    """An image from the camera. ``seed`` draws the clouds and the noise, ``traffic`` the parked cars (None: no cars).

    With ``traffic_share`` moving vehicles and people, drawn from ``seed``, cover about this share of the image.
    The image is drawn at twice its size and reduced; depth and label are those of one surface per pixel, never a mean.
    """
    scene = _in_sight(city, camera, traffic)
    if traffic_share:
        scene = join([scene, *moving(city.seed, seed, city.movers, camera, traffic_share)])
    fine = _finer(camera)
    raster = rasterise(scene, city.paints, fine)
    owner = raster.owner[::2, ::2]
    depth = _depth(scene, fine, owner)
    gain = _gain(city, scene, camera, light, owner=owner, depth=depth)
    clear = np.exp(-light.haze_per_m * np.minimum(depth, _HAZE_ONLY_M))
    sky = shading.sky(light, _rays(camera, _SKY_STEP), seed)
    radiance = _radiance(raster, gain, light, clear, sky)
    return Rendering(_develop(radiance, light, seed), depth, labels_of(owner, scene, city.paints))


def _in_sight(city: City, camera: Camera, traffic: int | None) -> Surfaces:
    away = city.surfaces.anchor[:, :2] - camera.centre[:2]
    near = city.surfaces.take(np.flatnonzero((away**2).sum(axis=1) < _SIGHT_M**2))
    return near if traffic is None else join([near, *_parked(city, camera, traffic)])


def _parked(city: City, camera: Camera, traffic: int) -> list[Surfaces]:
    """The cars in sight; about half of the parking spots are taken, and not in the same way on another day."""
    draw = np.random.default_rng([city.seed, traffic, 2]).random((len(city.parking), 4))
    away = ((city.parking[:, :2] - camera.centre[:2]) ** 2).sum(axis=1)
    cars = []
    for spot in np.flatnonzero((draw[:, 0] < 0.5) & (away < 120.0**2)):
        east, north, heading = city.parking[spot] + [0, 0, 0.06 * (draw[spot, 1] - 0.5)]
        turn = np.array([[np.cos(heading), np.sin(heading), 0], [-np.sin(heading), np.cos(heading), 0], [0, 0, 1]])
        slip = draw[spot, 2] - 0.5
        shift = np.array([east + slip * np.sin(heading), north + slip * np.cos(heading), 0.0])
        cars.append(city.cars[int(draw[spot, 3] * len(city.cars))].moved(turn, shift))
    return cars


def _finer(camera: Camera) -> Camera:
    """The same camera with twice as many pixels each way; pixel x becomes 2 x + 0.5."""
    matrix = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]]) @ camera.matrix
    return replace(camera, matrix=matrix, size=(2 * camera.size[0], 2 * camera.size[1]))


def _depth(scene: Surfaces, fine: Camera, owner: Owners) -> Floats:
    """(H, W) depth of the plane that owns each pixel, at the pixel's very centre."""
    planes = np.vstack([inverse_depth_planes(scene, fine), np.zeros(3)])  # NO_SURFACE is the last row
    a, b, c = planes.T[:, owner]
    height, width = owner.shape
    inverse = a * (2 * np.arange(width) + 0.5) + b * (2 * np.arange(height) + 0.5)[:, None] + c
    # On the rim of a surface seen edge-on the pixel's centre may lie beyond the plane's horizon.
    far = np.full(owner.shape, np.inf)
    return np.asarray(np.divide(1.0, inverse, out=far, where=inverse > _FARTHEST), np.float32)


def _gain(city: City, scene: Surfaces, camera: Camera, light: Light, *, owner: Owners, depth: Floats) -> Floats:
    """(H, W, 3) light on each pixel's surface; for sky that of the surfaces beside it, for pixels that hold both."""
    solid = np.isfinite(depth)
    points = _rays(camera) * np.where(solid, depth, 1)[..., None] + camera.centre.astype(np.float32)
    normals = scene.normal.astype(np.float32)[owner]
    sunny = np.zeros(owner.shape, np.float32)
    if light.sun_colour.any():
        focus = camera.centre + _FOCUS_M * camera.rotation[2] * [1, 1, 0]
        before = points + np.float32(_SHADOW_GAP_M) * normals  # so that no surface shades itself
        sunny = np.asarray(cv2.blur(shading.sunny(scene, light, before, focus), (3, 3)), np.float32)
    near = ((city.lamps - camera.centre) ** 2).sum(axis=1) < _LAMPS_IN_SIGHT_M**2
    gain = shading.light_on(light, points, normals, sunny, city.lamps[near]) * solid[..., None]
    share = cv2.blur(solid.astype(np.float32), (3, 3))[..., None]
    return np.where(solid[..., None], gain, np.asarray(cv2.blur(gain, (3, 3)), np.float32) / np.maximum(share, 0.1))


def _rays(camera: Camera, step: int = 1) -> Floats:
    """(H, W, 3) world directions of every ``step``-th pixel, with unit length along the optical axis."""
    width, height = camera.size
    across, down, ahead = np.linalg.inv(camera.matrix).T @ camera.rotation
    x, y = np.arange(0.0, width, step), np.arange(0.0, height, step)
    rays = x[:, None] * across + (y[:, None] * down + ahead)[:, None]
    return np.asarray(rays, np.float32)


def _radiance(raster: Raster, gain: Floats, light: Light, clear: Floats, sky: Floats) -> Floats:
    """(H, W, 3) light that reaches the camera, mixed from four finer pixels each.

    ``gain`` (H, W, 3) is one for the four, so they are mixed as painted (sky is zero) and then lit. ``clear`` (H, W) is
    what the haze lets through; ``sky`` may have fewer pixels.
    """
    size = (gain.shape[1], gain.shape[0])
    value = np.arange(256) / 255
    linear = np.stack([value**2, value**2, value**2, value], axis=-1)[None].astype(np.float32)
    painted = cv2.LUT(raster.colour, linear)
    total = cv2.resize(painted, size, interpolation=cv2.INTER_AREA)[..., :3] * gain * clear[..., None]
    if light.windows:
        glow = painted[..., 3:] * (0.25 + painted[..., :3])
        total += cv2.resize(glow, size, interpolation=cv2.INTER_AREA) * (light.windows * _WARM)
    empty = cv2.resize((raster.owner == NO_SURFACE).astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]
    total += (1 - empty) * (1 - clear[..., None]) * light.horizon.astype(np.float32)
    return np.asarray(total + empty * cv2.resize(sky, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _develop(radiance: Floats, light: Light, seed: int) -> Image:
    """Exposure to the light's level, vignetting, a soft shoulder for what is too bright, gamma 2 and noise."""
    height, width = radiance.shape[:2]
    rng = np.random.default_rng([seed, 4])
    exposure = light.level / max(float(np.sqrt(radiance).mean()) ** 2, 1e-6)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    value = radiance * (exposure * (1 - 0.16 * (x**2 + y**2))).astype(np.float32)[..., None]
    value *= (1 + value / 4) / (1 + value)
    value = 255 * np.sqrt(np.minimum(value, 1))
    value += np.float32(light.noise) * rng.standard_normal((height, width, 1), dtype=np.float32)
    blotches = rng.standard_normal((-(-height // 2), -(-width // 2), 3), dtype=np.float32)
    value += np.float32(light.noise) * cv2.resize(blotches, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(np.rint(value), 0, 255), np.uint8)
