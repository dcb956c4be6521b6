"""Rows of a geometry benchmark: one per pair, kept while it runs, and as tables."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from vpr.core import Doubles

logger = logging.getLogger(__name__)

VERIFICATION = "verification"  # the estimator that the settings of that section describe
Row = dict[str, "float | int | str"]
T = TypeVar("T")


@dataclass(frozen=True)
class Estimator:
    """A name and a threshold in pixels; None for an estimator without one."""

    name: str
    threshold: float | None = None

    def __str__(self) -> str:
        return self.name if self.threshold is None else f"{self.name} {self.threshold:g}px"


def resumed(path: Path, count: int, compute: Callable[[int], Row]) -> Iterator[Row]:
    """The rows of ``count`` pairs, one by one; those that the file holds already are read from it.

    Every new row is appended to the file at once. A line that a killed run left unfinished is dropped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = _finished(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in done), encoding="utf-8")
    if done:
        logger.info("%s: %d of %d pairs are done", path, len(done), count)
    yield from done[:count]
    with path.open("a", encoding="utf-8") as file:
        for i in range(len(done), count):
            row = compute(i)
            file.write(json.dumps(row) + "\n")
            file.flush()
            yield row


def _finished(path: Path) -> list[Row]:
    if not path.exists():
        return []
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line) if line.endswith("\n") else None
        except json.JSONDecodeError:
            row = None
        if row is None:
            break
        rows.append(row)
    return rows


def parts_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """All rows under "all", and those of each part of the data set if there is more than one."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(str(row["part"]), []).append(row)
    return {"all": list(rows), **(parts if len(parts) > 1 else {})}


def mean_of(rows: Iterable[Row], column: str) -> float:
    """Mean over the rows in which the column is a finite number; NaN if there is none."""
    values = _numbers(rows, column)
    return float(values.mean()) if len(values) else math.nan


def median_of(rows: Iterable[Row], column: str) -> float:
    """The median instead; see mean_of."""
    values = _numbers(rows, column)
    return float(np.median(values)) if len(values) else math.nan


def _numbers(rows: Iterable[Row], column: str) -> Doubles:
    values = np.array([float(row.get(column, np.nan)) for row in rows], dtype=np.float64)
    return values[np.isfinite(values)]


def columns_of(rows: Iterable[Row], prefix: str = "") -> list[str]:
    """Every column whose name starts with this, in the order in which they first come."""
    return list(dict.fromkeys(column for row in rows for column in row if column.startswith(prefix)))


def csv_table(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns_of(rows), lineterminator="\n", restval="")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """A table in Markdown; fractions and errors with three digits, counts and names as they are.

    Rows that differ only in the part of the data set become columns, for there are many measures and few parts.
    """
    columns = columns_of(rows)
    body = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    rule = ["---" if isinstance(rows[0].get(column), str) else "---:" for column in columns]
    header = [column.replace("_", " ") for column in columns]
    lines = [header, rule, *body]
    if [column for column in columns if isinstance(rows[0].get(column), str)] == ["part"]:
        header, *measures = (list(line) for line in zip(header, *body, strict=True))
        lines = [header, ["---", *["---:"] * len(body)], *measures]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: float | int | str) -> str:
    if isinstance(value, str):
        return value.replace("|", "\\|")
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "n/a"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def plain_numbers(tables: dict[str, list[Row]]) -> dict[str, list[dict[str, float | int | str | None]]]:
    """The tables fit for strict JSON: what is not finite becomes null."""
    return {
        name: [{key: _finite(value) for key, value in row.items()} for row in rows] for name, rows in tables.items()
    }


def _finite(value: float | int | str) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
