"""Everything a run leaves for people and for other programs, in one folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from vpr.core import DataError, Dataset, Ranking
from vpr.evaluation.comparison import Summary, summarise
from vpr.files import write_atomically, write_json
from vpr.report.gallery import Drawn, Pictures
from vpr.report.page import ReportInput, write_report
from vpr.report.pairs import write_hloc, write_kapture, write_patchnetvlad
from vpr.report.predictions import write_predictions
from vpr.report.tables import write_recalls, write_recalls_json

logger = logging.getLogger(__name__)

REPORT = "report.html"


def write_outputs(
    out: Path, report: ReportInput, pictures: Pictures, correspondences: Drawn, root: str | None = None
) -> Summary | None:
    """Write predictions of every stage, pairs files, recalls, settings and the report; see docs/file_formats.md.

    A pairs file whose format cannot hold the names is left out with a warning. ``root`` stands before the names in
    Patch-NetVLAD's files. Returns the summary of recall, None without ground truth.
    """
    out.mkdir(parents=True, exist_ok=True)
    dataset = report.dataset
    for stage, ranking in report.stages.items():
        _write_pairs(out / f"{stage}_predictions.txt", partial(write_patchnetvlad, root=root), dataset, ranking)
    shortlist, *others = report.stages.values()
    predictions = others[-1] if others else shortlist
    if others:
        write_predictions(out / "shortlist.jsonl", dataset, shortlist)
    write_predictions(out / "predictions.jsonl", dataset, predictions)
    _write_pairs(out / "pairs_kapture.txt", write_kapture, dataset, predictions)
    _write_pairs(out / "pairs_hloc.txt", write_hloc, dataset, predictions)
    summary = None
    if dataset.positives is not None:
        summary = summarise(dataset, report.stages, report.recall_at)
        write_recalls(out / "recalls.txt", summary.recalls)
        write_recalls_json(out / "recalls.json", summary)
    write_atomically(out / "settings.toml", report.settings_toml)
    write_json(out / "run.json", {**report.facts, "timings": [asdict(timing) for timing in report.timings]})
    write_report(out / REPORT, report, pictures, correspondences)
    return summary


def _write_pairs(
    path: Path, write: Callable[[Path, Dataset, Ranking], None], dataset: Dataset, ranking: Ranking
) -> None:
    try:
        write(path, dataset, ranking)
    except DataError as error:
        path.unlink(missing_ok=True)  # of an earlier run
        logger.warning("%s not written: %s", path.name, error)
