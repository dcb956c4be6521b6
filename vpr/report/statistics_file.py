"""statistics.json: what is known of a run beyond recall@k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vpr.evaluation.acceptance import Acceptance
from vpr.evaluation.statistics import RADII_M, CalibrationTrial, StageStatistics, Statistics
from vpr.report.numbers import estimate_record, number
from vpr.results import RunResult

CURVE_POINTS = 64  # kept of a precision-recall curve, evenly spread over its thresholds


def statistics_record(statistics: Statistics, report: RunResult) -> dict[str, Any]:
    """The statistics as plain values; what was not measured is null."""
    return {
        "groups": statistics.groups,
        "group_count": statistics.group_count,
        "radii_m": list(RADII_M),
        "bytes_per_image": dict(report.bytes_per_image),
        "unreadable_images": {role: len(reasons) for role, reasons in report.unreadable.items()},
        "stages": {label: _stage(stage, statistics.ks) for label, stage in statistics.stages.items()},
        "calibration": [_trial(trial) for trial in report.calibration],
    }


def _stage(stage: StageStatistics, ks: tuple[int, ...]) -> dict[str, Any]:
    grouped = stage.by_group
    return {
        "recall_by_group": None
        if grouped is None
        else {str(k): estimate_record(estimate) for k, estimate in zip(ks, grouped, strict=True)},
        "recall_at_1_within": None if stage.within is None else [number(value) for value in stage.within],
        "first_candidate": {name: _acceptance(curve) for name, curve in stage.acceptance.items()},
        "latency_ms": None
        if stage.latency is None
        else {"p50": stage.latency.median_ms, "p95": stage.latency.slow_ms, "queries": stage.latency.queries},
    }


def _acceptance(curve: Acceptance) -> dict[str, Any]:
    shown = np.unique(np.linspace(0, len(curve.thresholds) - 1, CURVE_POINTS).round().astype(int))
    return {
        "auc_pr": curve.auc_pr,
        "average_precision": curve.average_precision,
        "recall_at_100_precision": curve.recall_at_full_precision,
        "threshold_at_100_precision": curve.threshold_at_full_precision,
        "curve": {
            "threshold": curve.thresholds[shown].tolist(),
            "precision": curve.precision[shown].tolist(),
            "recall": curve.recall[shown].tolist(),
        },
    }


def _trial(trial: CalibrationTrial) -> dict[str, Any]:
    fitted, tried = trial.fitted, trial.tried
    measured: Mapping[str, float] = {
        "brier": tried.brier,
        "log_loss": tried.log_loss,
        "calibration_error": tried.calibration_error,
    }
    return {
        "confidence": trial.confidence,
        "fitted_on": trial.fitted_on,
        "fitted_queries": fitted.queries,
        "probability": {key: getattr(fitted, key) for key in ("centre", "spread", "slope", "offset")},
        **{key: number(value) for key, value in measured.items()},
        "bins": [{"promised": b.promised, "kept": b.kept, "queries": b.queries} for b in tried.bins],
    }
