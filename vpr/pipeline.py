"""The stages in order: images to features, features to shortlist, shortlist to predictions, predictions to files.

Every stage leaves its result in a folder, and picks it up there when it is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vpr import rotations
from vpr.build import Engine, build, build_reranker, compares_images, compares_patches, on_worker
from vpr.config import digest_of_names, dump, fingerprint, plain
from vpr.core import ConfigError, DataError, Dataset, Floats, Image, ImageError, ImageSet, Origin, Ranking, Rows
from vpr.descriptors import Descriptors, Features, describe
from vpr.features.feature_set import FeatureFolders, FeatureSet
from vpr.features.imported import HlocPaths
from vpr.features.masks import Masks, read_masks
from vpr.features.prepared import PreparedImages
from vpr.features.turned import turned
from vpr.given_features import require_comparable, with_imported
from vpr.images import read_image, resize
from vpr.index import (
    FaissIndex,
    Vectors,
    first_per_group,
    kept_index,
    own_region,
    region_indexes,
    require_enough_rows,
)
from vpr.index import shortlist as search_index
from vpr.report.compared import correspondences_of
from vpr.report.drawing import Correspondences
from vpr.report.outputs import write_outputs
from vpr.rerank import PairReranker, rerank_into
from vpr.rerank.units import RerankMethods, reranked_on
from vpr.results import RunResult
from vpr.runtime.timing import Clock
from vpr.runtime.units import Workers
from vpr.settings import Settings

logger = logging.getLogger(__name__)

Folders = Callable[[str], FeatureFolders]  # of the features of a role, "database" or "queries"


@dataclass(frozen=True, eq=False)
class Matched:
    """Rankings of each stage by name, and the features needed to inspect a pair."""

    stages: Mapping[str, Ranking]
    features: Features
    engine: Engine


def run(
    dataset: Dataset,
    settings: Settings,
    out: Path,
    about: Mapping[str, str],
    *,
    features_folder: Path | None = None,
    verify: bool = False,
    shortlist: Ranking | None = None,
    hloc: HlocPaths | None = None,
    workers: Workers | None = None,
) -> RunResult:
    """Runs both stages, from images to report, in one folder; returns what was found and written.

    Features lie in ``out``, or in a folder that several runs share. With ``verify`` every image file is hashed, even if
    its size and times are those of the last run. With a ``shortlist`` there is no first stage. Features that ``hloc``
    has are copied instead of extracted. With ``workers`` these extract and re-rank; they see the same folders.
    """
    hloc = hloc or HlocPaths()
    if hloc and compares_patches(settings):
        raise ConfigError("hloc's files hold no patches, which rerank.method = 'patch_netvlad' compares")
    if shortlist is None:
        require_enough_rows(settings.index.factory, len(dataset.database))  # before hours of extraction
    engine = build(settings, retrieves=shortlist is None and not hloc.descriptors, detects=not hloc.local)
    clock = Clock()

    def own(role: str) -> FeatureFolders:
        return FeatureFolders.under(out / "features" / role)

    folders = own if features_folder is None else engine.extractor.shared_folders(features_folder)
    features = extract(dataset, engine, folders, clock, verify=verify, workers=workers)
    if hloc:
        features = with_imported(features, hloc, out / "features")
        require_comparable(features, engine)
    matched = match(dataset, features, engine, work=out / "work", clock=clock, shortlist=shortlist, workers=workers)
    return report(dataset, matched, out, about=about, clock=clock)


def extract(
    dataset: Dataset,
    engine: Engine,
    folders: Folders,
    clock: Clock,
    *,
    verify: bool = False,
    workers: Workers | None = None,
) -> Features:
    """Features of database and queries, each in the folders of its role; single queries are timed as well.

    Raises DataError if not one query, or not one database image, can be read.
    """
    by_images = compares_images(engine.settings)
    if not engine.extractor.passes() and not by_images:  # everything is given
        return Features(FeatureSet(dataset.database, (), None, None), FeatureSet(dataset.queries, (), None, None))
    masks = read_masks(engine.settings.images.masks, dataset.database, engine.settings.local_features)
    if not engine.extractor.passes():  # the images themselves are compared
        keyed = engine.extractor.extract
        database = keyed(dataset.database, folders("database"), masks=masks)
        return Features(database, keyed(dataset.queries, folders("queries"), masks=masks))
    first, *others = engine.settings.rotations.degrees
    how: dict[str, Any] = {"clock": clock, "verify": verify, "masks": masks, "workers": workers}
    database = _extract("database", dataset.database, 0, engine, folders, **how)
    queries = _extract("queries", dataset.queries, first, engine, folders, **how)

    def single(row: int) -> None:
        try:
            engine.extractor.single(dataset.queries.path(row))
        except ImageError:
            return

    clock.per_item(single, len(dataset.queries))
    turned = [_extract("queries", dataset.queries, degrees, engine, folders, **how) for degrees in others]
    return Features(database, queries, tuple(turned))


def _extract(
    role: str,
    images: ImageSet,
    degrees: int,
    engine: Engine,
    folders: Folders,
    *,
    clock: Clock,
    verify: bool,
    masks: Masks | None,
    workers: Workers | None,
) -> FeatureSet:
    """The features of one role, whose images are turned by ``degrees``."""
    place, name = (f"{role}-{degrees}", f"{role} turned by {degrees}") if degrees else (role, role)
    with clock.stage(f"extract, {name}", len(images), "image") as stage:
        features = engine.extractor.extract(
            images, folders(place), verify=verify, masks=masks, degrees=degrees, workers=workers
        )
        assert features.work is not None
        stage.reused = features.work.reused
    failed = features.work.failed
    if failed:
        logger.warning("%d of %d images (%s) cannot be used", len(failed), len(images), role)
    if len(failed) == len(images):
        raise DataError(f"{images.root}: not one of {len(images)} images ({role}) can be used: {failed[0]}")
    return features


def match(
    dataset: Dataset,
    features: Features,
    engine: Engine,
    *,
    work: Path,
    clock: Clock,
    shortlist: Ranking | None = None,
    workers: Workers | None = None,
) -> Matched:
    """Shortlist, unless one is given, and, unless ``rerank.k`` is 0, predictions for every query.

    Lasting results go to the folder ``work``, where an interrupted run continues.
    """
    output = engine.settings.output
    rotated = bool(features.turned) or features.queries.rotations is not None
    if engine.settings.rotations.degrees != (0,) and (shortlist is not None or not rotated):
        raise ConfigError("rotations.degrees: these features, or this shortlist, are of the queries as they are")
    if shortlist is not None:
        candidates = _allowed(shortlist, dataset, engine.settings)
    elif features.turned:
        with clock.stage("rotations", len(dataset.queries), "query"):
            features, candidates = _at_best_rotation(dataset, features, engine, work, workers)
    else:
        candidates = _retrieve(dataset, features, engine, work, clock)
    stages = {output.shortlist_name: candidates}
    if engine.reranker is not None:
        with clock.stage(output.predictions_name, len(dataset.queries), "query") as stage:
            stages[output.predictions_name], stage.reused = _rerank(features, candidates, engine, work, workers=workers)
    return Matched(stages, features, engine)


def _at_best_rotation(
    dataset: Dataset, features: Features, engine: Engine, work: Path, workers: Workers | None
) -> tuple[Features, Ranking]:
    def folder(each: Features) -> Path:
        of_queries = each.queries.rotations
        return work if of_queries is None else work / f"turned-{of_queries[0]}"

    search = _search(dataset, describe(features, engine, work), features.database.keys, engine.settings, work)
    everything = np.arange(len(dataset.queries))

    def retrieve(each: Features) -> Ranking:
        return search(describe(each, engine, folder(each)).queries.matrix(), everything)

    def verify(each: Features, shortlist: Ranking) -> Ranking:
        return _rerank(each, shortlist, engine, folder(each), k=engine.settings.rotations.k, workers=workers)[0]

    return rotations.choose(features, retrieve, None if engine.reranker is None else verify)


def _allowed(shortlist: Ranking, dataset: Dataset, settings: Settings) -> Ranking:
    """A given shortlist without candidates of other regions, and with one image per group where that was asked for."""
    of_database, of_queries, groups = dataset.database.regions, dataset.queries.regions, _groups(dataset, settings)
    if of_database is not None and of_queries is not None:
        shortlist = own_region(shortlist, of_database, of_queries)
    return shortlist if groups is None else first_per_group(shortlist, groups, shortlist.width)


def _retrieve(dataset: Dataset, features: Features, engine: Engine, work: Path, clock: Clock) -> Ranking:
    """The first stage: descriptors, index and search."""
    database, settings = features.database, engine.settings
    with clock.stage("describe", len(dataset.database) + len(dataset.queries), "image") as stage:
        descriptors = describe(features, engine, work)
        stage.reused = descriptors.reused
    if descriptors.aggregate_one is not None:
        clock.per_item(descriptors.aggregate_one, len(dataset.queries))
    with clock.stage("index", len(dataset.database), "image"):
        search = _search(dataset, descriptors, database.keys, settings, work)
    asked = descriptors.queries.matrix()
    with clock.stage(settings.output.shortlist_name, len(dataset.queries), "query"):
        candidates = search(asked, np.arange(len(dataset.queries)))
    clock.per_item(lambda row: search(asked, np.array([row])), len(dataset.queries))
    return candidates


def report(
    dataset: Dataset,
    matched: Matched,
    out: Path,
    *,
    about: Mapping[str, str],
    clock: Clock,
    root: str | None = None,
) -> RunResult:
    """Write predictions, recalls and the HTML report into the folder, and return what they say; see write_outputs."""
    settings, features = matched.engine.settings, matched.features
    result = RunResult(
        dataset=dataset,
        stages=matched.stages,
        recall_at=reached(settings, dataset, next(iter(matched.stages.values())).width),
        settings_toml=dump(settings),
        facts=about,
        timings=clock.timings,
        failures=settings.output.failures,
        match_images=settings.output.match_images,
        match_image_format=settings.output.match_image_format,
        bytes_per_image=bytes_per_image(features),
        samples=settings.evaluation.bootstrap,
        seed=settings.evaluation.seed,
        unreadable={
            role: dict(each.work.failed)
            for role, each in (("database", features.database), ("queries", features.queries))
            if each.work is not None and each.work.failed
        },
        rotations=None if features.queries.rotations is None else tuple(features.queries.rotations.tolist()),
    )

    def picture(role: str, row: int) -> Image | None:
        return _image(features.queries if role == "query" else features.database, row, matched.engine)

    def correspondences(query: int, candidate: int) -> Correspondences | None:
        return _correspondences(matched, query, candidate)

    write_outputs(out, result, picture, correspondences, root)
    return result


def _rerank(
    features: Features,
    candidates: Ranking,
    engine: Engine,
    work: Path,
    *,
    k: int | None = None,
    workers: Workers | None = None,
) -> tuple[Ranking, int]:
    """The predictions, and for how many queries they were there already; ``k`` other than rerank.k are compared."""
    settings, reranker = engine.settings, engine.reranker
    assert reranker is not None
    database, queries = (_compared(each, reranker) for each in (features.database, features.queries))
    assert database is not None and queries is not None
    if database.fingerprint != queries.fingerprint:
        raise DataError(
            f"{database.folder} and {queries.folder} were made with different settings; "
            "extract both with the same configuration"
        )
    parts = {
        "matcher": settings.image_matcher if reranker.prepare is not None else settings.matcher,
        "weights": reranker.weights,
        "verification": settings.verification,
        "rerank": settings.rerank,
        "cost": settings.cost,
        "features": database.fingerprint,
        **({} if k is None else {"k": k}),
    }
    folder = work / f"{settings.output.predictions_name}-{fingerprint(parts)}"
    computing = None
    if workers is not None:
        of_worker = partial(_on_worker, on_worker(settings, workers.threads), features.database, features.queries)
        computing = partial(reranked_on, workers, of_worker, candidates, made_by=fingerprint(parts), k=k)
    return rerank_into(
        folder,
        Origin("re-ranked shortlist", fingerprint(parts), reranker.weights, plain(parts)),
        reranker=reranker,
        shortlist=candidates,
        queries=queries,
        database=database,
        query_keys=features.queries.keys,
        database_keys=features.database.keys,
        k=k,
        computing=computing,
    )


def _on_worker(settings: Settings, database: FeatureSet, queries: FeatureSet) -> RerankMethods:
    reranker = build_reranker(settings)
    return RerankMethods(reranker, _compared(queries, reranker), _compared(database, reranker))


def _search(
    dataset: Dataset, descriptors: Descriptors, keys: Sequence[str], settings: Settings, work: Path
) -> Callable[[Floats, Rows], Ranking]:
    """What gives the shortlists of the queries of some rows, from the descriptors (Q, D) of all queries.

    They are over the database, or over the query's region of it.
    """
    groups, k, parameters = _groups(dataset, settings), settings.shortlist.k, settings.index.search

    def index_of(vectors: Vectors, rows: Rows) -> FaissIndex:
        made_by = {"descriptors": descriptors.made_by, "database": digest_of_names(keys[row] for row in rows)}
        folder = work / f"index-{fingerprint({'factory': settings.index.factory, **made_by})}"
        return kept_index(folder, vectors, settings.index.factory, made_by, settings.index.gpu)

    of_database, of_queries = dataset.database.regions, dataset.queries.regions
    if of_database is None or of_queries is None:
        index = index_of(descriptors.database, np.arange(len(keys)))
        return lambda asked, rows: search_index(index, asked[rows], k, groups, parameters)
    indexes = region_indexes(descriptors.database, of_database, index_of)
    return lambda asked, rows: indexes.search(asked[rows], of_queries[rows], k, groups, parameters)


def _groups(dataset: Dataset, settings: Settings) -> Rows | None:
    if not settings.shortlist.one_per_group:
        return None
    if dataset.database.groups is None:
        raise ConfigError(f"shortlist.one_per_group: {dataset.name} does not say which images are of one panorama")
    return dataset.database.groups


def reached(settings: Settings, dataset: Dataset, longest: int | None = None) -> tuple[int, ...]:
    """The k of recall@k that the shortlist is long enough for; ``longest`` is its length, by default shortlist.k.

    Raises ConfigError if there is none.
    """
    ks, longest = settings.evaluation.recall_at, settings.shortlist.k if longest is None else longest
    reached = tuple(k for k in ks if k <= longest or longest >= len(dataset.database))
    if reached != ks:
        left_out = ", ".join(str(k) for k in ks if k not in reached)
        logger.info("recall@%s left out: a shortlist holds %d candidates", left_out, longest)
    if not reached:
        raise ConfigError(f"evaluation.recall_at begins at {min(ks)}, but a shortlist holds {longest} candidates")
    return reached


def bytes_per_image(features: Features) -> dict[str, float]:
    """Size of the features on disk, by kind, over database and queries."""
    sizes: dict[str, list[float]] = {}
    for each in (features.database, features.queries):
        for store in (each.local_store, each.global_store):
            if store is not None:
                total = sizes.setdefault(store.kind, [0, 0])
                total[0] += store.bytes_on_disk()
                total[1] += len(each.images)
    return {kind: round(held / images, 1) for kind, (held, images) in sizes.items() if images}


def _compared(features: FeatureSet, reranker: PairReranker[Any] | None) -> Any:
    """What the second stage compares, by row; None where there is no second stage."""
    if reranker is None or reranker.prepare is None:
        return features.rerank_store
    return PreparedImages(features.images, reranker.prepare, reranker.nothing, features.masks)


def _image(features: FeatureSet, row: int, engine: Engine) -> Image | None:
    """The image at the size that its compared features refer to; None if it cannot be read."""
    try:
        image = read_image(features.images.path(row), "rgb")
    except ImageError:
        return None
    if features.rotations is not None:
        image = turned(image, int(features.rotations[row]))
    store = _compared(features, engine.reranker)
    size = store[row].image_size if store is not None else (0, 0)
    return resize(image, size) if all(size) else image


def _correspondences(matched: Matched, query: int, candidate: int) -> Correspondences | None:
    reranker = matched.engine.reranker
    features = matched.features
    queries, database = (_compared(each, reranker) for each in (features.queries, features.database))
    if queries is None or database is None or reranker is None:
        return None
    pair = reranker.pair(queries[query], database[candidate])
    shown = matched.engine.settings.output.keypoints
    return correspondences_of(pair, queries[query], database[candidate], keypoints=shown)
