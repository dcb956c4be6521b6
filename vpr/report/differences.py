"""Two runs side by side: text for a terminal, one JSON object per query."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vpr.evaluation.bootstrap import Estimate
from vpr.evaluation.paired import Comparison, PairedChange, PairedQuery
from vpr.report.headline import CHANCE
from vpr.report.tables import aligned, percent, points


def comparison_text(comparison: Comparison, names: tuple[str, str], settings: Sequence[str], most: int = 20) -> str:
    """Returns differing settings, the table, and queries that changed at the first k, ``most`` of each kind."""
    rows = [["", names[0], names[1], "helped", "harmed", "difference", "by group", "McNemar p"]]
    rows += [_row(each) for each in comparison.changes]
    if comparison.groups is None:
        rows = [row[:6] + row[7:] for row in rows]
    lines = [*_settings_lines(settings), *aligned(rows), "", *_notes(comparison), "", *_verdict(comparison)]
    first = comparison.changes[0].change
    for title, queries in (("Helped", first.helped), ("Harmed", first.harmed)):
        if queries:
            lines += ["", f"{title} at {first.k}:"]
            lines += [f"  {_sentence(comparison.queries[row])}" for row in queries[:most]]
            if len(queries) > most:
                lines.append(f"  and {len(queries) - most} more")
    return "\n".join(lines) + "\n"


def difference_lines(comparison: Comparison) -> Iterator[str]:
    """One JSON object per query of which anything changed: its first candidate, or the rank of the first right one."""
    for each in comparison.queries:
        if (each.before, each.first_before) != (each.after, each.first_after):
            record: dict[str, Any] = {
                "query": each.query,
                "first_right_before": each.before,
                "first_right_after": each.after,
                "candidate_before": each.first_before,
                "candidate_after": each.first_after,
            }
            yield json.dumps(record, ensure_ascii=False)


def settings_that_differ(one_toml: str, other_toml: str) -> list[str]:
    """``section.key: then -> now`` for every setting that differs, in alphabetical order."""
    one, other = (dict(_flat(tomllib.loads(text))) for text in (one_toml, other_toml))
    return [
        f"{key}: {one.get(key, 'absent')} -> {other.get(key, 'absent')}"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _settings_lines(settings: Sequence[str]) -> list[str]:
    if not settings:
        return ["The settings are the same.", ""]
    return ["Settings that differ:", *(f"  {line}" for line in settings), ""]


def _row(each: PairedChange) -> list[str]:
    what = each.change
    return [
        f"recall@{what.k}",
        percent(each.before),
        percent(each.after),
        str(len(what.helped)),
        str(len(what.harmed)),
        _signed(what.difference),
        "" if each.by_group is None else f"[{points(each.by_group.low)}, {points(each.by_group.high)}]",
        f"{what.p_value:.2g}",
    ]


def _signed(estimate: Estimate) -> str:
    return f"{points(estimate.value)} [{points(estimate.low)}, {points(estimate.high)}]"


def _notes(comparison: Comparison) -> list[str]:
    notes = [
        "Recall in percent, differences in points over all queries; in brackets: 95 % paired bootstrap over queries.",
        "McNemar: exact, two-sided.",
    ]
    if comparison.groups is not None:
        notes.append(f"By group: the interval where whole {comparison.groups} are drawn.")
    return notes


def _verdict(comparison: Comparison) -> list[str]:
    """One sentence on the first k, which says chance where it may be chance."""
    first = comparison.changes[0]
    what, groups = first.change, first.by_group
    if not what.helped and not what.harmed:
        return [f"No query changed at recall@{what.k}."]
    direction = "better" if what.difference.value > 0 else "worse" if what.difference.value < 0 else "as good"
    if what.p_value >= CHANCE or what.difference.value == 0:
        return [f"At recall@{what.k} the difference may be chance (p = {what.p_value:.2g})."]
    doubt = ""
    if groups is not None and groups.low <= 0 <= groups.high:
        doubt = ", but the interval over groups includes no difference: the queries that changed lie together"
    return [f"At recall@{what.k} the second run is {direction} (p = {what.p_value:.2g}){doubt}."]


def _sentence(each: PairedQuery) -> str:
    before, after = (f"rank {rank}" if rank is not None else "no positive" for rank in (each.before, each.after))
    return f"{each.query}: {before} -> {after}; first was {each.first_before}, is {each.first_after}"
