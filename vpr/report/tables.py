"""Recall as files and tables: recalls.txt, recalls.json, plain text for the terminal, Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpr.core import NO_ROW, Dataset, Ranking
from vpr.datasets.zones import in_own_region
from vpr.evaluation.bootstrap import Estimate
from vpr.evaluation.comparison import Change, Summary
from vpr.evaluation.recall import RecallTable
from vpr.report.numbers import estimate_record, number
from vpr.report.predictions import database_degrees
from vpr.runtime.files import write_atomically, write_json


def write_recalls(path: Path, recalls: Mapping[str, RecallTable]) -> None:
    """Write recalls.txt; see recall_lines."""
    write_atomically(path, recall_lines(recalls))


def write_recalls_json(path: Path, summary: Summary, unreadable: Mapping[str, int] | None = None) -> None:
    """Write recalls.json: the summary with its intervals, denominators and changes; a recall of no query is null.

    ``unreadable`` counts the images of each role that could not be read.
    """
    write_json(path, {**_summary_json(summary), "unreadable_images": dict(unreadable or {})})


def recall_lines(recalls: Mapping[str, RecallTable]) -> str:
    """Patch-NetVLAD's recalls.txt: ``Recall NetVLAD@1: 0.8350``, stage after stage, over all queries."""
    return "".join(
        f"Recall {label}@{k}: {estimate.value:.4f}\n"
        for label, table in recalls.items()
        for k, estimate in zip(table.ks, table.over_all, strict=True)
    )


def text_table(summary: Summary) -> str:
    """Recall in percent, one row per stage, for a terminal."""
    return "\n".join([_title(summary), "", *aligned(_rows(summary)), "", *_notes(summary)]) + "\n"


def answer_lines(dataset: Dataset, ranking: Ranking, count: int) -> list[str]:
    """The first candidates of every query with score, inliers and position, one line each."""
    lines = []
    degrees = database_degrees(dataset)
    places = None if dataset.database.positions is None else in_own_region(dataset.database.positions)
    for query, name in enumerate(dataset.queries.names):
        lines.append(name)
        for place, row in enumerate(ranking.rows[query, :count].tolist()):
            if row == NO_ROW:
                break
            facts = [f"score {ranking.scores[query, place]:.3f}"]
            if ranking.evidence is not None and ranking.evidence.inliers[query, place] >= 0:
                facts.append(f"{ranking.evidence.inliers[query, place]} inliers")
            if places is not None:
                east, north = places[row].tolist()
                facts.append(f"UTM {dataset.database.zone or ''} {east:.1f} {north:.1f}".replace("  ", " "))
            if degrees is not None:
                facts.append(f"latitude {degrees[row, 0]:.6f}, longitude {degrees[row, 1]:.6f}")
            lines.append(f"  {place + 1}. {dataset.database.names[row]}  {', '.join(facts)}")
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [label.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        ).rstrip()
        for label, *cells in rows
    ]


def percent(fraction: float) -> str:
    """One decimal, without the sign; n/a for what was measured on no query."""
    return "n/a" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    if math.isnan(difference):
        return "n/a"
    text = f"{100 * difference:+.1f}"
    return "0.0" if text[1:] == "0.0" else text.replace("-", "\u2212")


def with_interval(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def length_text(metres: float) -> str:
    """Metres in the digits that matter on the ground."""
    if metres >= 10_000:
        return f"{metres / 1000:.1f} km"
    return f"{metres:.0f} m" if metres >= 100 else f"{metres:.1f} m"


def rule_with_hash(summary: Summary) -> str:
    """The protocol and its hash, once."""
    stated = f"[{summary.protocol_hash}]"
    return summary.protocol if summary.protocol.endswith(stated) else f"{summary.protocol} {stated}"


def _title(summary: Summary) -> str:
    table = next(iter(summary.recalls.values()))
    return (
        f"{summary.dataset}, {rule_with_hash(summary)}: recall in percent over {table.queries} queries, "
        f"{table.unanswerable} of them without a positive in the database"
        + (f"; {summary.unknown} more are left out, since their positives are not known" if summary.unknown else "")
    )


def _rows(summary: Summary) -> list[list[str]]:
    """Header, stages over all and over answerable queries, ceiling, helped and harmed."""
    tables = summary.recalls
    ks = next(iter(tables.values())).ks
    rows = [["", *(f"recall@{k}" for k in ks)]]
    rows += [[label, *_cells(table.over_all)] for label, table in tables.items()]
    rows += [
        [f"{label}, answerable queries", *_cells(table.over_answerable)]
        for label, table in tables.items()
        if table.unanswerable
    ]
    rows.append(["ceiling: perfect re-ranking", *[percent(summary.ceiling)] * len(ks)])
    if summary.changes:
        rows.append(["helped / harmed", *(f"{len(c.helped)} / {len(c.harmed)}" for c in summary.changes)])
    return rows


def _cells(estimates: Sequence[Estimate]) -> list[str]:
    first, *others = estimates
    return [with_interval(first), *(percent(estimate.value) for estimate in others)]


def _notes(summary: Summary) -> list[str]:
    return [
        "In brackets: 95 % bootstrap interval over queries.",
        f"Ceiling: queries whose shortlist of {summary.shortlist} holds a positive.",
        f"Ground truth {summary.ground_truth}: recalls compare where this and the protocol's hash are the same.",
    ]


def _summary_json(summary: Summary) -> dict[str, Any]:
    first = next(iter(summary.recalls.values()))
    return {
        "dataset": summary.dataset,
        "protocol": summary.protocol,
        "protocol_hash": summary.protocol_hash,
        "ground_truth": summary.ground_truth,
        "queries": first.queries,
        "queries_without_positives": first.unanswerable,
        "queries_left_out": summary.unknown,
        "interval": "95 % percentile bootstrap over queries",
        "stages": {label: _table_json(table) for label, table in summary.recalls.items()},
        "shortlist": summary.shortlist,
        "ceiling": number(summary.ceiling),
        "changes": [_change_json(change) for change in summary.changes],
    }


def _table_json(table: RecallTable) -> dict[str, Any]:
    return {
        "over_all_queries": {
            str(k): estimate_record(estimate) for k, estimate in zip(table.ks, table.over_all, strict=True)
        },
        "over_answerable_queries": {
            str(k): estimate_record(estimate) for k, estimate in zip(table.ks, table.over_answerable, strict=True)
        },
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "k": change.k,
        "helped": len(change.helped),
        "harmed": len(change.harmed),
        "difference": estimate_record(change.difference),
        "mcnemar_p": change.p_value,
    }
