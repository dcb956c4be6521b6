"""A benchmark's table: one row per data set, protocol, method and stage; as csv, JSON, Markdown and text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpr.core import DataError
from vpr.report.outputs import REPORT
from vpr.report.tables import aligned
from vpr.runtime.files import read_json

BOUNDS = ("value", "low", "high")


@dataclass(frozen=True)
class Row:
    """One stage of one method on one data set; None is what was not measured."""

    dataset: str
    protocol: str
    protocol_hash: str
    ground_truth: str
    method: str
    stage: str
    queries: int
    without_positives: int
    left_out: int  # queries whose positives are not known
    recall: Mapping[int, Mapping[str, float | None]]  # by k: value, low, high over all queries
    recall_answerable: Mapping[int, float | None]
    by_group: Mapping[str, float | None] | None  # recall at the first k: value, low, high over groups of queries
    ceiling: float | None
    auc_pr: float | None  # of accepting the first candidate by its score
    recall_at_100_precision: float | None
    p50_ms: float | None
    p95_ms: float | None
    bytes_per_image: float | None
    report: str  # relative to the benchmark's folder


def rows_of(place: Path, out: Path, dataset: str, method: str) -> list[Row]:
    """The rows of a finished run, from the tables it left. Raises DataError if one of them cannot be read."""
    try:
        recalls, statistics = read_json(place / "recalls.json"), read_json(place / "statistics.json")
        return [
            _row(
                label,
                recalls,
                statistics,
                dataset=dataset,
                method=method,
                report=(place / REPORT).relative_to(out).as_posix(),
            )
            for label in recalls["stages"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: its tables cannot be read: {error!r}; delete the folder and run again") from None


def csv_text(rows: Sequence[Row]) -> str:
    """All columns; fractions with all their digits, empty where nothing was measured."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    ks = all_ks(rows)
    recalls = [f"recall@{k}{suffix}" for k in ks for suffix in ("", "_low", "_high")]
    answerable = [f"recall@{k}_answerable" for k in ks]
    writer.writerow([*_BEFORE, *recalls, *answerable, "group_low", "group_high", *_AFTER])
    for row in rows:
        values = [row.recall.get(k, {}).get(bound) for k in ks for bound in BOUNDS]
        values += [row.recall_answerable.get(k) for k in ks]
        values += [None if row.by_group is None else row.by_group[end] for end in ("low", "high")]
        cells = [*(getattr(row, name) for name in _BEFORE), *values, *(getattr(row, name) for name in _AFTER)]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return buffer.getvalue()


def table(rows: Sequence[Row], ks: Sequence[int]) -> list[list[str]]:
    """Header and one line per row, recall in percent, for people."""
    header = ["data set", "protocol", "hash", "method", "stage", "queries", *(f"@{k}" for k in ks), "p50 ms"]
    return [header, *(_cells(row, ks) for row in rows)]


def text(rows: Sequence[Row], ks: Sequence[int]) -> str:
    return "\n".join(aligned(table(rows, ks))) + "\n"


def markdown(rows: Sequence[Row], ks: Sequence[int], failures: Sequence[tuple[str, str, str]]) -> str:
    """The table, what its columns mean, and what failed."""
    header, *body = [[cell.replace("|", "\\|") for cell in line] for line in table(rows, ks)]
    rule = [*["---"] * 5, *["---:"] * (len(header) - 5)]
    lines = ["| " + " | ".join(line) + " |" for line in (header, rule, *body)]
    lines += ["", "Recall in percent over all queries, in brackets the 95 % bootstrap interval over queries."]
    if failures:
        lines += ["", "Failed:", "", *(f"- {dataset}, {method}: {error}" for dataset, method, error in failures)]
    return "\n".join(lines) + "\n"


def all_ks(rows: Sequence[Row]) -> list[int]:
    return sorted({k for row in rows for k in row.recall})


def shown_ks(rows: Sequence[Row], most: int = 4) -> list[int]:
    """The first few k that every row has."""
    return [k for k in all_ks(rows) if all(k in row.recall for row in rows)][:most]


def percent_of(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"


_BEFORE = (
    "dataset", "protocol", "protocol_hash", "ground_truth", "method", "stage", "queries", "without_positives",
    "left_out",
)  # fmt: skip
_AFTER = (
    "ceiling", "auc_pr", "recall_at_100_precision", "p50_ms", "p95_ms", "bytes_per_image", "report",
)  # fmt: skip


def _row(
    label: str, recalls: Mapping[str, Any], statistics: Mapping[str, Any], *, dataset: str, method: str, report: str
) -> Row:
    stage, measured = recalls["stages"][label], statistics["stages"][label]
    accepted, times = measured["first_candidate"].get("score"), measured["latency_ms"]
    ks = [int(k) for k in stage["over_all_queries"]]
    grouped, sizes = measured["recall_by_group"], statistics["bytes_per_image"]
    return Row(
        dataset=dataset,
        protocol=recalls["protocol"],
        protocol_hash=recalls["protocol_hash"],
        ground_truth=recalls["ground_truth"],
        method=method,
        stage=label,
        queries=recalls["queries"],
        without_positives=recalls["queries_without_positives"],
        left_out=recalls.get("queries_left_out", 0),
        recall={k: stage["over_all_queries"][str(k)] for k in ks},
        recall_answerable={k: stage["over_answerable_queries"][str(k)]["value"] for k in ks},
        by_group=None if grouped is None else grouped[str(ks[0])],
        ceiling=recalls["ceiling"],
        auc_pr=None if accepted is None else accepted["auc_pr"],
        recall_at_100_precision=None if accepted is None else accepted["recall_at_100_precision"],
        p50_ms=None if times is None else times["p50"],
        p95_ms=None if times is None else times["p95"],
        bytes_per_image=round(sum(sizes.values()), 1) if sizes else None,
        report=report,
    )


def _cells(row: Row, ks: Sequence[int]) -> list[str]:
    recalls = [percent_of(row.recall[k]["value"]) for k in ks]
    if ks:
        first = row.recall[ks[0]]
        recalls[0] += f" [{percent_of(first['low'])}, {percent_of(first['high'])}]"
    named = row.protocol.removesuffix(f" [{row.protocol_hash}]")
    time = "" if row.p50_ms is None else f"{row.p50_ms:.1f}"
    return [row.dataset, named, row.protocol_hash, row.method, row.stage, str(row.queries), *recalls, time]
