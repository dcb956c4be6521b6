"""Images with their places from a csv file, free columns included."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vpr.core import DataError, usable_name
from vpr.datasets import points, zones
from vpr.datasets.placed import PlacedImage, Position, Value, parse_time
from vpr.datasets.tables import Table, finite, name_at, read_table

logger = logging.getLogger(__name__)

COLUMNS = {
    **points.COLUMNS,
    "location": ("location",),  # "latitude, longitude"; other text is a free column
    "heading": ("heading", "yaw", "bearing", "compass_angle", "ca"),
    "time": ("time", "timestamp", "captured_at", "datetime", "date", "date_taken"),
    "group": ("group", "panorama", "sequence", "sequence_key", "pano"),
}
_LOCATION = re.compile(r"\(?\s*([-+]?\d+(?:\.\d*)?)\s*[,; ]\s*([-+]?\d+(?:\.\d*)?)\s*\)?")
Line = Mapping[str, str]  # text by column


def by_csv(folder: Path, names: Sequence[str], path: Path) -> list[PlacedImage]:
    """The images of a folder that a csv file lists, with all of its columns.

    Its names are relative to the folder of the images, or to the folder in which the file lies. Images that it does not
    list are left out and counted. Raises DataError, with the line, for what makes no sense, and if it lists no image.
    """
    table = read_table(path)
    meanings = points.recognise(table, COLUMNS)
    if "name" not in meanings:
        raise DataError(f"{path}: no column {' or '.join(COLUMNS['name'])}; name the image of every line")
    rows = _rows_of(table, meanings["name"], {usable_name(name) for name in names}, folder)
    if not rows:
        said = table.column(meanings["name"])[:1] or ("nothing",)
        raise DataError(
            f"{path}: lists none of the {len(names)} images of {folder}: it says {said[0]!r} for instance, the folder "
            f"has {names[0]!r}; names are relative to the folder of images or to that of the file"
        )
    if len(rows) < len(names):
        absent = next(name for name in map(usable_name, names) if name not in rows)
        logger.warning(
            "%s: %d of %d images are not listed and left out, for instance %s",
            path,
            len(names) - len(rows),
            len(names),
            absent,
        )
    images = [_image(table, row, name, meanings) for name, row in rows.items()]
    if not any(image.position for image in images):
        raise DataError(
            f"{path}: no line has a position; give columns latitude and longitude, or utm_east, utm_north and utm_zone"
        )
    return images


def _rows_of(table: Table, column: str, own: set[str], folder: Path) -> dict[str, int]:
    """Row of the table by image name, in the order of the table."""
    beside = table.path.parent.resolve()
    root = folder.resolve()
    rows: dict[str, int] = {}
    for row, (text, line) in enumerate(zip(table.column(column), table.lines, strict=True)):
        where = f"{table.path}, line {line}"
        name = name_at(text, where)
        if name not in own:
            there = beside / name
            name = there.relative_to(root).as_posix() if there.is_relative_to(root) else ""
        if name not in own:
            continue
        if name in rows:
            raise DataError(f"{where}: {text!r} is on line {table.lines[rows[name]]} too")
        rows[name] = row
    return rows


def _image(table: Table, row: int, name: str, meanings: Mapping[str, str]) -> PlacedImage:
    where = f"{table.path}, line {table.lines[row]}"
    line = {column: text.strip() for column, text in zip(table.columns, table.rows[row], strict=True)}
    said = {meaning: line[column] for meaning, column in meanings.items()}
    heading, time = said.get("heading", ""), said.get("time", "")
    location = _LOCATION.fullmatch(said.pop("location", ""))
    if location is not None and "latitude" not in said and "longitude" not in said:
        said |= {"latitude": location[1], "longitude": location[2]}
    free = {"role"} if location is not None else {"role", "location"}
    taken = {meanings[meaning] for meaning in meanings if meaning not in free}
    return PlacedImage(
        name,
        _position(said, where, table.delimiter),
        finite(_decimal(heading, table.delimiter), f"{where}, heading") % 360 if heading else None,
        parse_time(time, f"{where}, time") if time else None,
        said.get("group", ""),
        {column: _value(text) for column, text in line.items() if column and text and column not in taken},
    )


def _position(said: Line, where: str, delimiter: str) -> Position | None:
    """Metres of a known zone, else degrees, else metres of an own frame, else none."""
    degrees = [said.get(meaning, "") for meaning in ("latitude", "longitude")]
    metres = [said.get(meaning, "") for meaning in ("east", "north")]
    if all(metres):
        east, north = (finite(_decimal(text, delimiter), f"{where}, position") for text in metres)
        label = said.get("zone", "")
        zone = zones.parse_zone(label, north)
        if label and zone is None:
            raise DataError(f"{where}: zone {label!r}; expected a number and N or S, such as 33N")
        if zone is not None or not all(degrees):
            return Position.of_utm(east, north, zone)
    if not all(degrees):
        return None
    latitude, longitude = (finite(_decimal(text, delimiter), f"{where}, position") for text in degrees)
    try:
        return Position.of_degrees(latitude, longitude)
    except DataError as error:
        raise DataError(f"{where}: {error} (are the columns exchanged?)") from None


def _decimal(text: str, delimiter: str) -> str:
    """The text of a number with a decimal point; where commas separate no columns, it may have one."""
    return text.replace(",", ".") if delimiter != "," and text.count(",") == 1 else text


def _value(text: str) -> Value:
    try:
        return finite(text, "")
    except DataError:
        return text
