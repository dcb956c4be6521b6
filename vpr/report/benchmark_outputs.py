"""The files of a benchmark: csv, JSON, Markdown and one page that leads to the report of every combination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vpr.report.benchmark_rows import Row, csv_text, markdown, percent_of, shown_ks, text
from vpr.report.page import environment
from vpr.runtime.files import write_atomically, write_json

FailureLine = tuple[str, str, str]  # data set, method, error
LEFT, RIGHT, LINE, TOP = 8, 552, 26, 26  # of the figure, in its units


def write_benchmark(out: Path, rows: Sequence[Row], failures: Sequence[FailureLine], about: Mapping[str, str]) -> str:
    """Write benchmark.csv, .json, .md and .html into the folder; returns the table for a terminal."""
    ks = shown_ks(rows)
    write_atomically(out / "benchmark.csv", csv_text(rows))
    failed = [dict(zip(("dataset", "method", "error"), failure, strict=True)) for failure in failures]
    write_json(out / "benchmark.json", {**about, "rows": [asdict(row) for row in rows], "failures": failed})
    write_atomically(out / "benchmark.md", markdown(rows, ks, failures))
    write_atomically(out / "benchmark.html", page(rows, failures, about).encode("utf-8", "replace"))
    lines = [text(rows, ks)] if rows else []
    lines += [f"failed: {dataset}, {method}: {error}" for dataset, method, error in failures]
    return "\n".join([*lines, f"Table: {out / 'benchmark.csv'}", f"Page:  {out / 'benchmark.html'}"])


def page(rows: Sequence[Row], failures: Sequence[FailureLine], about: Mapping[str, str]) -> str:
    """The overview as one self-contained page: a figure, a table, what failed."""
    ks = shown_ks(rows)
    methods = list(dict.fromkeys(row.method for row in rows))
    return (
        environment()
        .get_template("benchmark.html.j2")
        .render(
            sets=_sets(rows, methods, ks),
            methods=methods,
            ks=ks,
            overview=_overview(rows, failures, ks),
            failures=failures,
            about=about,
            percent=percent_of,
        )
    )


@dataclass(frozen=True)
class Whisker:
    """Recall at the first k of one row, as the figure draws it."""

    label: str
    stage: int  # of the method's stages, from 0
    method: int
    y: float
    low: float
    value: float
    high: float
    title: str


@dataclass(frozen=True)
class DatasetBlock:
    """Rows of one data set and their figure."""

    name: str
    first: Row
    rows: tuple[Row, ...]
    best: tuple[float | None, ...]  # largest recall at each shown k
    whiskers: tuple[Whisker, ...]
    ticks: tuple[tuple[float, str], ...]
    height: float


@dataclass(frozen=True)
class Overview:
    """Recall at the first k of what came out in the end: methods down, data sets across."""

    datasets: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]  # method, a cell per data set


def _overview(rows: Sequence[Row], failures: Sequence[FailureLine], ks: Sequence[int]) -> Overview:
    last = {(row.dataset, row.method): row for row in rows}  # a later stage replaces an earlier one
    failed = {(dataset, method) for dataset, method, _ in failures}
    datasets = tuple(dict.fromkeys([*(row.dataset for row in rows), *(failure[0] for failure in failures)]))
    methods = dict.fromkeys([*(row.method for row in rows), *(failure[1] for failure in failures)])

    def cell(dataset: str, method: str) -> str:
        found = last.get((dataset, method))
        if found is None or not ks:
            return "failed" if (dataset, method) in failed else ""
        return percent_of(found.recall[ks[0]]["value"])

    return Overview(datasets, tuple((method, tuple(cell(name, method) for name in datasets)) for method in methods))


def _sets(rows: Sequence[Row], methods: Sequence[str], ks: Sequence[int]) -> list[DatasetBlock]:
    names = dict.fromkeys(row.dataset for row in rows)
    return [_block(name, [row for row in rows if row.dataset == name], methods, ks) for name in names]


def _block(name: str, rows: Sequence[Row], methods: Sequence[str], ks: Sequence[int]) -> DatasetBlock:
    best = [max((row.recall[k]["value"] or 0.0 for row in rows), default=None) for k in ks]
    whiskers = [_whisker(row, place, rows, methods, ks[0]) for place, row in enumerate(rows)] if ks else []
    ticks = tuple((_x(step / 5), f"{20 * step}") for step in range(6))
    return DatasetBlock(name, rows[0], tuple(rows), tuple(best), tuple(whiskers), ticks, TOP + LINE * len(rows) + 24)


def _whisker(row: Row, place: int, rows: Sequence[Row], methods: Sequence[str], k: int) -> Whisker:
    found = row.recall[k]
    value, low, high = ((found[bound] or 0.0) for bound in ("value", "low", "high"))
    stages = [each.stage for each in rows if each.method == row.method]
    return Whisker(
        f"{row.method}, {row.stage}",
        stages.index(row.stage),
        methods.index(row.method),
        TOP + LINE * (place + 0.5),
        _x(low),
        _x(value),
        _x(high),
        f"{row.method}, {row.stage}: recall@{k} {percent_of(value)} [{percent_of(low)}, {percent_of(high)}]",
    )


def _x(fraction: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * fraction, 1)
