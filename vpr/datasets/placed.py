"""Images with where, when and in which direction they were taken, as a map keeps them.

Positions come from a csv file, from file names, from EXIF, from a kapture tree or from any other reader.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vpr.core import DataError, Doubles, ImageSet, usable_name
from vpr.datasets import utm_names, zones
from vpr.datasets.exif import read_exif

logger = logging.getLogger(__name__)

Value = str | float  # of a free column
EARTH_RADIUS_M = 6_371_008.8  # mean radius
_DIGITS = re.compile(r"(\d{4})(\d{2})(\d{2})(?:[T_ -]?(\d{2})(\d{2})(\d{2})?)?")
_EXIF_TIME = re.compile(r"(\d{4}):(\d{2}):(\d{2})[ T](.*)")


@dataclass(frozen=True)
class Position:
    """A place on Earth, in degrees and in metres; or in metres of a frame that is not known to lie anywhere."""

    latitude: float | None  # degrees north, WGS 84; None where the zone is unknown
    longitude: float | None  # degrees east
    east_m: float | None  # UTM, or metres of an own frame; None beyond 80 S and 84 N
    north_m: float | None
    zone: str | None  # "33N"; None for metres of an own frame

    @property
    def degrees(self) -> tuple[float, float] | None:
        """Latitude and longitude; None where they are unknown."""
        return None if self.latitude is None or self.longitude is None else (self.latitude, self.longitude)

    @property
    def metres(self) -> tuple[float, float] | None:
        """East and north; None beyond 80 S and 84 N."""
        return None if self.east_m is None or self.north_m is None else (self.east_m, self.north_m)

    def distance_m(self, other: Position) -> float:
        """Metres to another position; NaN where the two have no common frame."""
        if self.zone == other.zone and self.metres and other.metres:
            return math.dist(self.metres, other.metres)
        if self.degrees and other.degrees:
            return float(haversine_m(np.array([self.degrees]), other.degrees)[0])
        return math.nan

    @staticmethod
    def of_degrees(latitude: float, longitude: float) -> Position:
        """The position of a latitude and a longitude; raises DataError for what is no place on Earth."""
        if not (abs(latitude) <= 90 and abs(longitude) <= 180):
            raise DataError(
                f"latitude {latitude:g}, longitude {longitude:g}: expected -90 to 90 and -180 to 180 degrees"
            )
        if not -80 <= latitude <= 84:
            return Position(latitude, longitude, None, None, None)
        zone = zones.zone_of(latitude, longitude)
        ((east, north),) = zones.to_utm(np.array([[latitude, longitude]]), zone).tolist()
        return Position(latitude, longitude, east, north, zone)

    @staticmethod
    def of_utm(east_m: float, north_m: float, zone: str | None) -> Position:
        """The position of metres in a zone, or in an own frame."""
        return of_utm(np.array([[east_m, north_m]]), [zone])[0]


@dataclass(frozen=True)
class PlacedImage:
    """One image and what is known of it besides its pixels."""

    name: str  # POSIX path relative to the folder of images
    position: Position | None = None
    heading: float | None = None  # degrees clockwise from north, in [0, 360)
    time: float | None = None  # seconds since 1970, UTC
    group: str = ""  # images of one panorama or drive share it
    columns: Mapping[str, Value] = field(default_factory=dict)  # whatever else the source says


def haversine_m(latlon: Doubles, origin: tuple[float, float]) -> Doubles:
    """(N,) metres along a sphere from (N, 2) latitudes and longitudes in degrees to one."""
    latitudes, longitudes = np.radians(latlon[:, 0]), np.radians(latlon[:, 1])
    latitude, longitude = math.radians(origin[0]), math.radians(origin[1])
    half = np.sin((latitudes - latitude) / 2) ** 2
    half += np.cos(latitudes) * math.cos(latitude) * np.sin((longitudes - longitude) / 2) ** 2
    metres: Doubles = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(half, 1.0)))
    return metres


def parse_time(value: str | float, where: str = "time") -> float:
    """Seconds since 1970 of an ISO 8601 date or time, 20240131[_235959], EXIF's form, or such seconds.

    A time without a zone is taken as UTC. Raises DataError, which begins with ``where``, for anything else.
    """
    if isinstance(value, int | float):
        if math.isfinite(value):
            return float(value)
        raise DataError(f"{where}: {value} is no time")
    text = value.strip()
    if found := _EXIF_TIME.fullmatch(text):
        text = f"{found[1]}-{found[2]}-{found[3]}T{found[4]}"
    elif found := _DIGITS.fullmatch(text):
        text = "{}-{}-{}T{}:{}:{}".format(*found.groups(default="00"))
    elif re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return float(text)
    return _seconds(where, value, lambda: datetime.fromisoformat(text))


def by_names(folder: Path, names: Sequence[str]) -> list[PlacedImage]:
    """Positions, and where they are given headings, times and panoramas, of names @utm_east@utm_north@...@.jpg.

    Raises DataError if an image has no position in its name.
    """
    placed = utm_names.parse_all(folder, names)
    if placed is None:
        raise DataError(f"{folder}: {names[0]!r} has no position @utm_east@utm_north@ in its name")
    metres = np.array([(one.east_m, one.north_m) for one in placed])
    return [
        PlacedImage(usable_name(name), position, one.heading, _time_or_none(one.time), one.panorama)
        for name, one, position in zip(names, placed, of_utm(metres, [one.zone for one in placed]), strict=True)
    ]


def by_exif(folder: Path, names: Sequence[str]) -> list[PlacedImage]:
    """Position, direction and time that cameras and phones write into EXIF; an image without them has none."""
    images, lacking = [], 0
    for name in names:
        found = read_exif(folder / name)
        position = None if found.degrees is None else Position.of_degrees(*found.degrees)
        lacking += position is None
        time = _time_or_none(found.time)
        images.append(PlacedImage(usable_name(name), position, found.heading, time))
    if lacking == len(images):
        raise DataError(f"{folder}: none of {len(images)} images has a GPS position in its EXIF data")
    if lacking:
        logger.warning("%s: %d of %d images have no GPS position in EXIF", folder, lacking, len(images))
    return images


def of_image_set(images: ImageSet) -> list[PlacedImage]:
    """The images of any reader, with their positions and groups."""
    count = len(images)
    positions: Sequence[Position | None] = [None] * count
    if images.positions is not None:
        own = zones.in_own_region(images.positions) if images.zone is not None else images.positions
        positions = of_utm(own, [images.zone] * count)
    groups = [""] * count if images.groups is None else [str(group) for group in images.groups.tolist()]
    return [
        PlacedImage(usable_name(name), position, group=group)
        for name, position, group in zip(images.names, positions, groups, strict=True)
    ]


def of_utm(metres: Doubles, labels: Sequence[str | None]) -> list[Position]:
    """Positions of (N, 2) metres in the zones of these names; where a zone is None, in an own frame."""
    degrees = np.full(metres.shape, np.nan)
    of_rows = np.array([label or "" for label in labels])
    for zone in sorted({label for label in labels if label}):
        degrees[of_rows == zone] = zones.to_latlon(metres[of_rows == zone], zone)
    return [
        Position(latitude, longitude, east, north, zone) if zone else Position(None, None, east, north, None)
        for (latitude, longitude), (east, north), zone in zip(degrees.tolist(), metres.tolist(), labels, strict=True)
    ]


def _time_or_none(text: str) -> float | None:
    """Seconds since 1970; None for an empty text, or one that says something else."""
    try:
        return parse_time(text) if text else None
    except DataError:
        return None


def _seconds(where: str, value: object, read: Callable[[], datetime]) -> float:
    try:
        moment = read()
    except ValueError:
        raise DataError(f"{where}: {value!r} is no time; write it as 2024-01-31T23:59:59Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
