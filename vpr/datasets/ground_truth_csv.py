"""Ground truth as a table of names: ``query,positives[,soft_positives]``.

Names are relative to the folder of the csv file; several positives are separated by spaces, or, if any cell of the
file holds a ``;``, by ``;``. So names with spaces need a ``;`` (a trailing one will do), and no name holds a ``;``.
A query that the file does not list has no positives.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vpr.core import DataError, Dataset, ImageSet, Rows, usable_name
from vpr.datasets.folders import read_folders
from vpr.datasets.tables import name_at, read_table

FILE_NAME = "ground_truth.csv"

_log = logging.getLogger(__name__)


def read_ground_truth_csv(root: Path, column: str = "positives") -> Dataset:
    """A folder that holds ``database/``, ``queries/`` and ``ground_truth.csv``."""
    return read_listed(root / FILE_NAME, root / "database", root / "queries", column)


def read_listed(path: Path, database: Path, queries: Path, column: str = "positives") -> Dataset:
    """Two folders of images and the csv file that lists the positives."""
    images = read_folders(database, queries, ground_truth=False)
    positives = positives_listed(path, images.queries, images.database, column)
    return replace(images, protocol=f"{path.name} {column}", positives=positives)


def positives_listed(path: Path, queries: ImageSet, database: ImageSet, column: str = "positives") -> tuple[Rows, ...]:
    """Per query, the database rows that a csv file lists for it, ascending.

    Rows about images outside the folder of the queries are passed over. Raises DataError for a query listed twice
    and for names that are not on disk, with their line.
    """
    table = read_table(path)
    cells = table.column(column)
    separator = ";" if any(";" in cell for cell in cells) else None
    query_rows = _rows_by_name(queries, path.parent)
    database_rows = _rows_by_name(database, path.parent)
    found: dict[int, Rows] = {}
    for line, query, cell in zip(table.lines, table.column("query"), cells, strict=True):
        where = f"{path}, line {line}"
        key = name_at(query.strip(), where)
        row = _row(query_rows, key)
        if row is None:
            _require_elsewhere(path, key, queries, where)
            continue
        if row in found:
            raise DataError(f"{where}: query {query!r} is listed twice; put all its positives on one line")
        found[row] = _listed(cell.split(separator), database_rows, where)
    if len(found) < len(queries):
        unlisted = next(name for row, name in enumerate(queries.names) if row not in found)
        _log.warning(
            "%s: %d of %d queries are not listed and count as queries without positives, which no ranking gets right: "
            "%s",
            path,
            len(queries) - len(found),
            len(queries),
            unlisted,
        )
    nothing = np.empty(0, dtype=np.int64)
    return tuple(found.get(row, nothing) for row in range(len(queries)))


def fits(path: Path, queries: Path) -> bool:
    """Whether a ground truth file beside a folder of queries speaks of images in that folder."""
    if not path.is_file():
        return False
    table = read_table(path)
    if {"query", "positives"} <= set(table.columns):
        prefix = _prefix(queries, path.parent)
        names = (name_at(name.strip(), str(path)) for name in table.column("query"))
        if any(name.startswith(prefix) for name in names):
            return True
    _log.warning("%s: lists no query in %s and is not used", path, queries)
    return False


def _prefix(folder: Path, base: Path) -> str:
    return Path(os.path.relpath(folder, base)).as_posix() + "/"


def _rows_by_name(images: ImageSet, base: Path) -> dict[str, int]:
    prefix = _prefix(images.root, base)
    rows = {prefix + usable_name(name): row for row, name in enumerate(images.names)}
    for name, row in list(rows.items()):
        if not name.isascii():  # file systems and editors write one accent in two ways
            for form in ("NFC", "NFD"):
                rows.setdefault(unicodedata.normalize(form, name), row)
    return rows


def _row(rows: Mapping[str, int], name: str) -> int | None:
    found = rows.get(name)
    return rows.get(unicodedata.normalize("NFC", name)) if found is None else found


def _listed(names: Sequence[str], database_rows: Mapping[str, int], where: str) -> Rows:
    rows = set()
    for name in filter(None, (name.strip() for name in names)):
        row = _row(database_rows, name)
        row = _row(database_rows, name_at(name, where)) if row is None else row
        if row is None:
            raise DataError(
                f"{where}: positive {name!r} is not an image of the database; correct the name "
                "(names with spaces need a ; between them and at the end)"
            )
        rows.add(row)
    return np.array(sorted(rows), dtype=np.int64)


def _require_elsewhere(path: Path, name: str, queries: ImageSet, where: str) -> None:
    """A query outside the folder of the queries is someone else's, if it exists; of a single query, any other."""
    inside = name.startswith(_prefix(queries.root, path.parent)) and len(queries) > 1
    if inside or not (path.parent / name).is_file():
        raise DataError(f"{where}: query {name!r} is not an image of {queries.root}; correct the name")
