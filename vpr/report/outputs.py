"""Writes the output files of a run into one folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vpr.core import DataError, Dataset, Ranking
from vpr.evaluation.comparison import Summary
from vpr.report.dataset_file import FILE_NAME as DATASET
from vpr.report.dataset_file import write_dataset
from vpr.report.finished import ROWS, RUN, SHORTLIST_ROWS, run_record
from vpr.report.first_candidates import FOLDER as MATCH_IMAGES
from vpr.report.first_candidates import draw_first_candidates
from vpr.report.gallery import Drawn, Pictures
from vpr.report.page import write_report
from vpr.report.pairs import write_hloc, write_kapture, write_patchnetvlad
from vpr.report.predictions import write_predictions
from vpr.report.ranking_csv import FILE_NAME as RANKING
from vpr.report.ranking_csv import write_ranking_csv
from vpr.report.shown import FILE_NAME as SHOWN
from vpr.report.shown import Recorder, pictures_of, read_shown, write_shown
from vpr.report.statistics_file import statistics_record
from vpr.report.tables import write_recalls, write_recalls_json
from vpr.results import RunResult
from vpr.runtime.files import read_json, write_atomically, write_json

logger = logging.getLogger(__name__)

REPORT = "report.html"
ROTATIONS = "rotations.json"


def write_outputs(
    out: Path, report: RunResult, pictures: Pictures, correspondences: Drawn, root: str | None = None
) -> Summary | None:
    """Write predictions of every stage, pairs files, recalls, settings and the report; see docs/file_formats.md.

    A pairs file whose format cannot hold the names is left out with a warning. ``root`` stands before the names in
    Patch-NetVLAD's files. Returns the summary of recall, None without ground truth.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_outputs(out)
    dataset = report.dataset
    for stage, ranking in report.stages.items():
        _write_pairs(out / f"{stage}_predictions.txt", partial(write_patchnetvlad, root=root), dataset, ranking)
    shortlist, *others = report.stages.values()
    predictions = others[-1] if others else shortlist
    if others:
        write_predictions(out / SHORTLIST_ROWS, dataset, shortlist)
    write_predictions(out / ROWS, dataset, predictions)
    write_ranking_csv(out / RANKING, dataset, predictions)
    _write_pairs(out / "pairs_kapture.txt", write_kapture, dataset, predictions)
    _write_pairs(out / "pairs_hloc.txt", write_hloc, dataset, predictions)
    write_dataset(out / DATASET, dataset)
    if report.rotations is not None:
        write_json(out / ROTATIONS, dict(zip(dataset.queries.names, report.rotations, strict=True)))
    write_atomically(out / "settings.toml", report.settings_toml)
    write_json(out / RUN, run_record(report))
    recorder = Recorder(pictures, correspondences)
    write_tables(out, report, recorder.picture, recorder.correspondences)
    write_shown(out / SHOWN, recorder.sizes, recorder.found)
    draw_first_candidates(out / MATCH_IMAGES, report, pictures, correspondences)
    return report.summary


def remove_outputs(out: Path) -> None:
    """Delete the files that an earlier run left in its output folder, so that none stands beside those of this one.

    They are known by their names; features, work and files of the user's own stay.
    """
    names = (
        ROWS,
        SHORTLIST_ROWS,
        RANKING,
        "pairs_kapture.txt",
        "pairs_hloc.txt",
        DATASET,
        ROTATIONS,
        "settings.toml",
        RUN,
        "recalls.txt",
        "recalls.json",
        "statistics.json",
        REPORT,
        SHOWN,
    )
    try:
        stages = [str(stage["label"]) for stage in read_json(out / RUN)["stages"]]
    except (OSError, ValueError, KeyError, TypeError):
        stages = []
    shutil.rmtree(out / MATCH_IMAGES, ignore_errors=True)
    for name in (*names, *(f"{stage}_predictions.txt" for stage in stages)):
        (out / name).unlink(missing_ok=True)


def write_tables(out: Path, report: RunResult, pictures: Pictures, correspondences: Drawn) -> None:
    """Recalls, statistics and the page: all that can be made again from the other files; see finished.read_run."""
    if report.summary is not None and report.statistics is not None:
        write_recalls(out / "recalls.txt", report.summary.recalls)
        unreadable = {role: len(reasons) for role, reasons in report.unreadable.items()}
        write_recalls_json(out / "recalls.json", report.summary, unreadable)
        write_json(out / "statistics.json", statistics_record(report.statistics, report))
    write_report(out / REPORT, report, pictures, correspondences)


def remake(out: Path, report: RunResult) -> None:
    """Tables and page of a run that was read back from its folder; every other file stays as it is."""
    sizes, found = read_shown(out / SHOWN)
    write_tables(out, report, pictures_of(report.dataset, sizes), lambda query, row: found.get((query, row)))


def _write_pairs(
    path: Path, write: Callable[[Path, Dataset, Ranking], None], dataset: Dataset, ranking: Ranking
) -> None:
    try:
        write(path, dataset, ranking)
    except DataError as error:
        path.unlink(missing_ok=True)  # of an earlier run
        logger.warning("%s not written: %s", path.name, error)
