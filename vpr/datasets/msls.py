"""Mapillary Street-Level Sequences (Warburg et al., CVPR 2020), read in place from its csv files.

Each city has a UTM zone of its own: positives are found within a city, and in the positions of a set of several
cities the i-th city is moved east by i times ``REGION_GAP_M`` and the zone is None. As in the official evaluation each
city is searched by itself, unless the database is ``joined``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpr.core import ConfigError, DataError, Dataset, Doubles, ImageSet, Rows
from vpr.datasets.ground_truth import answerable_only
from vpr.datasets.groups import without_regions
from vpr.datasets.tables import Table, read_table
from vpr.datasets.zones import REGION_GAP_M
from vpr.positives import positives_within, require_radius

VALIDATION_CITIES = ("cph", "sf")
SUBTASKS = ("all", "s2w", "w2s", "o2n", "n2o", "d2n", "n2d")


@dataclass(frozen=True, eq=False)
class _City:
    database: ImageSet
    queries: ImageSet
    positives: tuple[Rows, ...]


def read_msls(
    root: Path,
    cities: Sequence[str] = VALIDATION_CITIES,
    radius_m: float = 25.0,
    *,
    panoramas: bool = False,
    subtask: str | None = "all",
    drop_unanswerable: bool = False,
    joined: bool = False,
) -> Dataset:
    """One or several cities of ``root/train_val``; a positive lies in the same city within the radius.

    ``subtask`` keeps the images that ``subtask_index.csv`` marks, None keeps all. ``panoramas`` keeps full panoramas,
    which the official evaluation leaves out. ``drop_unanswerable`` leaves out queries without positives, as it does.
    ``joined`` searches the images of all cities for every query.
    """
    if not cities or len(set(cities)) < len(cities):
        raise ConfigError(f"cities {', '.join(cities) or '(none)'}: name at least one, each once")
    if subtask is not None and subtask not in SUBTASKS:
        raise ConfigError(f"unknown MSLS subtask {subtask!r}; known: {', '.join(SUBTASKS)}")
    read = [_read_city(root, city, radius_m, panoramas, subtask) for city in cities]
    rule = "all cities searched together" if joined else "each city searched by itself"
    rule = f"within {radius_m:g} m in the same city{f', {rule}' if len(cities) > 1 else ''}"
    dataset = _merge(root, "msls-" + "-".join(cities), rule, read)
    if joined:
        dataset = without_regions(dataset)
    return answerable_only(dataset) if drop_unanswerable else dataset


def _merge(root: Path, name: str, protocol: str, cities: Sequence[_City]) -> Dataset:
    shifts = np.cumsum([0, *(len(city.database) for city in cities)])
    positives = tuple(rows + shift for city, shift in zip(cities, shifts, strict=False) for rows in city.positives)
    database = _side_by_side(root, [city.database for city in cities])
    queries = _side_by_side(root, [city.queries for city in cities])
    return Dataset(name, protocol, database, queries, positives)


def _side_by_side(root: Path, sets: Sequence[ImageSet]) -> ImageSet:
    names = tuple(name for images in sets for name in images.names)
    moved: list[Doubles] = []
    for index, images in enumerate(sets):
        assert images.positions is not None
        moved.append(images.positions + np.array([index * REGION_GAP_M, 0.0]))
    regions = np.repeat(np.arange(len(sets)), [len(images) for images in sets])
    return ImageSet(root, names, np.concatenate(moved), regions=regions)


def _read_city(root: Path, city: str, radius_m: float, panoramas: bool, subtask: str | None) -> _City:
    require_radius(radius_m)
    folder = next((root / name for name in (f"train_val/{city}", city) if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: no folder train_val/{city}; give the folder that holds train_val")
    database = _read_side(root, folder / "database", panoramas, subtask)
    queries = _read_side(root, folder / "query", panoramas, subtask)
    return _City(database, queries, positives_within(queries, database, radius_m))


def _read_side(root: Path, folder: Path, panoramas: bool, subtask: str | None) -> ImageSet:
    if not (folder / "postprocessed.csv").is_file():
        raise DataError(
            f"{folder}: no postprocessed.csv; the positions of MSLS's test cities are not published: read these with "
            "the reader msls_test"
        )
    table = read_table(folder / "postprocessed.csv")
    keys = table.column("key")
    keep = np.ones(len(keys), dtype=np.bool_)
    if subtask is not None:
        keep &= _flags_of(keys, read_table(folder / "subtask_index.csv"), subtask)
    if not panoramas:
        keep &= ~_flags_of(keys, table if "pano" in table.columns else read_table(folder / "raw.csv"), "pano")
    positions = np.column_stack([table.numbers("easting"), table.numbers("northing")])
    prefix = (folder / "images").relative_to(root).as_posix()
    return ImageSet(root, tuple(f"{prefix}/{keys[row]}.jpg" for row in np.flatnonzero(keep)), positions[keep])


def _flags_of(keys: Sequence[str], table: Table, column: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Returns the values of another table of the city for each key, whatever the order of its lines."""
    flags = dict(zip(table.column("key"), table.flags(column), strict=True))
    missing = next((key for key in keys if key not in flags), None)
    if missing is not None:
        raise DataError(f"{table.path}: no line for the image {missing!r} of postprocessed.csv")
    return np.array([flags[key] for key in keys], dtype=np.bool_)
