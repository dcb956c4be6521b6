"""Features and matches of a folder, written in the files of other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpr.build import compares_patches, describes_images
from vpr.config import load
from vpr.core import ConfigError, DataError, Floats, ImageSet, LocalFeatures, Rows
from vpr.datasets.image_pairs import ImagePairs
from vpr.descriptors import JoinedStores, Vectors
from vpr.exchange.colmap_database import ColmapImage, ColmapPair, write_colmap
from vpr.exchange.hloc import HlocFeatures, require_library, write_descriptors, write_features, write_matches
from vpr.exchange.match_npz import PairFile, read_pair
from vpr.exchange.pair_table import FILE_NAME as PAIR_TABLE
from vpr.exchange.pair_table import PairRow, read_pair_table
from vpr.features.feature_set import CONTENTS, GLOBAL, LOCAL
from vpr.features.shards import read_origin
from vpr.features.store import GlobalStore, LocalStore, PatchStore
from vpr.images import moved, turned_back, upright_size
from vpr.pairs.matching import FEATURES, MatchedImage, PairFeatures
from vpr.report.dataset_file import FILE_NAME as DATASET
from vpr.report.dataset_file import read_dataset
from vpr.report.pairs import names_in_pairs
from vpr.runtime.files import read_json
from vpr.runtime.progress import Progress
from vpr.settings import Settings


@dataclass(frozen=True, eq=False)
class FeatureFolder:
    """A folder of features, the images they are of, and the names that the images have in the exported file."""

    folder: Path
    images: ImageSet
    names: Sequence[str]
    settings: Settings | None = None  # of the run, where it is a run's


def export_features(folder: Path, out: Path, images: Path | None = None) -> int:
    """Local features as hloc has them; returns of how many images. ``images`` is their folder, if it was moved.

    The folder is that of a run, of match-pairs, or of feature-extract. Raises DataError if it holds no local features.
    """
    sources = feature_folders(folder, images)
    write_features(out, (found for source in sources for found in _local(source)))
    return sum(len(source.names) for source in sources)


def export_descriptors(folder: Path, out: Path, images: Path | None = None) -> int:
    """Global descriptors as hloc has them: the vectors that were searched; see export_features."""
    sources = feature_folders(folder, images)
    write_descriptors(out, (found for source in sources for found in _global(source)))
    return sum(len(source.names) for source in sources)


def export_matches(folder: Path, out: Path) -> int:
    """Matches of a folder of match-pairs as hloc has them; returns of how many pairs."""
    rows = [row for row in read_pair_table(folder) if not row.problem]
    write_matches(out, _matches(folder, rows))
    return len(rows)


def export_pairs(features: PairFeatures, rows: Sequence[PairRow], out: Path) -> None:
    """features.h5 and matches.h5 of pairs that were just matched; images may be turned, each in one way."""
    matched = [row for row in rows if not row.problem]
    turns = _one_turn_each(matched)
    names = features.images.names
    views = [MatchedImage(row, turns[name]) for row, name in enumerate(names) if name in turns]
    write_features(out / "features.h5", ((names[view.row], _turned(features, view)) for view in views))
    write_matches(out / "matches.h5", _matches(out, matched))


def export_colmap(folder: Path, out: Path, *, shared_cameras: bool = False) -> int:
    """A COLMAP database of a folder of match-pairs; returns of how many images."""
    rows = [row for row in read_pair_table(folder) if not row.problem]
    _one_turn_each(rows)
    images: dict[str, ColmapImage] = {}
    for row, pair in _files(folder, rows):
        for name, points, turn, size in zip(
            (row.image0, row.image1), (pair.keypoints0, pair.keypoints1), pair.turns, pair.sizes, strict=True
        ):
            if name not in images:
                stored = size if turn % 2 == 0 else size[::-1]
                images[name] = ColmapImage(name, stored, turned_back(points, turn, stored))
    write_colmap(out, list(images.values()), _colmap_pairs(folder, rows), shared_cameras=shared_cameras)
    return len(images)


def feature_folders(folder: Path, images: Path | None) -> list[FeatureFolder]:
    """The folders of features below a folder, with their images. Raises DataError if there are none."""
    if (folder / DATASET).exists():
        dataset = read_dataset(folder / DATASET)
        queries, database = names_in_pairs(dataset)
        settings = load(Settings, folder / "settings.toml")
        return [
            FeatureFolder(folder / "features" / role, each, names, settings)
            for role, each, names in (("database", dataset.database, database), ("queries", dataset.queries, queries))
        ]
    here = folder / FEATURES if (folder / PAIR_TABLE).exists() else folder
    store = next((each for each in (here / LOCAL, here / GLOBAL) if (each / "origin.json").exists()), None)
    if store is None:
        raise DataError(
            f"{folder}: no features; give the folder of a run (--out), of match-pairs, or of feature-extract"
        )
    kind = LocalStore if store.name == LOCAL else GlobalStore
    names = kind(store).names
    if names is None:
        raise DataError(f"{store}: of a format without names; extract the features again")
    return [FeatureFolder(here, ImageSet(images or _root(here), names), names)]


def _root(folder: Path) -> Path:
    try:
        return Path(read_json(folder / CONTENTS)["root"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{folder / CONTENTS}: does not say where the images are; give --images") from None


def _local(source: FeatureFolder) -> Iterator[tuple[str, HlocFeatures]]:
    if not (source.folder / LOCAL / "origin.json").exists():
        raise DataError(f"{source.folder}: no local features here; export its global descriptors with --kind global")
    store = LocalStore(source.folder / LOCAL)
    _require_count(source, len(store))
    failed = store.failed()
    for row, name in Progress("export", len(store), "image").over(list(enumerate(source.names))):
        if row not in failed:
            yield name, _hloc(store[row], upright_size(source.images.path(row)))


def _global(source: FeatureFolder) -> Iterator[tuple[str, Floats]]:
    vectors = _vectors(source)
    _require_count(source, len(vectors))
    kinds = vectors.stores if isinstance(vectors, JoinedStores) else [vectors]
    failed = {row for store in kinds if isinstance(store, GlobalStore) for row in store.failed()}
    rows = (vector for block in vectors.blocks() for vector in block)
    for row, (name, vector) in enumerate(zip(source.names, rows, strict=True)):
        if row not in failed:
            yield name, vector


def _vectors(source: FeatureFolder) -> Vectors:
    """Descriptors of images, those made of local features, or both joined, as the run's settings say."""
    settings, whole = source.settings, source.folder / GLOBAL
    if settings is not None and settings.joined is not None:
        weights = (1 - settings.joined.weight, settings.joined.weight)
        return JoinedStores([GlobalStore(whole), _aggregated(source.folder)], weights)
    if (whole / "origin.json").exists() and (settings is None or describes_images(settings)):
        return PatchStore(whole) if read_origin(whole).get("kind") == PatchStore.kind else GlobalStore(whole)
    return _aggregated(source.folder)


def _aggregated(folder: Path) -> GlobalStore:
    found = sorted(each.parent for each in folder.glob("aggregated-*/origin.json"))
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} sets of descriptors made of local features; expected one")
    return GlobalStore(found[0])


def _require_count(source: FeatureFolder, count: int) -> None:
    if count != len(source.names):
        raise DataError(
            f"{source.folder}: features of {count} images, but {len(source.names)} images; run it again first"
        )


def _hloc(features: LocalFeatures, size: tuple[int, int]) -> HlocFeatures:
    points = moved(features.keypoints.numpy(), features.image_size, size)
    descriptors = features.descriptors.numpy().astype(np.float16)
    return HlocFeatures(points, features.scores.numpy().astype(np.float16), descriptors, size)


def _turned(features: PairFeatures, view: MatchedImage) -> HlocFeatures:
    """Features of an image that was turned, with keypoints in the image before."""
    found, size = features.of(view), features.size(view)
    upright = _hloc(found, size)
    stored = size if view.turns % 2 == 0 else size[::-1]
    points = turned_back(upright.keypoints, view.turns, stored)
    return HlocFeatures(points, upright.scores, upright.descriptors, stored)


def _files(folder: Path, rows: Sequence[PairRow]) -> Iterator[tuple[PairRow, PairFile]]:
    for row in Progress("export", len(rows), "pair").over(rows):
        yield row, read_pair(folder / row.file)


def _matches(folder: Path, rows: Sequence[PairRow]) -> Iterator[tuple[str, str, Rows, Floats]]:
    for row, pair in _files(folder, rows):
        yield row.image0, row.image1, pair.matches, pair.match_confidence


def _colmap_pairs(folder: Path, rows: Sequence[PairRow]) -> Iterator[ColmapPair]:
    for row, pair in _files(folder, rows):
        model = np.zeros((0, 0)) if any(pair.turns) else pair.model  # it is that of the turned images
        matched = pair.pairs()
        yield ColmapPair(row.image0, row.image1, matched, pair.inliers[matched[:, 0]], model, pair.geometry)


def require_exportable(listed: ImagePairs, settings: Settings) -> None:
    """Raise ConfigError for pairs that hloc's files cannot hold; before anything is matched."""
    require_library()
    if compares_patches(settings):
        raise ConfigError("hloc's files hold local features, but this config compares patches; write npz")
    turned = [
        (name, turn)
        for pair in range(len(listed))
        for name, turn in zip(listed.names(pair), listed.turns[pair].tolist(), strict=True)
    ]
    _turns_of(turned)


def _one_turn_each(rows: Sequence[PairRow]) -> dict[str, int]:
    return _turns_of([each for row in rows for each in ((row.image0, row.turns0), (row.image1, row.turns1))])


def _turns_of(images: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Quarter turns of each image. Raises ConfigError for an image that is turned in two ways."""
    turns: dict[str, int] = {}
    for name, turn in images:
        if turns.setdefault(name, turn) != turn:
            raise ConfigError(
                f"{name!r} is listed with {turns[name]} and with {turn} quarter turns, but these files hold one set of "
                "keypoints for each image; write npz, or split the list"
            )
    return turns
