"""A finished run read back from its folder: everything its report says, without a network and without features."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from vpr.core import DataError, Dataset, Ranking
from vpr.evaluation.bootstrap import SAMPLES
from vpr.evaluation.statistics import CalibrationTrial, try_calibration
from vpr.report.dataset_file import FILE_NAME, read_dataset
from vpr.report.predictions import read_predictions
from vpr.results import RunResult
from vpr.runtime.files import read_json
from vpr.runtime.timing import Timing

RUN = "run.json"
ROWS = "predictions.jsonl"
SHORTLIST_ROWS = "shortlist.jsonl"


def run_record(report: RunResult) -> dict[str, Any]:
    """run.json: command, versions, machine, date, times, and how the report was asked for."""
    return {
        **report.facts,
        "timings": [asdict(timing) for timing in report.timings],
        "stages": [{"label": label, "width": ranking.width} for label, ranking in report.stages.items()],
        "recall_at": list(report.recall_at),
        "failures": report.failures,
        "samples": report.samples,
        "seed": report.seed,
        "unreadable": {
            role: {dataset_images(report.dataset, role)[row]: reason for row, reason in reasons.items()}
            for role, reasons in report.unreadable.items()
        },
        "bytes_per_image": dict(report.bytes_per_image),
    }


def read_run(folder: Path) -> RunResult:
    """Returns the dataset of the run. Raises DataError if the folder holds no finished run or a file is damaged."""
    record = _read_record(folder / RUN)
    dataset = read_dataset(folder / FILE_NAME)
    try:
        labels = [(str(stage["label"]), int(stage["width"])) for stage in record["stages"]]
        return RunResult(
            dataset=dataset,
            stages=_read_stages(folder, dataset, labels),
            recall_at=tuple(int(k) for k in record["recall_at"]),
            settings_toml=(folder / "settings.toml").read_text(encoding="utf-8"),
            facts={key: value for key, value in record.items() if isinstance(value, str)},
            timings=[Timing(**timing) for timing in record["timings"]],
            failures=int(record["failures"]),
            samples=int(record.get("samples", SAMPLES)),
            seed=int(record.get("seed", 0)),
            unreadable=_unreadable(record.get("unreadable", {}), dataset),
            bytes_per_image=record["bytes_per_image"],
        )
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run again, the features are reused") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / RUN}: damaged: {error!r}; run again, the features are reused") from None


def dataset_images(dataset: Dataset, role: str) -> tuple[str, ...]:
    """Names of the images of a role, "database" or "queries"."""
    return dataset.database.names if role == "database" else dataset.queries.names


def _unreadable(record: dict[str, dict[str, str]], dataset: Dataset) -> dict[str, dict[int, str]]:
    rows = {role: {name: row for row, name in enumerate(dataset_images(dataset, role))} for role in record}
    return {role: {rows[role][name]: reason for name, reason in named.items()} for role, named in record.items()}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the folder of a finished run (--out of vpr run)") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}; run again, the features are reused") from None
    if not isinstance(record, dict) or "stages" not in record:
        raise DataError(f"{path}: does not name the stages of a run; run again, the features are reused")
    return record


def _read_stages(folder: Path, dataset: Dataset, labels: list[tuple[str, int]]) -> dict[str, Ranking]:
    """The first stage and the last; those between, if there are any, leave no rows."""
    files = {labels[0]: SHORTLIST_ROWS, labels[-1]: ROWS} if len(labels) > 1 else {labels[0]: ROWS}
    return {label: read_predictions(folder / file, dataset, width) for (label, width), file in files.items()}


def calibrated(run: RunResult, fitted_on: RunResult) -> tuple[CalibrationTrial, ...]:
    """Fit the probability that a first candidate is right on one run's last stage, and try it on another's.

    Raises DataError if either has no ground truth, or if no confidence is known of both.
    """
    for each in (run, fitted_on):
        if each.dataset.positives is None:
            raise DataError(f"{each.dataset.name}: no ground truth, so nothing to calibrate with")
    last, other = list(run.stages.values())[-1], list(fitted_on.stages.values())[-1]
    trials = try_calibration(run.dataset, last, fitted_on.dataset, other)
    if not trials:
        raise DataError("the two runs share no confidence of the first candidate; calibrate on a run of one method")
    return trials
