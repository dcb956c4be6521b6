"""Which images are taken: a drive for the database, and queries by other people on other days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from vpr.core import Doubles
from vpr.demo_city.camera import Camera, street_camera
from vpr.demo_city.layout import ORIGIN, PLACE_M, ZONE, City
from vpr.demo_city.streets import LANE_M, Street

Role = Literal["database", "queries"]

SPACING_M = PLACE_M / 2  # between the positions of the drive
HEADINGS_DEG = (0.0, -80.0)  # of the two images at each position, against the direction of the drive
QUERIES_PER_PLACE = 4 / 3
RADIUS_M = 25.0  # a query's positives lie within it
_LOST = 10  # one query in this many is taken where the drive never was
_CLEAR_OF_CARS_M = 2.7  # to the right of the middle line
_LIGHTS = ("day", "overcast", "day", "dusk", "night")


@dataclass(frozen=True, eq=False)
class Shot:
    """One image to take."""

    name: str  # file name, which holds the position, the zone and the heading
    role: Role
    place: int  # the ten metres of the drive that it belongs to, or -1 in a street that is not driven
    camera: Camera
    position: Doubles  # (2,) UTM east and north, metres
    light: str  # a key of light.LIGHTS
    light_seed: int
    traffic: int  # which cars are parked where
    seed: int  # of clouds and noise
    traffic_share: float = 0.0  # of the image, that moving vehicles and people cover


def plan_shots(city: City, size: tuple[int, int] = (480, 360)) -> list[Shot]:
    """The database in the order of the drive, then the queries: four and four thirds for each place.

    The database is one drive on one sunny day. Queries stand one to three metres beside its line, look a little
    aside, and come in every light; one in ten is in a street the drive left out and has no database image within 25 m.
    """
    spots = _drive(city)
    database = [_drive_shot(spot, k, turn, size) for k, spot in enumerate(spots) for turn in range(len(HEADINGS_DEG))]
    hidden = _far_spots(city, cKDTree(np.array([shot.position for shot in database])))
    queries = [
        _lost_query(city, hidden, k, size) if k % _LOST == _LOST - 1 else _query(city, spots, k, size)
        for k in range(_query_count(city))
    ]
    return database + queries


def _query_count(city: City) -> int:
    return int(np.ceil(city.places * QUERIES_PER_PLACE))


def _drive_shot(spot: tuple[Street, float], k: int, turn: int, size: tuple[int, int]) -> Shot:
    """One of the images at the k-th spot of the drive, all of one day."""
    street, along_m = spot
    angles = (street.heading_deg + HEADINGS_DEG[turn], 4.0, 0.0)
    name, camera, position = _picture(street.at(along_m, LANE_M), 2.2, angles, "day", size)
    seed = 1_000_000 + len(HEADINGS_DEG) * k + turn
    return Shot(name, "database", k // 2, camera, position, "day", light_seed=0, traffic=0, seed=seed)


def _drive(city: City) -> list[tuple[Street, float]]:
    """Two spots per place, each a street of the drive and metres along it."""
    spots = [
        (street, float(along_m))
        for street in city.plan.driven
        for along_m in np.arange(SPACING_M / 2, street.length_m, SPACING_M)
    ]
    return spots[: 2 * city.places]


def _far_spots(city: City, taken: cKDTree) -> list[tuple[Street, float]]:
    """Where a query has no positive: metres along the streets that are not driven, well outside the radius."""
    spots = [(street, float(m)) for street in city.plan.side_streets for m in np.arange(0, street.length_m, 1.0)]
    positions = np.array([street.at(along_m, 0) for street, along_m in spots]) + ORIGIN
    away, _ = taken.query(positions)
    return [spot for spot, metres in zip(spots, away, strict=True) if metres > RADIUS_M + 3]


def _query(city: City, spots: list[tuple[Street, float]], k: int, size: tuple[int, int]) -> Shot:
    """The k-th query, somewhere beside the k-th part of the drive."""
    rng = np.random.default_rng([city.seed, 6, k])
    spot = int((k + rng.random()) / _query_count(city) * len(spots))
    street, along_m = spots[spot]
    right_m = min(LANE_M + rng.choice([-1, -1, 1]) * rng.uniform(1, 3), _CLEAR_OF_CARS_M)
    where = street.at(along_m + rng.uniform(-4, 4), right_m)
    return _handheld(rng, where, street.heading_deg, size, place=spot // 2, k=k)


def _lost_query(city: City, hidden: list[tuple[Street, float]], k: int, size: tuple[int, int]) -> Shot:
    rng = np.random.default_rng([city.seed, 6, k])
    street, along_m = hidden[int(rng.integers(len(hidden)))]
    where = street.at(along_m + rng.uniform(-0.5, 0.5), rng.uniform(-2, 2))
    return _handheld(rng, where, street.heading_deg, size, place=-1, k=k)


def _handheld(
    rng: np.random.Generator, where: Doubles, heading_deg: float, size: tuple[int, int], *, place: int, k: int
) -> Shot:
    """A query in one of the two directions, not quite straight, on a day of its own."""
    turn = rng.choice(HEADINGS_DEG) + rng.uniform(-10, 10)
    angles = (heading_deg + turn, 4 + rng.uniform(-3, 3), rng.uniform(-2.5, 2.5))
    light = _LIGHTS[(k + k // _LOST) % len(_LIGHTS)]
    name, camera, position = _picture(where, rng.uniform(1.5, 2.1), angles, light, size)
    day = 1000 + k
    return Shot(name, "queries", place, camera, position, light, light_seed=day, traffic=day, seed=day)


def _picture(
    where: Doubles, height_m: float, angles_deg: tuple[float, float, float], light: str, size: tuple[int, int]
) -> tuple[str, Camera, Doubles]:
    """Name, camera and UTM position of an image at (2,) metres from the origin with that heading, pitch and roll.

    Positions are whole centimetres, so that the name says exactly where the camera stands.
    """
    position = np.round(where + ORIGIN, 2)
    heading, pitch, roll = angles_deg[0] % 360, *angles_deg[1:]
    place = [f"{position[0]:.2f}", f"{position[1]:.2f}", str(ZONE[0]), ZONE[1], "", "", "", ""]
    view = [f"{heading:.2f}", f"{pitch:.2f}", f"{roll:.2f}", f"{height_m:.2f}", "", light]
    camera = street_camera(np.append(position - ORIGIN, height_m), heading, pitch, roll, size)
    return "@" + "@".join(place + view) + "@.jpg", camera, position
