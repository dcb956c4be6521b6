"""The test cities of Mapillary Street-Level Sequences, whose positions are not published.

Their folders have ``seq_info.csv`` and ``subtask_index.csv`` alone. What a run predicts is measured by the challenge,
see ``vpr.report.msls_challenge``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vpr.core import ConfigError, DataError, Dataset, ImageSet
from vpr.datasets.folders import NO_GROUND_TRUTH
from vpr.datasets.msls import SUBTASKS
from vpr.datasets.tables import read_table

TEST_CITIES = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")


def read_msls_test(
    root: Path, cities: Sequence[str] = TEST_CITIES, *, subtask: str = "all", joined: bool = False
) -> Dataset:
    """Cities of ``root/test``, without ground truth; of each the images that ``subtask_index.csv`` marks.

    ``joined`` searches the images of all cities for every query.
    """
    if not cities or len(set(cities)) < len(cities):
        raise ConfigError(f"cities {', '.join(cities) or '(none)'}: name at least one, each once")
    if subtask not in SUBTASKS:
        raise ConfigError(f"unknown MSLS subtask {subtask!r}; known: {', '.join(SUBTASKS)}")
    database, queries = (
        _images(root, [_names(root, city, side, subtask) for city in cities], joined) for side in ("database", "query")
    )
    return Dataset("msls-test-" + "-".join(cities), NO_GROUND_TRUTH, database, queries)


def _images(root: Path, cities: Sequence[Sequence[str]], joined: bool) -> ImageSet:
    regions = np.repeat(np.arange(len(cities)), [len(names) for names in cities])
    names = tuple(name for names in cities for name in names)
    return ImageSet(root, names, regions=None if joined else regions)


def _names(root: Path, city: str, side: str, subtask: str) -> list[str]:
    folder = next((root / name for name in (f"test/{city}", city) if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: no folder test/{city}; give the folder that holds test")
    table = read_table(folder / side / "subtask_index.csv")
    prefix = (folder / side / "images").relative_to(root).as_posix()
    chosen = zip(table.column("key"), table.flags(subtask), strict=True)
    return [f"{prefix}/{key}.jpg" for key, marked in chosen if marked]
