"""A known data set below a folder: which of its layouts lies there, and is it whole?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vpr.core import DataError, Dataset, ImageSet
from vpr.datasets.catalogue import EvaluationProtocol
from vpr.datasets.ground_truth_csv import FILE_NAME
from vpr.datasets.image_lists import DATABASE_SUFFIX, QUERY_SUFFIX
from vpr.datasets.readers import reader

CUT_OUTS = 12  # of a panorama of Tokyo 24/7
_ABOVE = ("", "images/test", "test", "processed/test", "small/test")  # where data sets keep their two folders

Arguments = dict[str, Any]


def find(record: EvaluationProtocol, root: Path) -> Dataset:
    """Read a protocol's data set from the first of its layouts that lies in the folder; it is not judged yet.

    Raises DataError that lists the layouts if there is none, and if a file of the layout is damaged.
    """
    for place, name in enumerate(record.readers):
        arguments = _LOCATORS[name](record, root)
        if arguments is not None:
            own: Arguments = dict(record.reading) if place == 0 else {}
            return reader(name).read(**arguments, **own)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds {record.dataset}")
    raise DataError(f"{root}: no layout of {record.name} lies there; expected one of: {'; '.join(layouts(record))}")


def two_folders(root: Path, names: tuple[str, str] = ("database", "queries")) -> tuple[Path, Path]:
    """The folders of database and queries below a data set's folder; raises DataError if they are not there."""
    for above in _ABOVE:
        database, queries = (root / above / name for name in names)
        if database.is_dir() and queries.is_dir():
            return database, queries
    raise DataError(f"{root}: no folders {names[0]} and {names[1]}; looked at the top and in {', '.join(_ABOVE[1:])}")


def layouts(record: EvaluationProtocol) -> list[str]:
    """Layouts that the folder given as ROOT may have."""
    return [_EXPECTED[name].format(database=record.folders[0], queries=record.folders[1]) for name in record.readers]


def missing_images(images: ImageSet) -> list[str]:
    """Names of the images that are not on disk, or empty, in the order of the set."""
    return [name for row, name in enumerate(images.names) if not _is_there(images.path(row))]


def _is_there(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _folders(record: EvaluationProtocol, root: Path) -> Arguments | None:
    try:
        database, queries = two_folders(root, record.folders)
    except DataError:
        return None
    truth = record.frames is None  # frames are counted, their names need no positions
    panoramas = {"group_panoramas": True} if record.one_per_group else {}
    return {"database": database, "queries": queries, "ground_truth": truth, **panoramas}


def _listed(record: EvaluationProtocol, root: Path) -> Arguments | None:
    return {"root": root} if (root / FILE_NAME).is_file() else None


def _image_lists(record: EvaluationProtocol, root: Path) -> Arguments | None:
    database, queries = (_file_of(record, root, f"{suffix}.txt") for suffix in (DATABASE_SUFFIX, QUERY_SUFFIX))
    if database is None or queries is None:
        return None
    truth = _file_of(record, root, ".npz")
    found: Arguments = {"root": root, "database": database, "queries": queries, "ground_truth": truth}
    return {**found, **_cut_outs(record)}


def _dbstruct(record: EvaluationProtocol, root: Path) -> Arguments | None:
    struct = _file_of(record, root, ".mat")
    return None if struct is None else {"path": struct, "root": root, **_cut_outs(record)}


def _msls(record: EvaluationProtocol, root: Path) -> Arguments | None:
    return {"root": root} if (root / "train_val").is_dir() else None


def _kapture(record: EvaluationProtocol, root: Path) -> Arguments | None:
    trees = [root / side for side in ("mapping", "query")]
    return {"mapping": trees[0], "query": trees[1]} if all((tree / "sensors").is_dir() for tree in trees) else None


def _cut_outs(record: EvaluationProtocol) -> Arguments:
    return {"group_size": CUT_OUTS} if record.one_per_group else {}


def _file_of(record: EvaluationProtocol, root: Path, suffix: str) -> Path | None:
    """The file called as the protocol is (``pitts30k_test.mat``), else the only one of that kind; None without any.

    Raises DataError for several: a guess would judge by another split.
    """
    name = record.name.split("@")[0].replace("-", "_")
    for called in (name, f"{name}_test"):
        if (root / f"{called}{suffix}").is_file():
            return root / f"{called}{suffix}"
    found = sorted(root.glob(f"*{suffix}"))
    if len(found) > 1:
        raise DataError(
            f"{root}: {found[0].name} and {found[1].name} are both there; call the one to use {name}{suffix}"
        )
    return found[0] if found else None


_LOCATORS: Mapping[str, Callable[[EvaluationProtocol, Path], Arguments | None]] = {
    "folders": _folders,
    "ground_truth_csv": _listed,
    "image_lists": _image_lists,
    "dbstruct": _dbstruct,
    "msls": _msls,
    "kapture": _kapture,
}
_EXPECTED = {
    "folders": "the folders {database} and {queries}, at the top or in images/test, test, processed/test or small/test",
    "ground_truth_csv": f"database, queries and {FILE_NAME}",
    "image_lists": f"one *{DATABASE_SUFFIX}.txt, one *{QUERY_SUFFIX}.txt and one *.npz, and the images they name",
    "dbstruct": "a *.mat with a dbStruct (of several, the one called as the protocol is), and the images it names",
    "msls": "train_val/cph and train_val/sf with their csv files",
    "kapture": "the kapture trees mapping and query",
}
