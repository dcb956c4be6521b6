"""One photograph against every image of a folder: matched with all of them, ranked by the score of the second stage."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpr.build import PairMethods, build_pair_methods, compares_patches
from vpr.config import dump
from vpr.core import ConfigError, DataError, ImageError, ImageSet, LocalFeatures
from vpr.datasets.folders import list_images
from vpr.exchange.hloc import KEYPOINTS, HlocFile
from vpr.exchange.match_npz import write_pair
from vpr.exchange.pair_table import PairRow, row_of
from vpr.features.contents import digest_of_file
from vpr.features.feature_set import CONTENTS, LOCAL, FeatureFolders, FeatureSet
from vpr.features.imported import import_local
from vpr.features.prepared import PreparedImages
from vpr.features.store import LocalStore
from vpr.images import upright_size
from vpr.pairs.drawing import drawing
from vpr.pairs.files import pair_file
from vpr.pairs.ranking_units import AskedImage, Scored, compared_here, compared_on
from vpr.report.match_images import write_match_image
from vpr.rerank import Pair
from vpr.runtime.files import read_json, write_atomically
from vpr.runtime.progress import Progress
from vpr.runtime.units import Workers
from vpr.settings import Settings

logger = logging.getLogger(__name__)

FILE_NAME = "ranking_score.csv"
COLUMNS = ("rank", "image", "score", "matches", "inliers", "keypoints")
HDF5 = (".h5", ".hdf5")


@dataclass(frozen=True)
class FirstPairs:
    """What is written of the first candidates: files of matches, and drawings."""

    count: int = 10
    drawn: bool = False
    extension: str = "png"
    keypoints: bool = False


@dataclass(frozen=True, eq=False)
class Candidates:
    """Images to compare a query with, and their features."""

    images: ImageSet
    features: Sequence[Any]
    failed: dict[int, str]
    stored_size: bool  # whether the features are in pixels of the stored images already


def rank_among(
    query: Path,
    among: Path,
    settings: Settings,
    out: Path,
    *,
    first: FirstPairs,
    images: Path | None = None,
    workers: Workers | None = None,
) -> list[PairRow]:
    """Match a query with every image of ``among`` and write ranking_score.csv; rows of pairs, best first.

    ``among`` is a folder of images, a folder of features that vpr left, or hloc's HDF5 file of local features;
    ``images`` is the folder of the images behind features. Images that cannot be read are left out. Raises ImageError
    if the query cannot be read, DataError if there is nothing to compare it with. With ``workers`` these extract and
    compare.
    """
    methods = build_pair_methods(settings, dense=True)
    if methods.reranker.prepare is not None and workers is not None:
        raise ConfigError(
            f"rerank.method = {settings.rerank.method!r} compares images, which workers do not: omit --ray"
        )
    out.mkdir(parents=True, exist_ok=True)
    for earlier in out.glob("[0-9][0-9][0-9][0-9]_*_matches.*"):  # of another query
        earlier.unlink()
    candidates = _candidates(among, images, settings, methods, out, workers=workers)
    asked = methods.compared(query)
    rows = _usable(among, candidates)
    _require_one_length(among, asked, [candidates.features[row] for row in rows[:1]])
    with Progress("match", len(rows), "image") as progress:
        if workers is None:
            found = compared_here(asked, candidates.features, rows, methods.reranker, progress)
        else:
            asking = AskedImage(digest_of_file(query), asked)
            found = compared_on(workers, settings, asking, candidates.features, rows, progress=progress)
    rows = _usable(among, candidates)  # of images, some could not be read
    order = sorted(rows, key=lambda row: -found[row][0])  # stable: equal scores keep the order of the folder
    best = [_row(query, candidates, row, asked, found[row]) for row in order]
    _write_table(out / FILE_NAME, best)
    write_atomically(out / "settings.toml", dump(settings))
    for rank, row in enumerate(order[: first.count if first.drawn else 0], 1):
        pair = methods.reranker.pair(asked, candidates.features[row])
        _write_first(_First(query, asked, candidates, row, rank, pair), methods, settings, out, first)
    return best


def _usable(among: Path, candidates: Candidates) -> list[int]:
    """Rows of the images that can be read, as far as is known. Raises DataError if there are none."""
    rows = [row for row in range(len(candidates.images)) if row not in candidates.failed]
    if not rows:
        raise DataError(f"{among}: not one image can be compared: {next(iter(candidates.failed.values()))}")
    return rows


def _require_one_length(among: Path, asked: Any, others: Sequence[Any]) -> None:
    """Raise ConfigError if the query's local features have other lengths than those of the images."""
    lengths = [each.descriptors.shape[1] for each in (asked, *others) if isinstance(each, LocalFeatures) and len(each)]
    if len(set(lengths)) > 1:
        raise ConfigError(
            f"{among}: descriptors of {lengths[1]} dimensions, those of the query have {lengths[0]}; choose the config "
            "whose local features made them"
        )


def _candidates(
    among: Path,
    images: Path | None,
    settings: Settings,
    methods: PairMethods,
    out: Path,
    *,
    workers: Workers | None,
) -> Candidates:
    prepare = methods.reranker.prepare
    if prepare is not None:
        if among.suffix.lower() in HDF5 or (among / LOCAL / "origin.json").exists():
            raise ConfigError(f"{among}: rerank.method = {settings.rerank.method!r} compares images; give their folder")
        listed = ImageSet(among, list_images(among))
        prepared = PreparedImages(listed, prepare, methods.reranker.nothing)
        return Candidates(listed, prepared, prepared.failed, stored_size=False)
    if among.suffix.lower() in HDF5:
        return _of_hloc(among, images, settings, out)
    if (among / LOCAL / "origin.json").exists():
        return _of_folder(among, images, methods)
    listed = ImageSet(among, list_images(among))
    found = methods.extractor.extract(listed, FeatureFolders.under(out / "features"), workers=workers)
    assert found.work is not None
    return _of_set(found, found.work.failed)


def _of_hloc(path: Path, images: Path | None, settings: Settings, out: Path) -> Candidates:
    if compares_patches(settings):
        raise ConfigError("hloc's files hold no patches, which rerank.method = 'patch_netvlad' compares")
    with HlocFile(path) as file:
        names = tuple(file.names(KEYPOINTS))
    listed = ImageSet(images or path.parent, names)
    return Candidates(listed, import_local(listed, [path], out / "features" / "hloc-local"), {}, stored_size=True)


def _of_folder(folder: Path, images: Path | None, methods: PairMethods) -> Candidates:
    store = LocalStore(folder / LOCAL)
    names = store.names
    if names is None:
        raise DataError(f"{folder}: of a format without names; extract the features again")
    try:
        root = images or Path(read_json(folder / CONTENTS)["root"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{folder / CONTENTS}: does not say where the images are; give --images") from None
    found = methods.extractor.open(ImageSet(root, names), FeatureFolders.under(folder))
    return _of_set(found, store.failed())


def _of_set(found: FeatureSet, failed: dict[int, str]) -> Candidates:
    assert found.rerank_store is not None
    return Candidates(found.images, found.rerank_store, failed, stored_size=False)


def _row(query: Path, candidates: Candidates, row: int, asked: Any, scored: Scored) -> PairRow:
    score, matches, inliers = scored
    return PairRow(
        str(query),
        candidates.images.names[row],
        keypoints0=len(asked),
        keypoints1=len(candidates.features[row]),
        matches=matches,
        inliers=inliers,
        score=score,
    )


def _write_table(path: Path, rows: Sequence[PairRow]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, row in enumerate(rows, 1):
        writer.writerow((rank, row.image1, row.score, row.matches, row.inliers, row.keypoints1))
    write_atomically(path, text.getvalue())


@dataclass(frozen=True, eq=False)
class _First:
    """One of the first candidates."""

    query: Path
    asked: Any
    candidates: Candidates
    row: int
    rank: int
    pair: Pair


def _write_first(one: _First, methods: PairMethods, settings: Settings, out: Path, how: FirstPairs) -> None:
    """The file of matches and the drawing of a candidate; neither where its image is not there."""
    features, name = one.candidates.features[one.row], one.candidates.images.names[one.row]
    path = one.candidates.images.path(one.row)
    try:
        size = features.image_size if one.candidates.stored_size else upright_size(path)
        file = pair_file(
            *one.pair.matched(one.asked, features),
            one.pair,
            sizes=(upright_size(one.query), size),
            geometry=settings.verification.model,
            score=methods.reranker.score(one.pair),
        )
        stem = f"{one.rank:04d}_{one.query.stem}_{Path(name).stem}_matches"
        write_pair(out / f"{stem}.npz", file)
        row = row_of(one.query.name, name, file, f"{stem}.npz")
        image = drawing((one.query, path), row, file, keypoints=how.keypoints)
    except ImageError as error:
        logger.warning("%s: rank %d is not drawn: %s", name, one.rank, error)
        return
    write_match_image(out / f"{stem}.{how.extension.removeprefix('.')}", image)
