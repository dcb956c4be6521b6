"""``vpr run``: from two folders of images to predictions, recall and a report."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr.cli.common import (
    BadImageOption,
    ConfigOption,
    SetOption,
    call_with,
    command_line,
    say,
    settings_of,
    with_bad_images,
)
from vpr.cli.on_ray import RayOption, StagingOption, WorkerCpusOption, WorkerGpusOption, ray_workers
from vpr.core import ConfigError

if TYPE_CHECKING:
    from vpr.core import Dataset, Ranking
    from vpr.results import RunResult
    from vpr.settings import Settings


logger = logging.getLogger(__name__)

FEW_QUERIES = 10  # without ground truth the candidates of this many queries are printed
SHOWN_CANDIDATES = 5


def run(
    *,
    out: Annotated[Path, typer.Option(help="Folder for features, predictions, recalls and report.")],
    database: Annotated[Path | None, typer.Option(help="Folder of images to search, at any depth.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Folder of images to place.")] = None,
    reader: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Read another convention than two folders (`vpr datasets readers`)."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What the reader needs, for instance root=/data; may be repeated."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge by a named protocol (`vpr datasets list`).")
    ] = None,
    shortlist: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Re-rank this shortlist instead of searching: kapture or hloc pairs, Patch-NetVLAD's predictions, or "
            "a csv with query, candidate and, if known, score. A higher score is better.",
        ),
    ] = None,
    hloc_features: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.h5", help="Local features that hloc extracted, instead of ours; may be repeated."),
    ] = None,
    hloc_descriptors: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.h5", help="Global descriptors that hloc extracted; may be repeated."),
    ] = None,
    ground_truth: Annotated[bool, typer.Option(help="Use positions or a ground_truth.csv where there are any.")] = True,
    features: Annotated[
        Path | None, typer.Option(help="Folder for features that several runs share; by default they lie in OUT.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every image file, even if its size and times are unchanged.")
    ] = False,
    masks: Annotated[
        str | None,
        typer.Option(
            help="What is black in these masks gives no features: an image for all, a folder with NAME.png for each "
            "image, or 'auto' for what stands at the same pixels in all database images, as a bonnet or a frame."
        ),
    ] = None,
    on_bad_image: BadImageOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    ray: RayOption = None,
    staging: StagingOption = None,
    worker_cpus: WorkerCpusOption = 1,
    worker_gpus: WorkerGpusOption = None,
) -> None:
    """Place every query image: shortlist, re-rank, predictions, and recall where the truth is known.

    File names such as @utm_east@utm_north@...@.jpg, or a ground_truth.csv beside the two folders, give recall; other
    names give predictions alone. An interrupted run continues where it stopped when it is started again.
    """
    from vpr import datasets, pipeline
    from vpr.features.imported import HlocPaths
    from vpr.runtime import device as machine

    record = None if protocol is None else datasets.protocol(protocol)
    if record is not None and record.one_per_group:
        overrides = ["shortlist.one_per_group=true", *(overrides or [])]
    if masks is not None:
        overrides = [*(overrides or []), f"images.masks={masks}"]
    settings = settings_of(config, with_bad_images(overrides, on_bad_image))
    dataset = _dataset(database, queries, reader, source=source or [], settings=settings, ground_truth=ground_truth)
    if record is not None:
        dataset = datasets.judge(dataset, record)
    elif resembled := datasets.hint(dataset):
        say(f"{dataset.name}: {resembled}")
    ranking, more = (None, []) if shortlist is None else read_given(shortlist, dataset)
    about = machine.facts(command_line(), machine.device_of(settings.machine.device))
    about = datasets.with_warnings(about, [*datasets.warn(dataset), *more])
    with ray_workers(ray, staging, worker_cpus, worker_gpus, out) as workers:
        result = pipeline.run(
            dataset,
            settings,
            out,
            about,
            features_folder=features,
            verify=verify,
            shortlist=ranking,
            hloc=HlocPaths(tuple(hloc_features or ()), tuple(hloc_descriptors or ())),
            workers=workers,
        )
    say_results(out, result)


def read_given(path: Path, dataset: Dataset) -> tuple[Ranking, list[str]]:
    """A shortlist made elsewhere, or by a run (``.jsonl``), and warnings about it."""
    from vpr.datasets.shortlists import read_shortlist
    from vpr.report.predictions import read_predictions

    if path.suffix == ".jsonl":
        return read_predictions(path, dataset), []
    found = read_shortlist(path, dataset)
    warnings = found.warnings(dataset)
    for warning in warnings:
        logger.warning("%s: %s", path, warning)
    return found.ranking, warnings


def say_results(out: Path, run: RunResult) -> None:
    """The recall table, or that there is none, what could not be read, the first answers, and where the files are."""
    from vpr.datasets.plausibility import WARNINGS
    from vpr.report.finished import dataset_images
    from vpr.report.outputs import REPORT
    from vpr.report.tables import answer_lines, text_table

    summary = run.summary
    say(text_table(summary) if summary is not None else "No ground truth, so no recall.")
    if WARNINGS in run.facts:
        say(f"Warning:     {run.facts[WARNINGS]}\n")
    if summary is None and len(run.dataset.queries) <= FEW_QUERIES:
        for text in answer_lines(run.dataset, list(run.stages.values())[-1], SHOWN_CANDIDATES):
            say(text)
    for role, reasons in run.unreadable.items():
        count = len(dataset_images(run.dataset, role))
        say(f"Not read:    {len(reasons)} of {count} images ({role}); {next(iter(reasons.values()))}")
    say(f"Predictions: {out / 'predictions.jsonl'}")
    say(f"Report:      {out / REPORT}")


def _dataset(
    database: Path | None,
    queries: Path | None,
    reader: str | None,
    *,
    source: list[str],
    settings: Settings,
    ground_truth: bool,
) -> Dataset:
    from vpr import datasets

    if reader is not None:
        if database is not None or queries is not None:
            raise ConfigError("--database and --queries stand for a reader of two folders; leave them or --reader out")
        read = datasets.reader(reader).read
        given = [*_radius(read, reader, source, settings), *source]
        dataset: Dataset = call_with(read, given, f"--reader {reader}: --source")
        return dataset if ground_truth else replace(dataset, positives=None)
    if source:
        raise ConfigError("--source is for --reader; two folders are given by --database and --queries")
    if database is None or queries is None:
        raise ConfigError("give --database and --queries, two folders of images, or --reader NAME with its --source")
    return datasets.read_pair(database, queries, settings.evaluation.radius_m, ground_truth=ground_truth)


def _radius(read: Callable[..., Dataset], reader: str, source: Sequence[str], settings: Settings) -> list[str]:
    """evaluation.radius_m as an argument of a reader, where it was changed and --source says nothing else."""
    radius_m = settings.evaluation.radius_m
    if radius_m == type(settings.evaluation)().radius_m or any(each.startswith("radius_m=") for each in source):
        return []
    if "radius_m" not in inspect.signature(read).parameters:
        raise ConfigError(f"evaluation.radius_m = {radius_m:g}: the reader {reader} takes its positives from a file")
    return [f"radius_m={radius_m}"]
