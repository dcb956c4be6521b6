"""UTM zones: one flat frame in metres for all images of a data set.

A zone is a number and a hemisphere, "33N"; latitude bands (the letters C to X) do not change the coordinates.
Two points 14 m apart across a zone edge are 425 km apart in their own zones, so a set is brought into one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np
import utm
from numpy.typing import NDArray

from vpr.core import DataError, Doubles, Rows

Flags = NDArray[np.bool_]

REGION_GAP_M = 10_000_000.0  # regions that share no zone are laid out side by side, this far apart
_REACH_M = 1_000_000.0  # from a zone's central meridian; here its metres are 1.2 % too long
_METRES_PER_DEGREE = 111_320.0  # along the equator
_ZONE = re.compile(r"\s*(\d{1,2})\s*([C-HJ-NP-X])\s*", re.IGNORECASE)
_BAND_S_NORTHINGS = (3_500_000.0, 4_500_000.0)  # 32 to 40 degrees north

_log = logging.getLogger(__name__)


def zone_name(number: int, letter: str, northing_m: float, latitude: float | None = None) -> str:
    """The zone of a number and a letter that may be a latitude band or a hemisphere.

    Only S is both: without a latitude it is read as band S where the northing lies in it, and as south elsewhere.
    """
    if latitude is not None:
        northern = latitude >= 0
    elif letter.upper() == "S":
        northern = _BAND_S_NORTHINGS[0] <= northing_m <= _BAND_S_NORTHINGS[1]
    else:
        northern = letter.upper() >= "N"
    return f"{number}{'N' if northern else 'S'}"


def parse_zone(text: str, northing_m: float, latitude: float | None = None) -> str | None:
    """The zone that a text such as "33N", "54 S" or "10T" means; None if it means none."""
    match = _ZONE.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= 60:
        return None
    return zone_name(int(match[1]), match[2], northing_m, latitude)


def zone_of(latitude: float, longitude: float) -> str:
    """The zone in which a point between 80 S and 84 N lies, for instance "33N"."""
    return f"{utm.latlon_to_zone_number(latitude, longitude)}{'N' if latitude >= 0 else 'S'}"


def to_utm(latlon: Doubles, zone: str) -> Doubles:
    """(N, 2) latitude, longitude in degrees -> (N, 2) east, north in metres of the zone, also beyond its edges.

    Raises DataError outside 80 S to 84 N, where there is no UTM.
    """
    if not len(latlon):
        return np.empty((0, 2))
    number, letter = _number_and_letter(zone)
    try:
        east, north, _, _ = utm.from_latlon(latlon[:, 0], latlon[:, 1], number, letter)
    except utm.OutOfRangeError as error:
        raise DataError(f"no UTM position: {error}; give latitude, longitude in degrees") from None
    return np.column_stack([east, north])


def to_latlon(positions: Doubles, zone: str) -> Doubles:
    """The inverse of ``to_utm``."""
    if not len(positions):
        return np.empty((0, 2))
    number, letter = _number_and_letter(zone)
    latitudes, longitudes = utm.to_latlon(positions[:, 0], positions[:, 1], number, letter, strict=False)
    return np.column_stack([latitudes, longitudes])


def in_own_region(positions: Doubles) -> Doubles:
    """(N, 2) metres of a frame in which regions may lie side by side -> metres as each region's own zone has them."""
    own = positions.copy()
    own[:, 0] -= np.floor(positions[:, 0] / REGION_GAP_M + 0.5) * REGION_GAP_M
    return own


def one_frame_of_latlon(latlon: Doubles, deciding: Flags) -> tuple[Doubles, str | None]:
    """(N, 2) degrees -> (N, 2) metres in the zone of the median of the deciding rows, and that zone.

    Regions with more than a degree of nothing between them (cities on two continents) cannot share a zone:
    each gets its own, they are laid out ``REGION_GAP_M`` apart, and the zone is None.
    Raises DataError for a region too wide for any one zone.
    """
    return _lay_out(latlon, deciding, latlon, np.full(len(latlon), ""))


def one_frame(positions: Doubles, zones: Sequence[str], deciding: Flags) -> tuple[Doubles, str | None]:
    """Bring positions, each in metres of its own zone, into one frame as ``one_frame_of_latlon`` does.

    A position that is in the zone chosen for it already is kept to the bit.
    """
    distinct = sorted(set(zones))
    if len(distinct) < 2:
        return positions, distinct[0] if distinct else None
    _log.warning("positions in zones %s are brought into one", ", ".join(distinct))
    labels = np.asarray(zones, dtype=str)
    latlon = np.empty_like(positions)
    for zone in distinct:
        latlon[labels == zone] = to_latlon(positions[labels == zone], zone)
    return _lay_out(latlon, deciding, positions, labels)


def _lay_out(latlon: Doubles, deciding: Flags, own: Doubles, own_zones: NDArray[np.str_]) -> tuple[Doubles, str | None]:
    if not len(latlon):
        return np.empty((0, 2)), None
    regions = _regions(latlon)
    positions = np.empty_like(latlon)
    chosen = []
    for region in range(regions.max() + 1):
        rows = np.flatnonzero(regions == region)
        inside = rows[deciding[rows]]
        zone = _zone_of_median(latlon[inside if len(inside) else rows])
        _require_reach(latlon[rows], zone)
        positions[rows] = np.where((own_zones[rows] == zone)[:, None], own[rows], to_utm(latlon[rows], zone))
        positions[rows, 0] += region * REGION_GAP_M
        chosen.append(zone)
    if len(chosen) == 1:
        return positions, chosen[0]
    _log.warning("%d regions far apart, zones %s: laid out side by side", len(chosen), ", ".join(chosen))
    return positions, None


def _number_and_letter(zone: str) -> tuple[int, str]:
    # M is the southern band next to the equator: the letter S would mean band S, which is north
    return int(zone[:-1]), "N" if zone.endswith("N") else "M"


def _regions(latlon: Doubles) -> Rows:
    """(N,) number of the region of each row: one-degree cells that touch are one region."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    cells = np.floor(latlon).astype(np.int64)
    codes, row_to_cell = np.unique((cells[:, 0] + 90) * 360 + cells[:, 1] % 360, return_inverse=True)
    corners = np.column_stack(np.divmod(codes, 360)).astype(np.float64)
    touching = cKDTree(corners, boxsize=[0, 360]).query_pairs(1.0, p=np.inf, output_type="ndarray")
    links = coo_matrix((np.ones(len(touching)), (touching[:, 0], touching[:, 1])), shape=(len(codes), len(codes)))
    numbers = connected_components(links, directed=False)[1].astype(np.int64)
    result: Rows = numbers[row_to_cell]
    return result


def _zone_of_median(latlon: Doubles) -> str:
    latitude = float(np.median(latlon[:, 0]))
    first = latlon[0, 1]
    longitude = first + float(np.median(_turn(latlon[:, 1] - first)))  # the mean of 179 and -179 is 180, not 0
    return zone_of(latitude, longitude)


def _require_reach(latlon: Doubles, zone: str) -> None:
    central = 6 * int(zone[:-1]) - 183
    offset_m = np.abs(_turn(latlon[:, 1] - central)) * np.cos(np.radians(latlon[:, 0])) * _METRES_PER_DEGREE
    if offset_m.max() > _REACH_M:
        raise DataError(
            f"one connected region reaches {offset_m.max() / 1000:.0f} km from the middle of UTM zone {zone}, "
            f"more than {_REACH_M / 1000:.0f} km, where its metres are wrong by over 1 %; split the set"
        )


def _turn(degrees: Doubles) -> Doubles:
    """Angles brought into [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0
