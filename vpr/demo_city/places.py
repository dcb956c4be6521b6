"""Places of the demo city, each seen from near positions at many hours and in all weathers: images to learn from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vpr.config import fingerprint
from vpr.core import ConfigError, Origin
from vpr.demo_city.camera import street_camera
from vpr.demo_city.layout import ORIGIN, City, build_city
from vpr.demo_city.shots import Shot
from vpr.demo_city.streets import Street
from vpr.demo_city.write import CityFolder, render_all
from vpr.runtime.files import claim, write_atomically

MANIFEST = "manifest.csv"  # written last: without it the folder is not complete

_RECIPE = 1  # counts changes of what is drawn
MADE_BY = "made_by.json"
_SPACING_M = 35.0  # at least, between the places of a street
_TURNS_DEG = (0.0, -80.0, 180.0, 80.0)  # against the direction of the street; each is a place of its own
_LIGHTS = ("day", "night", "overcast", "dusk")


def write_places(
    out: Path, places: int, views: int, *, seed: int = 0, size: tuple[int, int] = (320, 240), workers: int = 1
) -> Path:
    """Render ``views`` images of each place into a folder and list them; returns the list, ``image,place,light``.

    The images depend on the arguments but not on ``workers``. A run that was killed is taken up where it stopped.
    Raises DataError if the folder holds anything else.
    """
    if min(places, views) < 1:
        raise ConfigError(f"{places} places with {views} views each: both must be at least 1")
    settings = {"recipe": _RECIPE, "places": places, "views": views, "seed": seed, "size": list(size)}
    claim(
        out,
        MADE_BY,
        asdict(Origin("places of the demo city", fingerprint(settings), settings=settings)) | {"images": ""},
    )
    (out / "database").mkdir(exist_ok=True)
    city = city_of(places, seed)
    shots = [
        shot for place, spot in enumerate(spots_of(city, places)) for shot in views_of(city, spot, place, views, size)
    ]
    missing = [shot for shot in shots if not (out / shot.role / shot.name).exists()]
    render_all(city, missing, CityFolder(out), workers)
    write_atomically(out / MANIFEST, _table(seed, shots))
    return out / MANIFEST


def city_of(places: int, seed: int) -> City:
    """The smallest city, of those twice as large each, that has this many places."""
    size = 8
    while True:
        city = build_city(size, seed)
        if sum(1 for _ in _all_spots(city)) >= places:
            return city
        size *= 2


def _all_spots(city: City) -> Iterator[tuple[Street, float, float]]:
    """Street, metres along it, and direction of every place."""
    for street in city.plan.streets:
        count = max(1, int(street.length_m / _SPACING_M))
        for along_m in (np.arange(count) + 0.5) * street.length_m / count:
            for turn in _TURNS_DEG:
                yield street, float(along_m), turn


def spots_of(city: City, places: int) -> list[tuple[Street, float, float]]:
    """As many places, drawn from all of the city's."""
    spots = list(_all_spots(city))
    chosen = np.random.default_rng([city.seed, 7]).permutation(len(spots))[:places]
    return [spots[row] for row in np.sort(chosen)]


def views_of(
    city: City, spot: tuple[Street, float, float], place: int, views: int, size: tuple[int, int]
) -> Iterator[Shot]:
    """Images from within 4 m along the street and across both lanes, each on a day of its own."""
    street, along_m, turn = spot
    for view in range(views):
        rng = np.random.default_rng([city.seed, 8, place, view])
        where = street.at(along_m + rng.uniform(-4, 4), rng.uniform(-2.7, 2.7))
        angles = (street.heading_deg + turn + rng.uniform(-12, 12), 4 + rng.uniform(-4, 4), rng.uniform(-3, 3))
        camera = street_camera(np.append(where, rng.uniform(1.4, 2.4)), *angles, size)
        light, day = _LIGHTS[(place + view) % len(_LIGHTS)], int(rng.integers(1 << 30))
        name = f"{place:05d}_{view:02d}_{light}.jpg"
        position = where + ORIGIN
        yield Shot(name, "database", place, camera, position, light, light_seed=day, traffic=day, seed=day)


def _table(seed: int, shots: list[Shot]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "place", "light"])
    for shot in shots:
        table.writerow([f"{shot.role}/{shot.name}", f"{seed}-{shot.place}", shot.light])
    return text.getvalue()
