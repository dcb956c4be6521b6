"""Positions written into file names: ``@utm_east@utm_north@...@.jpg``.

The full form is ``@UTM_east@UTM_north@zone_number@zone_letter@lat@lon@pano_id@tile_num@heading@pitch@roll@height@
timestamp@note@.jpg``, every field after the second may be empty; the short form is ``@east@north@anything.jpg``.
Source of the form: Berton et al., Deep Visual Geo-localization Benchmark, CVPR 2022.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpr.core import DataError, Doubles, Rows
from vpr.datasets import groups, zones
from vpr.datasets.tables import finite

_HALF = re.compile(r"@[-+.\d]+@")
_SHORT_FIELDS = 4  # "", east, north, anything


@dataclass(frozen=True)
class Placed:
    """Position and fields of one file name."""

    east_m: float
    north_m: float
    zone: str | None
    panorama: str  # "" if the name has none
    heading: float | None = None  # degrees clockwise from north, in [0, 360)
    time: str = ""  # as the name writes it


def has_position(name: str) -> bool:
    """Whether the file name at the end of a path begins like one of the two forms."""
    fields = name.rpartition("/")[2].split("@")
    return len(fields) >= _SHORT_FIELDS and not fields[0]


def parse(name: str) -> Placed | None:
    """Read the file name at the end of a path; None if it does not begin like one of the two forms.

    Only the file name is split: a folder above it may hold an @. Raises DataError for positions that are no numbers.
    """
    if not has_position(name):
        return None
    fields = name.rpartition("/")[2].split("@")
    east, north = (finite(field, f"position in the file name {name!r}") for field in fields[1:3])
    number, letter, latitude, _, panorama, _, heading, *_, time, _ = (*fields[3:15], *[""] * 12)[:12]
    return Placed(
        east,
        north,
        zones.parse_zone(f"{number} {letter}", north, _latitude(latitude)),
        "" if panorama == "None" else panorama,
        _heading(heading),
        "" if time == "None" else time,
    )


def parse_if_any(name: str) -> Placed | None:
    """Returns the fields of a name; None if it has no position. Raises DataError for half a position."""
    placed = parse(name)
    if placed is None and _HALF.match(name.rpartition("/")[2]):
        raise DataError(
            f"{name!r}: half a position in the name; expected @utm_east@utm_north@...@.jpg, or no @ in front"
        )
    return placed


def parse_all(folder: Path, names: Sequence[str]) -> list[Placed] | None:
    """Returns the fields of every name, or None if no name has a position; raises DataError if only some have."""
    placed = [parse(name) for name in names]
    with_position = [found for found in placed if found is not None]
    if not with_position:
        return None
    if len(with_position) < len(placed):
        without = names[placed.index(None)]
        raise DataError(
            f"{folder}: {without!r} has no @east@north@ position in its name, but {len(with_position)} other images "
            f"have ({len(placed) - len(with_position)} without); give every image a position or none"
        )
    return with_position


def positions_of(placed: Sequence[Placed], where: Path, deciding: int) -> tuple[Doubles, str | None]:
    """(N, 2) metres in one frame, whose zone the first ``deciding`` images choose, and that zone.

    Images without a zone are taken to be in the one zone of the others. Raises DataError if the others have several.
    """
    positions = np.array([(one.east_m, one.north_m) for one in placed], dtype=np.float64).reshape(-1, 2)
    known = {one.zone for one in placed if one.zone is not None}
    if not known:
        return positions, None
    if len(known) > 1 and any(one.zone is None for one in placed):
        raise DataError(
            f"{where}: names in UTM zones {', '.join(sorted(known))} and names without a zone; "
            "write the zone number and letter into every name"
        )
    labels = [one.zone or min(known) for one in placed]
    return zones.one_frame(positions, labels, np.arange(len(placed)) < deciding)


def panoramas_of(placed: Sequence[Placed] | None, folder: Path, names: Sequence[str]) -> Rows:
    """(N,) group numbers by panorama; raises DataError if a name has no panorama."""
    labels = ["" for _ in names] if placed is None else [one.panorama for one in placed]
    if "" in labels:
        raise DataError(
            f"{folder}: {names[labels.index('')]!r} has no panorama in its name (the field after lat@lon), "
            "so the images cannot be grouped by it"
        )
    return groups.by_label(labels)


def _heading(text: str) -> float | None:
    try:
        degrees = float(text)
    except ValueError:
        return None
    return degrees % 360 if math.isfinite(degrees) else None


def _latitude(text: str) -> float | None:
    try:
        latitude = float(text)
    except ValueError:
        return None
    return latitude if abs(latitude) <= 90 else None
