"""Any number of data sets by methods: what is equal is computed once, what failed does not stop the rest.

Features lie by what makes them, below the data set's folder, so that methods with one extractor share them; so do
fitted models, re-ranked blocks and the index. A combination is done when its settings and ground truth are those of
the record it left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpr import __version__, pipeline
from vpr.build import Engine, build
from vpr.config import digest_of_names, fingerprint
from vpr.core import DataError, Dataset, VprError
from vpr.datasets import warn, warnings_of, with_warnings
from vpr.descriptors import Features
from vpr.evaluation.identity import truth_digest
from vpr.report.benchmark_rows import Row, rows_of
from vpr.report.outputs import REPORT
from vpr.runtime.files import read_json, write_json
from vpr.runtime.progress import Progress
from vpr.runtime.timing import Clock
from vpr.runtime.units import Workers
from vpr.settings import Settings

logger = logging.getLogger(__name__)

DONE = "done.json"  # in the folder of a combination; written last


@dataclass(frozen=True, eq=False)
class DatasetSource:
    """A data set to be, under the name that its rows carry."""

    name: str
    load: Callable[[], Dataset]  # judged already
    one_per_group: bool = False  # its protocol keeps one image per panorama


@dataclass(frozen=True)
class NamedSettings:
    """Settings under the name that their rows carry."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class Failure:
    """A combination that ended in an error."""

    dataset: str
    method: str
    error: str


@dataclass(frozen=True)
class Benchmark:
    """All that came of it."""

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    reused: int  # combinations that were done before


def run(
    sources: Sequence[DatasetSource],
    methods: Sequence[NamedSettings],
    out: Path,
    about: Mapping[str, str],
    workers: Workers | None = None,
) -> Benchmark:
    """Every method on every data set, each into ``out/<data set>/<method>``; see pipeline.run for ``workers``."""
    rows: list[Row] = []
    failures: list[Failure] = []
    reused = 0
    with Progress("benchmark", len(sources) * len(methods), "run") as progress:
        for source in sources:
            loaded: Dataset | str | None = None
            for method in methods:
                progress.describe(f"{source.name}, {method.name}")
                if loaded is None:
                    loaded = _load(source)
                outcome = (
                    loaded
                    if isinstance(loaded, str)
                    else _attempt(source, loaded, method, out, about=about, workers=workers)
                )
                if isinstance(outcome, str):
                    logger.warning("failed: %s, %s: %s", source.name, method.name, outcome)
                    failures.append(Failure(source.name, method.name, outcome))
                else:
                    rows += outcome.rows
                    reused += outcome.reused
                progress.update()
    return Benchmark(tuple(rows), tuple(failures), reused)


@dataclass(frozen=True)
class _Outcome:
    rows: list[Row]
    reused: bool


def _load(source: DatasetSource) -> Dataset | str:
    """The data set, or why there is none."""
    try:
        dataset = source.load()
        if dataset.positives is None:
            raise DataError(f"{dataset.name}: no ground truth, so no recall; give positions or a ground_truth.csv")
        warn(dataset)
    except Exception as error:
        return _reason(error)
    return dataset


def _attempt(
    source: DatasetSource,
    dataset: Dataset,
    method: NamedSettings,
    out: Path,
    *,
    about: Mapping[str, str],
    workers: Workers | None,
) -> _Outcome | str:
    """The rows of one combination, or why there are none."""
    place = out / source.name / method.name
    try:
        settings = _with_groups(method.settings, source.one_per_group)
        reused = _run(dataset, settings, place, about, workers)
        return _Outcome(rows_of(place, out, source.name, method.name), reused)
    except Exception as error:  # a driver, a library or the memory may fail in ways of their own
        return _reason(error)


def _run(dataset: Dataset, settings: Settings, place: Path, about: Mapping[str, str], workers: Workers | None) -> bool:
    """As a single run, with features and work in the folder that all methods of the data set share.

    Returns whether it was done before, by the same methods on the same images.
    """
    place.mkdir(parents=True, exist_ok=True)
    engine, clock, shared = build(settings), Clock(), place.parent
    folders = engine.extractor.shared_folders(shared / "features")
    features = pipeline.extract(dataset, engine, folders, clock, workers=workers)
    identity = {
        # Where it was computed is left out.
        "settings": fingerprint(settings.model_dump(mode="json", exclude={"machine"})),
        "weights": fingerprint(engine.weights()),
        "ground_truth": truth_digest(dataset),
        "protocol": dataset.protocol,
        "database": digest_of_names(features.database.keys),
        "queries": digest_of_names(features.queries.keys),
        "version": __version__,
    }
    if _is_done(place, identity):
        return True
    (place / DONE).unlink(missing_ok=True)
    _match(dataset, features, engine, place, about=about, clock=clock, workers=workers)
    write_json(place / DONE, identity)
    return False


def _match(
    dataset: Dataset,
    features: Features,
    engine: Engine,
    place: Path,
    *,
    about: Mapping[str, str],
    clock: Clock,
    workers: Workers | None,
) -> None:
    """Shortlist, predictions and report of one combination; blocks and indexes are shared by those of a data set."""
    matched = pipeline.match(dataset, features, engine, work=place.parent / "work", clock=clock, workers=workers)
    about = with_warnings(about, warnings_of(dataset))
    pipeline.report(dataset, matched, place, about=about, clock=clock)


def _is_done(place: Path, identity: Mapping[str, str]) -> bool:
    try:
        return bool(read_json(place / DONE) == identity) and (place / REPORT).exists()
    except (OSError, ValueError):
        return False


def _with_groups(settings: Settings, one_per_group: bool) -> Settings:
    if not one_per_group:
        return settings
    return settings.model_copy(update={"shortlist": settings.shortlist.model_copy(update={"one_per_group": True})})


def _reason(error: Exception) -> str:
    """One line; what no user can mend comes with its kind, and with a traceback in the log."""
    if isinstance(error, VprError | OSError):
        return " ".join(str(error).split())
    logger.error("unexpected error", exc_info=error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
