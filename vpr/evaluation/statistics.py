"""All that a report says beyond recall@k: against the distance, by place, and of accepting the first candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vpr.core import Dataset, Doubles, Ranking, Rows
from vpr.evaluation.acceptance import Acceptance, Flags, accept, confidences
from vpr.evaluation.bootstrap import SAMPLES, Estimate
from vpr.evaluation.calibration import Calibration, Reliability, fit, reliability
from vpr.evaluation.clusters import each_by_group, query_groups
from vpr.evaluation.distance import distances_m, recall_within
from vpr.evaluation.known import with_known_queries
from vpr.evaluation.recall import first_hits

RADII_M = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0)


@dataclass(frozen=True)
class Latency:
    """Time per query in milliseconds, where the stage kept it."""

    median_ms: float  # p50
    slow_ms: float  # p95
    queries: int


@dataclass(frozen=True)
class StageStatistics:
    """Of one ranking."""

    by_group: tuple[Estimate, ...] | None  # recall at each k, intervals over groups of queries
    within: tuple[float, ...] | None  # recall@1 at each of RADII_M; None without positions
    acceptance: Mapping[str, Acceptance]  # by confidence
    latency: Latency | None


@dataclass(frozen=True)
class Statistics:
    """Of a run with ground truth."""

    ks: tuple[int, ...]
    groups: str | None  # what the groups of queries are, in words
    group_count: int
    stages: Mapping[str, StageStatistics]


@dataclass(frozen=True)
class CalibrationTrial:
    """A calibration that was fitted on one run, tried on another."""

    confidence: str
    fitted: Calibration
    fitted_on: str  # name of the data set
    tried: Reliability


def measure(
    dataset: Dataset,
    stages: Mapping[str, Ranking],
    ks: Sequence[int],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Statistics:
    """All statistics of all stages over the queries whose positives are known; the data set has ground truth."""
    dataset, stages = with_known_queries(dataset, stages)
    found = query_groups(dataset)
    groups, meaning = found if found is not None else (None, None)
    ordered = tuple(sorted(set(ks)))
    return Statistics(
        ordered,
        meaning,
        0 if groups is None else len(np.unique(groups)),
        {
            label: _measure(dataset, ranking, ordered, groups, samples=samples, seed=seed)
            for label, ranking in stages.items()
        },
    )


def query_times_ms(ranking: Ranking) -> Doubles:
    """Milliseconds of the queries whose time was kept, to the microsecond that the files hold."""
    elapsed = ranking.evidence.elapsed_s if ranking.evidence is not None else np.zeros(0)
    times: Doubles = np.round(1000 * elapsed[np.isfinite(elapsed)], 3)
    return times


def latency(ranking: Ranking) -> Latency | None:
    times = query_times_ms(ranking)
    if not len(times):
        return None
    median, slow = np.percentile(times, [50, 95])
    return Latency(float(median), float(slow), len(times))


def first_right(ranking: Ranking, positives: Sequence[Rows]) -> Flags:
    """(Q,) whether the first candidate is right."""
    right: Flags = first_hits(ranking, positives) == 1
    return right


def try_calibration(
    dataset: Dataset, ranking: Ranking, fitted_on: Dataset, fitted_ranking: Ranking
) -> tuple[CalibrationTrial, ...]:
    """Every confidence that both rankings have: fitted on one, tried on the other. Both have ground truth."""
    (dataset, one), (fitted_on, other) = (
        with_known_queries(data, {"": each}) for data, each in ((dataset, ranking), (fitted_on, fitted_ranking))
    )
    ranking, fitted_ranking = one[""], other[""]
    here, there = confidences(ranking), confidences(fitted_ranking)
    right, right_there = (
        first_right(each, data.positives or ()) for each, data in ((ranking, dataset), (fitted_ranking, fitted_on))
    )
    trials = []
    for name in (name for name in there if name in here):
        fitted = fit(there[name], right_there)
        tried = reliability(fitted.probability(here[name]), right)
        trials.append(CalibrationTrial(name, fitted, fitted_on.name, tried))
    return tuple(trials)


def _measure(
    dataset: Dataset, ranking: Ranking, ks: Sequence[int], groups: Rows | None, *, samples: int, seed: int
) -> StageStatistics:
    positives = dataset.positives or ()
    hits = first_hits(ranking, positives)
    answerable = sum(len(rows) > 0 for rows in positives)
    curves = {name: accept(values, hits == 1, answerable) for name, values in confidences(ranking).items()}
    metres = distances_m(dataset, ranking.rows)
    return StageStatistics(
        None if groups is None else each_by_group([hits <= k for k in ks], groups, samples, seed),
        None if metres is None else recall_within(metres, 1, RADII_M),
        {name: curve for name, curve in curves.items() if curve is not None},
        latency(ranking),
    )
