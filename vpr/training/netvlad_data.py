"""The data that NetVLAD is trained on: folders of Mapillary Street-Level Sequences, and of Pittsburgh with dbStruct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from vpr.core import DataError, Dataset, Doubles
from vpr.datasets.dbstruct import read_dbstruct
from vpr.datasets.msls import VALIDATION_CITIES, read_msls
from vpr.datasets.tables import read_table
from vpr.training.triplets import weights_of

TRAINING_CITIES = (
    "trondheim london boston melbourne amsterdam helsinki tokyo toronto saopaulo moscow zurich paris bangkok budapest "
    "austin berlin ottawa phoenix goa amman nairobi manila"
).split()


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Training set with the weight of each query, and validation set."""

    training: Dataset
    weights: Doubles  # (Q,)
    validation: Dataset


def read_mapillary(root: Path, panoramas: bool = False) -> TrainingData:
    """The training cities that lie under the folder, and the validation cities cph and sf, as far as they do.

    Queries at night and those that look sideways are drawn more often.
    """
    cities, held = (_present(root, each) for each in (TRAINING_CITIES, VALIDATION_CITIES))
    training = read_msls(root, cities, panoramas=panoramas, subtask=None)
    marks: list[list[bool]] = [[], []]
    for city in cities:
        folder = next(each for each in (root / "train_val" / city, root / city) if each.is_dir()) / "query"
        table = read_table(folder / "postprocessed.csv")
        prefix = (folder / "images").relative_to(root).as_posix()
        kept = {PurePosixPath(name).stem for name in training.queries.names if name.startswith(f"{prefix}/")}
        chosen = [row for row, key in enumerate(table.column("key")) if key in kept]
        night, views = table.flags("night"), table.column("view_direction")
        marks[0] += [night[row] for row in chosen]
        marks[1] += [views[row] == "Sideways" for row in chosen]
    weights = weights_of(marks, len(training.queries))
    return TrainingData(training, weights, read_msls(root, held, panoramas=panoramas))


def read_pittsburgh(root: Path, panoramas: bool = False) -> TrainingData:
    """The files ``*_train.mat`` and ``*_val.mat`` in the folder or its ``datasets``, and the images they list."""
    training, validation = (read_dbstruct(_struct(root, split), root) for split in ("train", "val"))
    return TrainingData(training, np.ones(len(training.queries)), validation)


TRAINSETS: dict[str, Callable[[Path, bool], TrainingData]] = {"mapillary": read_mapillary, "pitts": read_pittsburgh}


def _present(root: Path, cities: list[str] | tuple[str, ...]) -> list[str]:
    found = [city for city in cities if (root / "train_val" / city).is_dir() or (root / city).is_dir()]
    if not found:
        raise DataError(f"{root}: holds none of the cities {', '.join(cities)}; give the folder that holds train_val")
    return found


def _struct(root: Path, split: str) -> Path:
    found = sorted(path for folder in (root, root / "datasets") for path in folder.glob(f"*_{split}.mat"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{root}: expected one file *_{split}.mat in it or in its datasets/, found {names}")
    return found[0]
