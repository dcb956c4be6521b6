"""Folders of images, with or without positions in the file names."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from natsort import natsorted

from vpr.core import DataError, Dataset, Doubles, ImageSet
from vpr.datasets import utm_names
from vpr.images import SUFFIXES, missing_plugin
from vpr.positives import positives_where_placed, require_radius

NO_GROUND_TRUTH = "no ground truth"

VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mts", ".wmv", ".360", ".insv"))
RAW_SUFFIXES = frozenset((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw"))
_VIDEO = "videos; extract their frames first, for instance with ffmpeg"
_RAW = "raw files of cameras; convert them to TIFF or JPEG"

_log = logging.getLogger(__name__)
_NOT_A_NAME = ("images", "train", "val", "test")  # datasets/pitts30k/images/test/database is pitts30k


def list_images(folder: Path) -> tuple[str, ...]:
    """Images below a folder as POSIX paths relative to it, in natural order (2 before 10).

    Hidden files and folders are skipped; symbolic links are followed, except one back to a folder above it. What else
    is left out is counted by suffix in one line of the log.
    Raises DataError for a folder that is missing, is none, cannot be read, or holds no image.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the folder that holds the images")
    names, others = [], Counter[str]()
    try:
        for name in _walk(folder, "", frozenset({_identity(folder.stat())})):
            suffix = Path(name).suffix.lower()
            if suffix in SUFFIXES and missing_plugin(suffix) is None:
                names.append(name)
            else:
                others[suffix] += 1
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error}") from None
    left_out = left_out_text(others)
    if not names:
        found = f"; left out: {left_out}" if left_out else ""
        raise DataError(f"{folder}: holds no images ({' '.join(sorted(SUFFIXES))}){found}")
    if left_out:
        level = logging.WARNING if any(map(_is_of_images, others)) else logging.INFO
        _log.log(level, "%s: %d images; left out: %s", folder, len(names), left_out)
    return tuple(natsorted(sorted(names)))


def left_out_text(counts: Mapping[str, int]) -> str:
    """Returns the number of files of each suffix that are no images, and why, most frequent first; "" without any."""
    parts = []
    for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        reason = _reason(suffix)
        parts.append(f"{count} {suffix or 'without a suffix'}{f' ({reason})' if reason else ''}")
    return ", ".join(parts)


def _reason(suffix: str) -> str:
    package = missing_plugin(suffix)
    if package is not None:
        return f"pip install {package} to read them"
    return _VIDEO if suffix in VIDEO_SUFFIXES else _RAW if suffix in RAW_SUFFIXES else ""


def _is_of_images(suffix: str) -> bool:
    return bool(_reason(suffix))


def folder_and_names(place: Path) -> tuple[Path, tuple[str, ...]]:
    """A folder and the images below it; or, of a path to a single image, its folder and its name."""
    if place.is_file():
        if place.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{place}: not an image ({' '.join(sorted(SUFFIXES))}); give an image, or a folder of images"
            )
        return place.parent, (place.name,)
    return place, list_images(place)


def read_image_folder(folder: Path, *, group_panoramas: bool = False) -> ImageSet:
    """The images of a folder, with positions if their names have them, and panorama groups if asked for."""
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
    """Images to search and queries; positives within a radius if the names have positions.

    Either side is a folder or a single image. All names of the database have positions or none has. Queries need
    none: what is correct for a query without a position is not known; if no query has one, there is no ground truth.
    ``group_panoramas`` numbers the database by the panorama in its names.
    """
    require_radius(radius_m)
    (database, database_names), (queries, query_names) = folder_and_names(database), folder_and_names(queries)
    there = utm_names.parse_all(database, database_names)
    here = [utm_names.parse_if_any(name) for name in query_names]
    known = [placed for placed in here if placed is not None]
    if ground_truth and there is None and known:
        raise DataError(
            f"{database}: {database_names[0]!r} has no @east@north@ position in its name, but the images of {queries} "
            "have; give every image a position or none, or read the folders without ground truth"
        )
    panoramas = utm_names.panoramas_of(there, database, database_names) if group_panoramas else None
    count = len(there or ())
    positions, zone = utm_names.positions_of([*(there or ()), *known], database.parent, count)
    to_search = ImageSet(database, database_names, None if there is None else positions[:count], zone, panoramas)
    all_known = len(known) == len(here)
    to_place = ImageSet(queries, query_names, positions[count:] if all_known else None, zone)
    name = name_of(database)
    if there is None or not ground_truth or not known:
        return Dataset(name, NO_GROUND_TRUTH, to_search, to_place)
    found = np.full((len(here), 2), np.nan)
    found[[placed is not None for placed in here]] = positions[count:]
    return judged_where_placed(to_search, to_place, found, radius_m, name=name, what="position in their names")


def judged_where_placed(
    database: ImageSet, queries: ImageSet, positions: Doubles, radius_m: float, *, name: str, what: str
) -> Dataset:
    """A data set in which only queries with a position are judged; ``positions`` are (Q, 2), NaN where there is none.

    A warning counts the others; ``what`` they lack is for its text.
    """
    positives, unknown = positives_where_placed(queries, positions, database, radius_m)
    if unknown:
        _log.warning(
            "%s: %d of %d queries have no %s, so it is not known what is correct for them; they are left out of the "
            "recall: %s",
            queries.root,
            len(unknown),
            len(queries),
            what,
            queries.names[unknown[0]],
        )
    return Dataset(name, f"within {radius_m:g} m", database, queries, positives, unknown)


def name_of(database: Path) -> str:
    """The name of the data set to which a folder of images belongs."""
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
            else:
                yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
