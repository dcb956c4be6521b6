"""Folders of training images whose layout says which of them show one place: GSV-Cities and SF-XL.

GSV-Cities (Ali-bey et al., Neurocomputing 2022): ``Dataframes/<City>.csv`` with place_id, year, month, northdeg,
city_id, lat, lon, panoid, and ``Images/<City>/``. SF-XL (Berton et al., CVPR 2022): images named
@utm_east@utm_north@...@heading@...@.jpg. Its places are CosPlace's: cells of 10 m, cut into headings of 30 degrees, of
which only every fifth cell and every second heading, in each direction, belong to one group; so no two places of a
group show the same.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from vpr.core import DataError
from vpr.datasets import utm_names
from vpr.datasets.folders import list_images
from vpr.datasets.tables import read_table

CELL_M = 10  # of SF-XL's places
HEADING = 30  # degrees
APART, HEADINGS_APART = 5, 2  # in cells and headings, of one group
GROUPS = APART * APART * HEADINGS_APART  # of CosPlace

# Everything of a file name of GSV-Cities but latitude and longitude, whose digits depend on who wrote them.
_NAME = re.compile(
    r"(?P<city>.+)_(?P<place>\d{5,})_(?P<year>\d{4})_(?P<month>\d\d)_(?P<north>\d+)_[^_]+_[^_]+_(?P<pano>.+)\.\w+"
)
_COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "panoid")


class PlaceImage(NamedTuple):
    """A training image, and the place that it shows."""

    path: Path
    place: str


def read_place_folder(root: Path, group: int = 0) -> list[PlaceImage]:
    """The images of a folder in one of the two layouts, sorted; of SF-XL those of one of CosPlace's 50 groups.

    Raises DataError for another layout, and for a csv file of GSV-Cities of whose images none is there.
    """
    if (root / "Dataframes").is_dir():
        return _gsv_cities(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder or file")
    return _sf_xl(root, group)


def _gsv_cities(root: Path) -> list[PlaceImage]:
    tables = sorted((root / "Dataframes").glob("*.csv"))
    if not tables:
        raise DataError(f"{root / 'Dataframes'}: holds no csv file of a city")
    return [image for table in tables for image in _city(root, table)]


def _city(root: Path, path: Path) -> list[PlaceImage]:
    table = read_table(path)
    columns = [table.column(name) for name in _COLUMNS]
    found: dict[str, dict[tuple[object, ...], str]] = {}
    images = []
    for line, values in zip(table.lines, zip(*columns, strict=True), strict=True):
        place, year, month, north, city, pano = values
        where = f"{path}, line {line}"
        if city not in found:
            found[city] = _files(root / "Images" / city)
        numbers = [_number(text, where) for text in (place, year, month, north)]
        name = found[city].get((*(numbers[0] % 10**5, *numbers[1:]), pano))
        if name is not None:
            images.append(PlaceImage(root / "Images" / city / name, f"{city} {numbers[0]}"))
    if table.lines and not images:
        raise DataError(f"{path}: none of its {len(table.lines)} images is in {root / 'Images'}")
    return images


def _files(folder: Path) -> dict[tuple[object, ...], str]:
    """File names of one city by place, year, month, heading and panorama."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; GSV-Cities has Images/<City> for each csv file")
    named = ((_NAME.fullmatch(entry.name), entry.name) for entry in os.scandir(folder))
    return {
        (int(found["place"]) % 10**5, int(found["year"]), int(found["month"]), int(found["north"]), found["pano"]): name
        for found, name in named
        if found is not None
    }


def _number(text: str, where: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise DataError(f"{where}: {text!r} is no whole number") from None


def _sf_xl(root: Path, group: int) -> list[PlaceImage]:
    places: dict[tuple[int, int, int], list[str]] = defaultdict(list)
    names = list_images(root)
    for name in names:
        placed = utm_names.parse(name)
        if placed is None or placed.heading is None:
            raise DataError(
                f"{root}: {name!r} has no position and heading in its name (@utm_east@utm_north@...@heading@...@.jpg, "
                "as SF-XL has), and there is no folder Dataframes, as GSV-Cities has; list other images in a csv file"
            )
        cell = int(placed.east_m // CELL_M), int(placed.north_m // CELL_M), int(placed.heading // HEADING)
        if group_of(*cell) == group:
            places[cell].append(name)
    if not places:
        raise DataError(f"{root}: none of {len(names)} images is in group {group}; choose another of 0 to {GROUPS - 1}")
    return [
        PlaceImage(root / name, " ".join(map(str, cell))) for cell, found in sorted(places.items()) for name in found
    ]


def group_of(east: int, north: int, heading: int) -> int:
    """The number of the group to which a cell and a heading belong."""
    return (east % APART * APART + north % APART) * HEADINGS_APART + heading % HEADINGS_APART
