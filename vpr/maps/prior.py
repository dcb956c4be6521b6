"""What is known of a photograph before it is looked at: near which place, when, and any filter of the images."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpr.core import ConfigError
from vpr.datasets.placed import EARTH_RADIUS_M, haversine_m, parse_time
from vpr.maps.filters import EVERY, Condition, parse_filter
from vpr.maps.manifest import OF_IDS, WITHIN, Manifest

RADIUS_M = 500.0  # where a place is given and no radius
_DEGREE_M = math.pi * EARTH_RADIUS_M / 180


@dataclass(frozen=True)
class Prior:
    """Restricts the images that are compared with a photograph."""

    near: tuple[float, float] | None = None  # latitude, longitude in degrees
    radius_m: float = RADIUS_M
    since: float | None = None  # seconds since 1970
    until: float | None = None
    where: Condition = EVERY

    @staticmethod
    def of(
        near: tuple[float, float] | None,
        radius_m: float | None,
        since: str | float | None,
        until: str | float | None,
        where: str,
    ) -> Prior | None:
        """The prior of these arguments; None if they restrict nothing. Raises ConfigError for what makes no sense."""
        if radius_m is not None and near is None:
            raise ConfigError(f"radius_m = {radius_m:g} without a place; give near=(latitude, longitude) too")
        if radius_m is not None and not 0 < radius_m < math.inf:
            raise ConfigError(f"radius_m = {radius_m:g}: give metres, more than 0")
        if near is not None and not (len(near) == 2 and abs(near[0]) <= 90 and abs(near[1]) <= 180):
            raise ConfigError(f"near = {near}: give latitude (-90 to 90) and longitude (-180 to 180) in degrees")
        first = None if since is None else parse_time(since, "since")
        last = None if until is None else parse_time(until, "until")
        prior = Prior(near, radius_m or RADIUS_M, first, last, parse_filter(where))
        return None if prior == Prior() else prior

    def places(self, manifest: Manifest, among: Collection[int] | None = None) -> NDArray[Any]:
        """(N, 5) id, segment, row, latitude and longitude of the images that it allows, of all or of some ids."""
        conditions: list[str] = []
        values: list[Any] = list(self.where.values)
        if self.where.sql:
            conditions.append(self.where.sql)
        for bound, sign in ((self.since, ">="), (self.until, "<=")):
            if bound is not None:
                conditions.append(f"time {sign} ?")
                values.append(bound)
        if among is not None:
            conditions.append(OF_IDS)
            values.append(json.dumps(list(among)))
        if self.near is None:
            return manifest.places(" AND ".join(conditions), values)
        if among is None:
            condition = " AND ".join([*conditions, WITHIN])
            near = boxes(self.near, self.radius_m)
            found = np.concatenate([manifest.places(condition, [*values, *box], boxed=True) for box in near])
        else:  # few: by their ids, not by the R*Tree
            found = manifest.places(" AND ".join(conditions), values)
        kept: NDArray[Any] = found[haversine_m(found[:, 3:], self.near) <= self.radius_m]
        return kept


def boxes(centre: tuple[float, float], radius_m: float) -> Iterator[tuple[float, float, float, float]]:
    """South, north, west, east of boxes that hold every place within a radius; two where it crosses 180 degrees."""
    latitude, longitude = centre
    reach = radius_m / _DEGREE_M
    south, north = latitude - reach, latitude + reach
    if south <= -90 or north >= 90:  # a pole is within reach: all longitudes
        yield south, north, -180.0, 180.0
        return
    widest = math.sin(math.radians(reach)) / math.cos(math.radians(latitude))
    wide = 180.0 if abs(widest) >= 1 else math.degrees(math.asin(widest))
    if wide >= 180:
        yield south, north, -180.0, 180.0
        return
    west, east = longitude - wide, longitude + wide
    yield south, north, max(west, -180.0), min(east, 180.0)
    if west < -180:
        yield south, north, west + 360, 180.0
    if east > 180:
        yield south, north, -180.0, east - 360
