"""Folders of pictures, with or without positions in the file names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from natsort import natsorted

from vpr.core import DataError, Dataset, ImageSet
from vpr.datasets import utm_names
from vpr.images import SUFFIXES
from vpr.positives import positives_within, require_radius

NO_GROUND_TRUTH = "no ground truth"

_NOT_A_NAME = ("images", "train", "val", "test")  # datasets/pitts30k/images/test/database is pitts30k


def list_images(folder: Path) -> tuple[str, ...]:
    """Pictures below a folder as POSIX paths relative to it, in natural order (2 before 10).

    Hidden files and folders are skipped; symbolic links are followed, except one back to a folder above it.
    Raises DataError for a folder that is missing, is none, cannot be read, or holds no picture.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the folder that holds the pictures")
    try:
        names = sorted(_walk(folder, "", frozenset({_identity(folder.stat())})))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error}") from None
    if not names:
        raise DataError(f"{folder}: holds no pictures ({' '.join(sorted(SUFFIXES))})")
    return tuple(natsorted(names))


def read_image_folder(folder: Path, *, group_panoramas: bool = False) -> ImageSet:
    """The pictures of a folder, with positions if their names have them, and panorama groups if asked for."""
    names = list_images(folder)
    placed = utm_names.parse_all(folder, names)
    panoramas = utm_names.panoramas_of(placed, folder, names) if group_panoramas else None
    if placed is None:
        return ImageSet(folder, names, groups=panoramas)
    positions, zone = utm_names.positions_of(placed, folder, len(names))
    return ImageSet(folder, names, positions, zone, panoramas)


def read_folders(
    database: Path,
    queries: Path,
    radius_m: float = 25.0,
    *,
    ground_truth: bool = True,
    group_panoramas: bool = False,
) -> Dataset:
    """A folder to search and a folder of queries; positives within a radius if the names have positions.

    Either all names of both folders have positions or none has, unless ``ground_truth`` is off: queries whose places
    are not known need no positions. ``group_panoramas`` numbers the database by the panorama in its names.
    """
    require_radius(radius_m)
    database_names, query_names = list_images(database), list_images(queries)
    there = utm_names.parse_all(database, database_names)
    here = utm_names.parse_all(queries, query_names)
    if ground_truth and (there is None) != (here is None):
        first, folder, other = (query_names[0], queries, database) if there else (database_names[0], database, queries)
        raise DataError(
            f"{folder}: {first!r} has no @east@north@ position in its name, but the images of {other} have; "
            "give every image a position or none, or read the folders without ground truth"
        )
    panoramas = utm_names.panoramas_of(there, database, database_names) if group_panoramas else None
    count = len(there or ())
    positions, zone = utm_names.positions_of([*(there or ()), *(here or ())], database.parent, count)
    to_search = ImageSet(database, database_names, None if there is None else positions[:count], zone, panoramas)
    to_place = ImageSet(queries, query_names, None if here is None else positions[count:], zone)
    if there is None or not ground_truth:
        return Dataset(name_of(database), NO_GROUND_TRUTH, to_search, to_place)
    positives = positives_within(to_place, to_search, radius_m)
    return Dataset(name_of(database), f"within {radius_m:g} m", to_search, to_place, positives)


def name_of(database: Path) -> str:
    """The name of the data set to which a folder of pictures belongs."""
    above = reversed(Path(os.path.abspath(database)).parent.parts[1:])
    return next((part for part in above if part not in _NOT_A_NAME), database.name)


def _walk(folder: Path | str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                identity = _identity(entry.stat())
                if identity not in above:
                    yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {identity})
            elif entry.name.lower().endswith(SUFFIXES):
                yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
