"""Tables with a header line, read strictly: an error names the file, the line and the column.

Fields are separated by commas, or by semicolons, tabs or bars where the header has no comma, as Excel writes csv files
in countries with a decimal comma; numbers may then have one.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpr.core import DataError, Doubles, usable_name
from vpr.runtime.files import require_file

_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


@dataclass(frozen=True)
class Table:
    """A csv file in memory."""

    path: Path
    columns: tuple[str, ...]  # as the header writes them
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]  # line of the file in which each row ends, counted from 1
    delimiter: str = ","

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> tuple[str, ...]:
        if name not in self.columns:
            known = ", ".join(filter(None, self.columns))
            raise DataError(f"{self.path}: no column {name!r}; the header has {known}")
        index = self.columns.index(name)
        return tuple(row[index] for row in self.rows)

    def numbers(self, name: str) -> Doubles:
        texts = self.column(name)
        if self.delimiter != ",":
            texts = tuple(text.replace(",", ".") if text.count(",") == 1 else text for text in texts)
        return np.array(
            [
                finite(text, f"{self.path}, line {line}, column {name!r}")
                for text, line in zip(texts, self.lines, strict=True)
            ]
        )

    def flags(self, name: str) -> tuple[bool, ...]:
        texts = self.column(name)
        for text, line in zip(texts, self.lines, strict=True):
            if text not in ("True", "False"):
                raise DataError(f"{self.path}, line {line}, column {name!r}: expected True or False, found {text!r}")
        return tuple(text == "True" for text in texts)


def read_table(path: Path) -> Table:
    """Read a csv file with a header; blank lines are skipped, a leading byte-order mark is dropped."""
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    try:
        with require_file(path).open(encoding="utf-8-sig", newline="") as file:
            header_line = file.readline()
            file.seek(0)
            delimiter = next((mark for mark in _DELIMITERS if mark in header_line), ",")
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            for fields in reader:
                if fields:
                    rows.append(tuple(fields))
                    lines.append(reader.line_num)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable csv file: {error}") from None
    if not rows:
        raise DataError(f"{path}: empty; expected a header line with the names of the columns")
    header = tuple(name.strip() for name in rows[0])
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(row)} fields, but the header has {len(header)}; "
                f"put quotes round a field that holds {_DELIMITERS[delimiter]}"
            )
    return Table(path, header, tuple(rows[1:]), tuple(lines[1:]), delimiter)


def finite(text: str, where: str) -> float:
    """The number that a text writes; raises DataError for anything else, NaN and infinity included."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise DataError(f"{where}: expected a number, found {text!r}")
    return value


def name_at(name: str, where: str) -> str:
    """The normalised form of an image name; a DataError about it says where it was found."""
    try:
        return usable_name(name)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
