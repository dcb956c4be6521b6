"""pairs.csv: what became of each pair of a list, and in which file its matches are."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from vpr.core import DataError
from vpr.datasets.tables import read_table
from vpr.exchange.match_npz import PairFile
from vpr.runtime.files import write_atomically

FILE_NAME = "pairs.csv"


@dataclass(frozen=True)
class PairRow:
    """One pair; ``problem`` says why there are no matches."""

    image0: str
    image1: str
    turns0: int = 0
    turns1: int = 0
    keypoints0: int = 0
    keypoints1: int = 0
    matches: int = 0
    inliers: int = 0
    score: float = 0.0
    file: str = ""  # relative to the folder of the table
    problem: str = ""


def row_of(image0: str, image1: str, pair: PairFile, file: str) -> PairRow:
    """The row of a pair that was matched."""
    return PairRow(
        image0,
        image1,
        turns0=pair.turns[0],
        turns1=pair.turns[1],
        keypoints0=len(pair.keypoints0),
        keypoints1=len(pair.keypoints1),
        matches=int((pair.matches >= 0).sum()),
        inliers=int(pair.inliers.sum()),
        score=pair.score,
        file=file,
    )


_TYPES = {field.name: {"int": int, "float": float}.get(str(field.type), str) for field in fields(PairRow)}


def write_pair_table(folder: Path, rows: Sequence[PairRow]) -> None:
    """Write pairs.csv into a folder."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_TYPES), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(folder / FILE_NAME, text.getvalue())


def read_pair_table(folder: Path) -> list[PairRow]:
    """Read pairs.csv of a folder. Raises DataError if there is none, or a damaged one."""
    path = folder / FILE_NAME
    if not path.exists():
        raise DataError(f"{path}: no such file; give the folder that `vpr match-pairs` wrote")
    table = read_table(path)
    columns = {name: table.column(name) for name in _TYPES}
    rows = []
    for place, line in enumerate(table.lines):
        try:
            rows.append(PairRow(**{name: kind(columns[name][place]) for name, kind in _TYPES.items()}))
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}; match the pairs again") from None
    return rows
