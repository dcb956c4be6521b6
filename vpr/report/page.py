"""One self-contained HTML page about a run: no network, no script, images inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vpr.core import DataError, Dataset, Doubles, Ranking
from vpr.evaluation.comparison import Summary
from vpr.evaluation.known import with_known_queries
from vpr.evaluation.statistics import first_right, query_times_ms
from vpr.report.charts import WORDS, acceptance_chart, acceptance_rows, distance_chart, histograms
from vpr.report.figures import position_map, recall_curves
from vpr.report.gallery import Card, Drawn, Gallery, Pictures, fineness
from vpr.report.headline import WITHOUT_TRUTH, headline
from vpr.report.outcomes import FAILURES, TITLES, Outcome, outcomes, shares, spread
from vpr.report.tables import percent, points, rule_with_hash
from vpr.results import RunResult
from vpr.runtime.files import write_atomically
from vpr.runtime.timing import Timing, plural

if TYPE_CHECKING:
    from jinja2 import Environment

MEMORY = {"memory": "peak memory", "gpu_memory": "peak GPU memory"}  # fields of a timing, and how the page says it
MAX_NAMES = 200  # helped or harmed queries listed by name


def write_report(path: Path, report: RunResult, pictures: Pictures, correspondences: Drawn) -> None:
    """Write the page. Raises DataError without stages, or for a recall@k that they are too narrow for."""
    text = render(report, pictures, correspondences)
    write_atomically(path, text.encode("utf-8", "replace"))  # a command line may hold bytes that are not UTF-8


def render(report: RunResult, pictures: Pictures, correspondences: Drawn) -> str:
    """The page as text; see write_report."""
    content = _content(report, pictures, correspondences)
    return environment().get_template("report.html.j2").render(report=report, titles=TITLES, words=WORDS, **content)


def environment() -> Environment:
    """Where the templates are found and how they show numbers; everything shown is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("vpr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "points": points, "rule_with_hash": rule_with_hash}
    return made


def _content(report: RunResult, pictures: Pictures, correspondences: Drawn) -> dict[str, Any]:
    """Returns the values of the template by name."""
    dataset = report.dataset
    if not report.stages:
        raise DataError(f"{dataset.name}: a report needs at least one ranking")
    rankings = list(report.stages.values())
    fates = outcomes(rankings[0], rankings[-1], dataset.positives, dataset.unknown)
    pixels, lines = fineness(_card_count(fates, report.failures))
    gallery = Gallery(dataset, rankings[0], rankings[-1], pictures, correspondences, pixels, lines)
    summary = report.summary
    failures = _failures(gallery, fates, report.failures)
    rescued = _section(gallery, fates, Outcome.RESCUED, _examples(report.failures))
    right = _section(gallery, fates, Outcome.KEPT, _examples(report.failures))
    unknown = _section(gallery, fates, Outcome.UNKNOWN, report.failures)
    cards = [card for section in (*failures, rescued, right, unknown) for card in section.cards]
    linked = frozenset(card.query for card in cards)
    drawn = position_map(dataset, fates, linked, rankings[-1])
    return {
        "dataset": dataset,
        "summary": summary,
        "sentences": headline(summary) if summary else WITHOUT_TRUTH,
        "curves": recall_curves(dataset, report.stages, report.recall_at, summary.ceiling) if summary else None,
        "changed": _changed(summary, dataset),
        "failures": failures,
        "rescued": rescued,
        "right": right,
        "unknown": unknown,
        "linked": linked,
        "map": drawn,
        "mapped": frozenset() if drawn is None else frozenset(mark.query for mark in drawn.marks),
        "counts": {outcome: fates.count(outcome) for outcome in TITLES if outcome in fates},
        "timings": timing_rows(report.timings, report.stages),
        "memory_columns": {
            title: field
            for field, title in MEMORY.items()
            if any(getattr(timing, field) is not None for timing in report.timings)
        },
        "statistics": report.statistics,
        "max_names": MAX_NAMES,
        **_confidence(report),
    }


def _confidence(report: RunResult) -> dict[str, Any]:
    """Returns the calibration of the first candidates of the last stage."""
    if report.statistics is None:
        return {"accepted": None, "accepted_rows": [], "histograms": [], "distances": None}
    label = list(report.stages)[-1]
    known, stages = with_known_queries(report.dataset, report.stages)
    ranking = stages[label]
    curves = report.statistics.stages[label].acceptance
    return {
        "accepted": acceptance_chart(curves),
        "accepted_rows": acceptance_rows(curves),
        "histograms": histograms(ranking, first_right(ranking, known.positives or ())) if curves else [],
        "distances": distance_chart(report.statistics),
    }


def _card_count(fates: Sequence[Outcome], failures: int) -> int:
    """Returns the number of cards of the page."""
    failed = sum(fate in FAILURES for fate in fates)
    others = (fates.count(outcome) for outcome in (Outcome.RESCUED, Outcome.KEPT))
    return min(failed, failures) + sum(min(count, _examples(failures)) for count in others)


def _examples(failures: int) -> int:
    """How many cards of right answers a page with this many failures has."""
    return -(-failures // 4)


@dataclass(frozen=True)
class GallerySection:
    """Cards of one outcome, and how many queries have it."""

    outcome: Outcome
    count: int
    cards: tuple[Card, ...]


def _failures(gallery: Gallery, fates: Sequence[Outcome], total: int) -> list[GallerySection]:
    """The kinds of failure that occur, each with its fair part of the cards."""
    places = shares([fates.count(outcome) for outcome in FAILURES], total)
    sections = [_section(gallery, fates, outcome, count) for outcome, count in zip(FAILURES, places, strict=True)]
    return [section for section in sections if section.count]


def _section(gallery: Gallery, fates: Sequence[Outcome], outcome: Outcome, cards: int) -> GallerySection:
    queries = [query for query, fate in enumerate(fates) if fate is outcome]
    shown = queries[:cards] if outcome is Outcome.UNKNOWN else spread(queries, cards)
    return GallerySection(outcome, len(queries), tuple(gallery.card(query, outcome) for query in shown))


@dataclass(frozen=True)
class Changed:
    """Queries that re-ranking helped or harmed at the first k, by name."""

    title: str
    queries: tuple[tuple[int, str], ...]  # row, name
    omitted: int


def _changed(summary: Summary | None, dataset: Dataset) -> list[Changed]:
    if summary is None or not summary.changes:
        return []
    return [
        Changed(title, tuple((row, dataset.queries.names[row]) for row in rows[:MAX_NAMES]), len(rows[MAX_NAMES:]))
        for title, rows in (("Helped", summary.changes[0].helped), ("Harmed", summary.changes[0].harmed))
        if rows
    ]


def timing_rows(timings: Sequence[Timing], stages: Mapping[str, Ranking]) -> list[Timing]:
    """As measured, units in the number that their counts ask for; where every query was timed, by these times."""
    kept = {label: query_times_ms(ranking) for label, ranking in stages.items()}
    unmeasured = {label: times for label, times in kept.items() if label not in {t.stage for t in timings}}
    rows = []
    for each in timings:
        reused = each.seconds is None and each.reused > 0
        median, slow = _percentiles(kept[each.stage]) if each.stage in kept and not reused else (None, None)
        unit = plural(each.unit, each.count)
        rows.append(replace(each, unit=unit, median_ms=median or each.median_ms, slow_ms=slow or each.slow_ms))
    for label, times in unmeasured.items():
        if len(times):
            rows.append(Timing(label, None, len(times), plural("query", len(times)), *_percentiles(times)))
    return rows


def _percentiles(times: Doubles) -> tuple[float | None, float | None]:
    median, slow = np.percentile(times, [50, 95]) if len(times) else (None, None)
    return median, slow
