"""Ground truth of one's own images: a csv of positions -> Patch-NetVLAD's npz and image lists.

Columns are known by their names (``COLUMNS``); others are passed over. Positions are latitude and longitude in degrees,
or UTM east and north in metres with, if need be, a zone such as 33N. All end up in one zone, that of the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Doubles
from vpr.datasets import zones
from vpr.datasets.ground_truth import write_npz
from vpr.datasets.image_lists import DATABASE_SUFFIX, QUERY_SUFFIX, write_image_list
from vpr.datasets.tables import Table, name_at, read_table

COLUMNS = {
    "name": ("name", "file", "filename", "file_name", "image", "path"),
    "role": ("role", "split", "set"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
    "east": ("utm_east", "utm_e", "easting", "east"),
    "north": ("utm_north", "utm_n", "northing", "north"),
    "zone": ("utm_zone", "zone"),
}
_ROLES = {"database": False, "db": False, "index": False, "reference": False, "ref": False, "map": False}
_ROLES |= {"query": True, "queries": True, "q": True}


@dataclass(frozen=True, eq=False)
class Points:
    """Images with a role and a place, as a csv file lists them."""

    names: tuple[str, ...] | None  # N, None if the file has no such column
    is_query: NDArray[np.bool_]  # (N,)
    positions: Doubles  # (N, 2) metres in one zone
    zone: str | None  # None if the file does not say

    @property
    def utm_queries(self) -> Doubles:
        return self.positions[self.is_query]

    @property
    def utm_database(self) -> Doubles:
        return self.positions[~self.is_query]


def make_from_csv(path: Path, out: Path, radius_m: float = 25.0) -> Points:
    """Write the npz ``out`` from a csv file and, if that has names, the two image lists beside it.

    The lists are ``<out without .npz>_imageNames_index.txt`` and ``..._query.txt``, in the order of the npz.
    """
    if out.suffix != ".npz":
        raise DataError(f"{out}: a ground truth file ends in .npz; give it such a name")
    points = read_points(path)
    write_npz(out, points.utm_queries, points.utm_database, radius_m)
    if points.names is not None:
        for suffix, role in ((DATABASE_SUFFIX, False), (QUERY_SUFFIX, True)):
            names = tuple(name for name, query in zip(points.names, points.is_query, strict=True) if query == role)
            write_image_list(list_path(out, suffix), names)
    return points


def list_path(npz: Path, suffix: str) -> Path:
    """Where the image list that belongs to a ground truth file lies; the suffix is of ``image_lists``."""
    return npz.with_name(f"{npz.stem}{suffix}.txt")


def read_points(path: Path) -> Points:
    """Read a csv file of positions. Raises DataError, with the line, for whatever is missing or makes no sense."""
    table = read_table(path)
    columns = recognise(table)
    if "role" not in columns:
        raise DataError(f"{path}: no column {_or(COLUMNS['role'])}; say database or query for every image")
    is_query = _roles(table, columns["role"])
    positions, zone = _positions(table, columns, deciding=~is_query)
    names = _names(table, columns["name"], is_query) if "name" in columns else None
    return Points(names, is_query, positions, zone)


def recognise(table: Table, known: Mapping[str, Sequence[str]] = COLUMNS) -> dict[str, str]:
    """Meaning -> column of this table; raises DataError if two columns have one meaning."""
    found: dict[str, str] = {}
    for column in table.columns:
        plain = column.lower().replace(" ", "_").replace("-", "_")
        meaning = next((meaning for meaning, names in known.items() if plain in names), None)
        if meaning is None:
            continue
        if meaning in found:
            raise DataError(
                f"{table.path}: columns {found[meaning]!r} and {column!r} both give the {meaning}; keep one"
            )
        found[meaning] = column
    return found


def _roles(table: Table, column: str) -> NDArray[np.bool_]:
    texts = [text.strip().lower() for text in table.column(column)]
    for text, line in zip(texts, table.lines, strict=True):
        if text not in _ROLES:
            raise DataError(f"{table.path}, line {line}: {column} is {text!r}; expected database or query")
    is_query = np.array([_ROLES[text] for text in texts], dtype=np.bool_)
    for role, count in (("database", (~is_query).sum()), ("query", is_query.sum())):
        if not count:
            raise DataError(f"{table.path}: no line with the role {role}")
    return is_query


def _names(table: Table, column: str, is_query: NDArray[np.bool_]) -> tuple[str, ...]:
    names = table.column(column)
    first_line: dict[tuple[bool, str], int] = {}
    for name, query, line in zip(names, is_query.tolist(), table.lines, strict=True):
        key = query, name_at(name, f"{table.path}, line {line}")
        if key in first_line:
            raise DataError(f"{table.path}, line {line}: {name!r} is on line {first_line[key]} too")
        first_line[key] = line
    return names


def _positions(table: Table, columns: dict[str, str], deciding: NDArray[np.bool_]) -> tuple[Doubles, str | None]:
    """Metres of a known zone, else degrees, else metres of an unknown zone; the deciding lines choose the zone."""
    utm, degrees = ("east", "north"), ("latitude", "longitude")
    if _complete(table, columns, utm):
        positions = _pair(table, columns, utm)
        labels = _zones(table, columns, positions)
        if labels is not None:
            return zones.one_frame(positions, labels, deciding)
        if not _complete(table, columns, degrees):
            return positions, None
    if not set(degrees) <= set(columns):
        wanted = " or ".join(f"{_or(COLUMNS[a])} with {_or(COLUMNS[b])}" for a, b in (degrees, utm))
        raise DataError(f"{table.path}: no positions on every line; give columns {wanted}")
    latlon = _pair(table, columns, degrees)
    _require_on_earth(table, latlon)
    return zones.one_frame_of_latlon(latlon, deciding)


def _complete(table: Table, columns: dict[str, str], meanings: tuple[str, str]) -> bool:
    return set(meanings) <= set(columns) and all(
        text.strip() for meaning in meanings for text in table.column(columns[meaning])
    )


def _pair(table: Table, columns: dict[str, str], meanings: tuple[str, str]) -> Doubles:
    return np.column_stack([table.numbers(columns[meaning]) for meaning in meanings])


def _zones(table: Table, columns: dict[str, str], positions: Doubles) -> Sequence[str] | None:
    """The zone of every line; a line without one is in the one zone of the others. None if no line has one."""
    if "zone" not in columns:
        return None
    labels: list[str | None] = []
    for text, line, (_, north) in zip(table.column(columns["zone"]), table.lines, positions, strict=True):
        labels.append(zones.parse_zone(text, float(north)))
        if text.strip() and labels[-1] is None:
            raise DataError(f"{table.path}, line {line}: zone {text!r}; expected a number and N or S, such as 33N")
    known = sorted({label for label in labels if label is not None})
    if not known:
        return None
    if len(known) > 1 and None in labels:
        line = table.lines[labels.index(None)]
        raise DataError(f"{table.path}, line {line}: no zone, but other lines are in {', '.join(known)}; fill it in")
    return [label or known[0] for label in labels]


def _require_on_earth(table: Table, latlon: Doubles) -> None:
    wrong = (latlon[:, 0] < -80) | (latlon[:, 0] > 84) | (np.abs(latlon[:, 1]) > 180)
    for row in np.flatnonzero(wrong)[:1]:
        latitude, longitude = latlon[row]
        raise DataError(
            f"{table.path}, line {table.lines[row]}: latitude {latitude:g}, longitude {longitude:g}; expected "
            "-80 to 84 and -180 to 180 degrees (are the columns exchanged?)"
        )


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
