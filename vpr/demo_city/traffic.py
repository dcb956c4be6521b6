"""Moving traffic before the camera: cars, vans, buses and people, until they cover a share of the image.

They are of a few looks that all streets share, and stand elsewhere in every image: what matches on them says nothing of
the place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vpr.core import ConfigError, Doubles
from vpr.demo_city.buildings import UP
from vpr.demo_city.camera import Camera
from vpr.demo_city.raster import NEAR_M
from vpr.demo_city.surfaces import Builder, Paint, Surfaces

MOST_SHARE = 0.6  # of an image; more leaves no place to recognise

_TEXELS = 40.0
_FAR_M = 140.0
_VANS, _BUSES, _PEOPLE = 4, 3, 12
_COLUMNS = 64  # of the map in which the share is counted
_TRIES = 400
_TOLERANCE = 0.06  # of the share that is wanted
_BOXES = 1.2  # of what boxes cover, against what is in them
_CLEAR_M = 2.2  # nothing comes nearer to the camera


@dataclass(frozen=True, eq=False)
class Mover:
    """One thing that moves, at the origin with its front to the north."""

    surfaces: Surfaces
    size_m: tuple[float, float, float]  # width, length, height


def require_share(share: float) -> None:
    """Raise ConfigError for a share outside of 0 to MOST_SHARE."""
    if not 0 <= share <= MOST_SHARE:
        raise ConfigError(f"traffic may cover from 0 to {MOST_SHARE:.0%} of an image, not {share:.0%}")


def movers(builder: Builder, cars: tuple[Surfaces, ...]) -> tuple[Mover, ...]:
    """Cars, vans, buses and people; their paints go to ``builder``, their surfaces do not."""
    found = [Mover(car, (1.7, 4.3, 1.5)) for car in cars]
    found += [_box(builder, "van", look, (2.0, 5.4, 2.5)) for look in range(_VANS)]
    found += [_box(builder, "bus", look, (2.5, 10.8, 3.1)) for look in range(_BUSES)]
    found += [_person(builder, look) for look in range(_PEOPLE)]
    return tuple(found)


def moving(city_seed: int, seed: int, models: tuple[Mover, ...], camera: Camera, share: float) -> list[Surfaces]:
    """What moves before a camera: placed at random until it covers about a share of the image.

    Drawn from both seeds. Raises ConfigError for a share outside of 0 to MOST_SHARE.
    """
    require_share(share)
    width, height = camera.size
    share *= _BOXES
    covered = np.zeros((max(1, round(_COLUMNS * height / width)), _COLUMNS), np.uint8)
    taken: list[tuple[Doubles, float]] = []
    placed = []
    for model, where, heading in _candidates(np.random.default_rng([city_seed, seed, 9]), models, camera):
        if covered.mean() >= share - _TOLERANCE / 2:
            break
        reach = max(model.size_m[:2]) / 2
        if any(np.linalg.norm(where - other) < 0.5 * (reach + of_other) for other, of_other in taken):
            continue
        turn = np.array([[np.cos(heading), np.sin(heading), 0], [-np.sin(heading), np.cos(heading), 0], [0, 0, 1]])
        with_it = covered | _outline(model.size_m, turn, where, camera, covered.shape)
        if with_it.mean() > share + _TOLERANCE or with_it.mean() == covered.mean():
            continue
        covered = with_it
        taken.append((where, reach))
        placed.append(model.surfaces.moved(turn, np.append(where, 0.0)))
    return placed


def _candidates(
    rng: np.random.Generator, models: tuple[Mover, ...], camera: Camera
) -> Iterator[tuple[Mover, Doubles, float]]:
    """Models with (2,) east, north and a heading: within the camera's view, most of them along its direction."""
    ahead = camera.rotation[2, :2] / np.linalg.norm(camera.rotation[2, :2])
    aside = np.array([ahead[1], -ahead[0]])
    along = np.arctan2(ahead[0], ahead[1])
    for _ in range(_TRIES):
        model = models[int(rng.integers(len(models)))]
        away = _CLEAR_M + max(model.size_m[:2]) / 2 + rng.uniform(0, 1) ** 1.5 * 16
        across = rng.uniform(-0.75, 0.75) * away
        turned = rng.choice([0, 0, np.pi, np.pi, np.pi / 2, -np.pi / 2]) + rng.normal(0, 0.08)
        yield model, camera.centre[:2] + away * ahead + across * aside, float(along + turned)


def _outline(
    size_m: tuple[float, float, float], turn: Doubles, where: Doubles, camera: Camera, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """(h, w) uint8, 1 where the box around a model is seen; nothing of one that reaches behind the camera."""
    east, north, up = (np.array([-0.5, 0.5]) * side for side in size_m)
    corners = np.array([[x, y, z] for x in east for y in north for z in up + size_m[2] / 2])
    pixels, depth = camera.project(corners @ turn.T + np.append(where, 0.0))
    covered = np.zeros(shape, np.uint8)
    if depth.min() > NEAR_M:
        hull = cv2.convexHull(np.rint(pixels * (_COLUMNS / camera.size[0])).astype(np.int32))
        cv2.fillConvexPoly(covered, hull, 1)
    return covered


def _box(builder: Builder, kind: str, look: int, size_m: tuple[float, float, float]) -> Mover:
    """Four upright sides and a roof, a little above the road, and the shade below."""
    model = Builder(paints=builder.paints)
    wide, long, high = size_m
    top, low = high, 0.25
    east, north = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    sides = (
        (f"{kind}_side", north, long, wide / 2 * east - long / 2 * north),
        (f"{kind}_side", -north, long, -wide / 2 * east + long / 2 * north),
        (f"{kind}_end", -east, wide, long / 2 * north + wide / 2 * east),
        (f"{kind}_end", east, wide, -long / 2 * north - wide / 2 * east),
    )
    for side, across, length, corner in sides:
        paint = Paint(side, look, (length, high - low), _TEXELS)
        model.panel(corner + top * UP, across, -UP, paint, reach=_FAR_M)
    roof = Paint(f"{kind}_top", look, (wide, long), 20.0)
    model.panel(np.array([-wide / 2, long / 2, top]), east, -north, roof, reach=_FAR_M)
    shade = Paint("under_car", 0, (wide + 0.2, long + 0.2), 20.0, cutout=True)
    model.panel(np.array([-wide / 2 - 0.1, long / 2 + 0.1, 0.02]), east, -north, shade, reach=_FAR_M)
    return Mover(model.finish(), size_m)


def _person(builder: Builder, look: int) -> Mover:
    """Two crossed cards, so that a person is seen from all sides."""
    model = Builder(paints=builder.paints)
    wide, high = 0.62, 1.76
    paint = Paint("person", look, (wide, high), 80.0, cutout=True)
    for angle in (0.0, np.pi / 2):
        across = np.array([np.cos(angle), np.sin(angle), 0.0])
        model.panel(high * UP - wide / 2 * across, across, -UP, paint, reach=_FAR_M, both_sides=True)
    return Mover(model.finish(), (wide, wide, high))
