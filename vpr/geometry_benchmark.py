"""Benchmarks of local features, matchers and estimators on pairs with a known homography or relative pose.

One row per pair is kept while a benchmark runs, so that an interrupted one continues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from vpr.core import ConfigError, ImageError, Verifier
from vpr.geometry_examples import Examples, draw_examples

if TYPE_CHECKING:
    from vpr.datasets.homography_pairs import HomographyPair
    from vpr.datasets.pose_pairs import PosePair
    from vpr.geometry.homography_benchmark import HomographyBench
    from vpr.geometry.matching import Matching
    from vpr.geometry.pose_benchmark import PoseBench
    from vpr.geometry.rows import Estimator, Row
    from vpr.geometry.views import MatchedViews, Resize
    from vpr.settings import Settings

logger = logging.getLogger(__name__)

LIBRARIES = ("poselib", "pycolmap")  # estimators of these names need them
SUMMARY = "summary.json"
MEASURED_WITH = "measured_with"  # key of the summary: what the tables depend on, the pairs apart
T = TypeVar("T", bound="HomographyPair | PosePair")


@dataclass(frozen=True)
class Options:
    """Options of every command."""

    out: Path
    settings: Callable[[Sequence[str]], Settings]  # with a protocol's settings, as section.key=value, under the user's
    command: str  # that was given, for the record
    estimators: Sequence[str] | None = None
    longest_side: int | None = None  # in pixels, instead of the protocol's size
    examples: Examples = field(default_factory=Examples)


class Bench(Protocol):
    """Measures pairs of one kind."""

    @property
    def matching(self) -> Matching: ...

    @property
    def estimators(self) -> Sequence[Estimator]: ...

    def row(self, pair: Any) -> Row: ...

    def failed(self) -> Row: ...

    def matched(self, pair: Any) -> MatchedViews: ...


def run_homographies(benchmark: str, pairs: Sequence[HomographyPair], protocol: str, options: Options) -> str:
    """Measure a benchmark of homographies, write its tables, and return them as text."""
    from vpr.geometry.homography_benchmark import HOMOGRAPHY_PROTOCOLS, summarise_homographies

    if protocol not in HOMOGRAPHY_PROTOCOLS:
        raise ConfigError(f"unknown protocol {protocol!r}; known: {', '.join(HOMOGRAPHY_PROTOCOLS)}")
    bench, settings, about = homography_bench(benchmark, protocol, options)
    return _run(bench, pairs, options, about, settings=settings, summarise=summarise_homographies)


def homography_bench(
    benchmark: str, protocol: str, options: Options
) -> tuple[HomographyBench, Settings, dict[str, str]]:
    """What measures pairs by a protocol, its settings, and what is recorded of it."""
    from vpr.geometry.homography_benchmark import HOMOGRAPHY_PROTOCOLS, HomographyBench
    from vpr.geometry.homography_estimators import HOMOGRAPHY_ESTIMATORS

    chosen = HOMOGRAPHY_PROTOCOLS[protocol]
    resize = _size(chosen.resize, options)
    settings = _settings(options, chosen.settings)
    judged = _estimators(options.estimators, chosen.estimators, HOMOGRAPHY_ESTIMATORS, settings)
    matching, verifier = _methods(settings, resize, "homography")
    bench = HomographyBench(matching, verifier, chosen, judged)
    about = {"benchmark": benchmark, "protocol": protocol, "source": chosen.source, "size": str(resize)}
    about |= {"corners": chosen.corners, "points_judged": str(chosen.points)}
    return bench, settings, about


def run_poses(benchmark: str, pairs: Sequence[PosePair], options: Options) -> str:
    """Measure a benchmark of relative poses, write its tables, and return them as text."""
    from vpr.geometry.pose_benchmark import summarise_poses

    bench, settings, about = pose_bench(benchmark, options)
    return _run(bench, pairs, options, about, settings=settings, summarise=summarise_poses)


def run_stored_poses(benchmark: str, path: Path, images: Path, first: int | None, options: Options) -> str:
    """Measure the pairs of a file with features and poses, write the tables, and return them as text.

    Images below ``images`` are only drawn, and asked for their sizes.
    """
    from vpr.build import build_matcher, compares_images, refuse_masks, refuse_rotations
    from vpr.exchange.imp_pairs import PairsFile
    from vpr.geometry.pose_benchmark import STORED_PROTOCOLS, PoseBench, summarise_poses
    from vpr.geometry.pose_estimators import POSE_ESTIMATORS
    from vpr.geometry.stored_matching import StoredMatching

    chosen = STORED_PROTOCOLS[benchmark]
    settings = options.settings(())
    refuse_masks(settings, "an evaluation on stored features")
    refuse_rotations(settings, "an evaluation on stored features")
    if options.longest_side is not None or compares_images(settings):
        raise ConfigError(f"{path}: its features are compared as stored, by a matcher of features, at the stored size")
    judged = _estimators(options.estimators, chosen.estimators, POSE_ESTIMATORS, settings)
    if any(each.name not in POSE_ESTIMATORS for each in judged):
        raise ConfigError(f"--estimator: on stored features choose of {', '.join(POSE_ESTIMATORS)}")
    file = PairsFile(path)
    pairs = file.pose_pairs(images)
    bench = PoseBench(StoredMatching(file, pairs, build_matcher(settings)), None, judged)
    about = {"benchmark": benchmark, "protocol": chosen.name, "source": chosen.source, "size": str(chosen.resize)}
    return _run(bench, pairs[:first], options, about, settings=settings, summarise=summarise_poses)


def pose_bench(benchmark: str, options: Options) -> tuple[PoseBench, Settings, dict[str, str]]:
    """What measures pairs of a benchmark, its settings, and what is recorded of it."""
    from vpr.geometry.pose_benchmark import POSE_PROTOCOLS, PoseBench
    from vpr.geometry.pose_estimators import POSE_ESTIMATORS

    chosen = POSE_PROTOCOLS[benchmark]
    resize = _size(chosen.resize, options)
    settings = _settings(options, chosen.settings)
    judged = _estimators(options.estimators, chosen.estimators, POSE_ESTIMATORS, settings)
    matching, verifier = _methods(settings, resize, "fundamental")
    bench = PoseBench(matching, verifier, judged)
    about = {"benchmark": benchmark, "protocol": chosen.name, "source": chosen.source, "size": str(resize)}
    return bench, settings, about


def _size(resize: Resize, options: Options) -> Resize:
    from vpr.geometry.views import Resize as Sized

    return resize if options.longest_side is None else Sized("longest", options.longest_side)


def _settings(options: Options, asked: Mapping[str, object]) -> Settings:
    """The settings with what the protocol asks for, as far as the chosen methods know it; --set is above all."""
    if options.longest_side is not None:  # so that the local features do not shrink the images further
        sides = ("local_features.longest_side", "image_matcher.longest_side")
        asked = {**asked, **dict.fromkeys(sides, options.longest_side)}
    settings = options.settings(())
    known = [
        f"{key}={value}"
        for key, value in asked.items()
        if key.split(".")[1] in type(getattr(settings, key.split(".")[0])).model_fields
    ]
    return options.settings(known)


def _estimators(
    chosen: Sequence[str] | None, usual: Sequence[Estimator], table: Mapping[str, Any], settings: Settings
) -> list[Estimator]:
    """Those that were asked for; or the protocol's, without those whose library is absent or that verify nothing."""
    from vpr.geometry.rows import VERIFICATION

    if chosen:
        return [_estimator(text, table) for text in chosen]
    missing = {name for name in LIBRARIES if find_spec(name) is None}
    if settings.verification.method == "none":
        missing.add(VERIFICATION)
    for name in sorted(missing & {each.name for each in usual} & set(LIBRARIES)):
        logger.info("%s is not installed, its rows are left out", name)
    return [each for each in usual if each.name not in missing]


def _estimator(text: str, table: Mapping[str, Any]) -> Estimator:
    from vpr.geometry.rows import VERIFICATION
    from vpr.geometry.rows import Estimator as Chosen

    name, _, threshold = text.partition(":")
    if name not in table and name != VERIFICATION:
        raise ConfigError(f"unknown estimator {name!r}; known: {', '.join([VERIFICATION, *table])}")
    if name in LIBRARIES and find_spec(name) is None:
        raise ConfigError(f"the estimator {name!r} needs {name}: pip install {name}, or leave it out")
    if name in (VERIFICATION, "dlt"):
        if threshold:
            raise ConfigError(f"--estimator {text}: {name} takes no threshold here")
        return Chosen(name)
    try:
        pixels = float(threshold)
    except ValueError:
        pixels = 0.0
    if not 0 < pixels < float("inf"):
        raise ConfigError(f"--estimator {text}: give a threshold in pixels, for instance {name}:1.5")
    return Chosen(name, pixels)


def _methods(
    settings: Settings, resize: Resize, model: Literal["homography", "fundamental"]
) -> tuple[Matching, Verifier | None]:
    from vpr.build import (
        build_image_matcher,
        build_local,
        build_matcher,
        build_verifier,
        compares_images,
        refuse_masks,
        refuse_rotations,
    )
    from vpr.geometry.matching import FeatureMatching, ImageMatching
    from vpr.geometry.views import Views

    refuse_masks(settings, "an evaluation on pairs")
    refuse_rotations(settings, "an evaluation on pairs")
    settings = settings.model_copy(update={"verification": settings.verification.model_copy(update={"model": model})})
    verifier = build_verifier(settings) if settings.verification.method != "none" else None
    if compares_images(settings):
        return ImageMatching(build_image_matcher(settings), resize, settings.images.max_megapixels), verifier
    views = Views(build_local(settings), resize, settings.images.max_megapixels)
    return FeatureMatching(views, build_matcher(settings)), verifier


def _run(
    bench: Bench,
    pairs: Sequence[T],
    options: Options,
    about: Mapping[str, str],
    *,
    settings: Settings,
    summarise: Callable[[Sequence[Row]], dict[str, list[Row]]],
) -> str:
    """Measure what is missing of the rows, write the tables, and return them as text."""
    from vpr.config import digest_of_names, dump, fingerprint, plain
    from vpr.datasets.pair_records import PAIRS, write_pairs
    from vpr.geometry.rows import resumed
    from vpr.runtime.progress import Progress

    used = bench.matching.weights
    measured_with = {
        **{key: value for key, value in about.items() if key != "source"},  # the protocol's, in words
        **{name: plain(getattr(settings, name)) for name in (*used, "verification")},
        "weights": dict(used),
        "estimators": [str(each) for each in bench.estimators],
    }
    _require_same(options.out / SUMMARY, measured_with)
    of_pairs = digest_of_names(repr(vars(pair)) for pair in pairs)
    made_by = {**measured_with, "source": about["source"], "version": _version("vpr"), "pairs": of_pairs}

    def compute(i: int) -> Row:
        try:
            measured = bench.row(pairs[i])
        except ImageError as error:
            if settings.images.on_bad_image == "fail":
                raise
            logger.warning("%s; its pair counts as a failure", error)
            measured = {**bench.failed(), "problem": str(error)}
        return {"pair": pairs[i].name, "part": pairs[i].part, **measured}

    kept = options.out / "work" / f"rows-{fingerprint(made_by)}.jsonl"
    rows = list(Progress("pairs", len(pairs), "pair").over(resumed(kept, len(pairs), compute)))
    title = (
        f"{about['benchmark']}, protocol {about['protocol']} ({about['source']}), {len(rows)} pairs, measured at "
        f"{about['size']}; {' and '.join(getattr(settings, name).method for name in used)}"
    )
    about_all = {**about, "weights": dict(used), "settings": dump(settings), "longest_side": options.longest_side}
    about_all |= {MEASURED_WITH: measured_with}
    write_pairs(options.out / PAIRS, pairs)
    drawn = draw_examples(options.out, pairs, rows, bench.matched, options.examples)
    return _write(options, title, rows, summarise(rows), about_all, drawn=drawn, device=settings.machine.device)


def _require_same(path: Path, wanted: Mapping[str, Any]) -> None:
    """Raise ConfigError if the folder holds the tables of a benchmark with other settings."""
    from vpr.runtime.files import read_json

    try:
        found = read_json(path).get(MEASURED_WITH)
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError):
        found = None
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: does not say with what settings it was measured; choose another --out")
    other = differences(found, wanted)
    if other:
        raise ConfigError(
            f"{path}: measured with other settings ({'; '.join(other[:3])}{'; ...' if len(other) > 3 else ''}); "
            "choose another --out, or delete this folder"
        )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], section: str = "") -> list[str]:
    """Each value that differs, as ``section.key = found, now wanted``."""
    texts = []
    for key in dict.fromkeys((*found, *wanted)):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            texts += differences(old, new, f"{section}{key}.")
        elif old != new:
            texts.append(f"{section}{key} = {old}, now {new}")
    return texts


def _write(
    options: Options,
    title: str,
    rows: Sequence[Row],
    tables: dict[str, list[Row]],
    about: Mapping[str, object],
    *,
    drawn: Sequence[Path],
    device: str,
) -> str:
    from vpr.geometry.rows import csv_table, markdown, plain_numbers
    from vpr.runtime import device as machine
    from vpr.runtime.files import write_atomically, write_json

    text = "\n\n".join([title, *map(markdown, tables.values())]) + "\n"
    facts = machine.facts(options.command, machine.device_of(device))
    libraries = ", ".join(filter(None, map(_version, LIBRARIES)))
    summary = {**about, "pairs": len(rows), **facts, "estimator_versions": libraries, "tables": plain_numbers(tables)}
    write_atomically(options.out / "rows.csv", csv_table(rows))
    write_json(options.out / SUMMARY, summary)
    shown = "".join(f"\n![{each.stem}]({each.relative_to(options.out).as_posix()})\n" for each in drawn)
    write_atomically(options.out / "summary.md", text + shown)
    where = [f"Rows: {options.out / 'rows.csv'}", *([f"Examples: {drawn[0].parent}"] if drawn else [])]
    return "\n".join([text, *where])


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return ""
