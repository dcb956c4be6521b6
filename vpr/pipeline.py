"""The stages in order: pictures to features, features to shortlist, shortlist to predictions, predictions to files.

Every stage leaves its result in a folder, and picks it up there when it is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpr.clock import Clock
from vpr.config import digest_of_names, dump, fingerprint, lookup, plain
from vpr.core import ConfigError, DataError, Dataset, Floats, Image, ImageError, ImageSet, Origin, Ranking, usable_name
from vpr.evaluation.comparison import Summary
from vpr.features.extraction import (
    Extraction,
    aggregate,
    extract_global,
    extract_local,
    extract_patches,
    extract_together,
)
from vpr.features.store import GlobalStore, LocalStore, PatchStore
from vpr.global_descriptors import GLOBAL_DESCRIPTORS, LOCAL_AGGREGATORS
from vpr.global_descriptors.patch_netvlad import PatchNetVlad
from vpr.global_descriptors.superpoint_global import SuperPointGlobal
from vpr.images import read_image, resize
from vpr.index import build_index, shortlist
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.superpoint import SuperPoint
from vpr.machine import device_of, threads_of
from vpr.matchers import MATCHERS, nearest
from vpr.report.drawing import Correspondences
from vpr.report.outputs import write_outputs
from vpr.report.page import ReportInput
from vpr.rerank import VERIFIERS, LocalReranker, PairReranker, PatchReranker, rerank_into
from vpr.rerank import patch_netvlad as patches
from vpr.rerank import reranker as local_features
from vpr.settings import Settings
from vpr.weights import find, sha256_of

logger = logging.getLogger(__name__)

LOCAL, GLOBAL = "local", "global"  # the stores in a features folder
NOWHERE = Origin("", "", "")  # of features that the settings do not need


@dataclass(frozen=True, eq=False)
class Side:
    """The features of the database or of the queries; a store that the settings do not need is None."""

    images: ImageSet
    local: LocalStore | None
    described: GlobalStore | None  # global descriptors of methods that look at the image

    @property
    def compared(self) -> LocalStore | PatchStore | None:
        """What the second stage compares."""
        return self.described if isinstance(self.described, PatchStore) else self.local


@dataclass(frozen=True)
class Places:
    """Where the stores of an image set lie."""

    local: Path
    described: Path

    @staticmethod
    def under(folder: Path) -> Places:
        """Both in one folder, as a single run has them."""
        return Places(folder / LOCAL, folder / GLOBAL)

    @staticmethod
    def shared(folder: Path, role: str, settings: Settings) -> Places:
        """By what makes them, so that methods that differ elsewhere find the features of each other."""
        how = {"images": settings.images, "dtype": settings.store.dtype, "shard_size": settings.store.shard_size}
        described = {"global_descriptor": settings.global_descriptor, "patches": compares_patches(settings)}
        local = fingerprint({**how, "local_features": settings.local_features})
        return Places(
            folder / f"{LOCAL}-{local}" / role, folder / f"{GLOBAL}-{fingerprint({**how, **described})}" / role
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What matching found: the ranking of each stage by its name, and what is needed to look closer at a pair."""

    stages: Mapping[str, Ranking]
    database: Side
    queries: Side
    reranker: PairReranker[Any]


def run(dataset: Dataset, settings: Settings, out: Path, about: Mapping[str, str]) -> Summary | None:
    """Everything, from pictures to report, in one folder; returns recall where there is ground truth."""
    clock = Clock()
    with clock.stage("extract, database", len(dataset.database), "image"):
        database = extract(dataset.database, settings, out / "features" / "database")
    with clock.stage("extract, queries", len(dataset.queries), "image"):
        queries = extract(dataset.queries, settings, out / "features" / "queries")
    outcome = match(dataset, database, queries, settings=settings, work=out / "work", clock=clock)
    return report(dataset, outcome, settings, out, about=about, clock=clock)


def extract(images: ImageSet, settings: Settings, folder: Path | Places) -> Side:
    """All features of an image set that the settings need, into the folder; continues where it was interrupted.

    Raises DataError if the folder holds features of other settings or other images.
    """
    places = folder if isinstance(folder, Places) else Places.under(folder)
    device = device_of(settings.machine.device)
    how = Extraction(
        batch_size=settings.store.batch_size,
        shard_size=settings.store.shard_size,
        threads=threads_of(settings.machine.threads),
        on_bad_image=settings.images.on_bad_image,
        max_megapixels=settings.images.max_megapixels,
        dtype=settings.store.dtype,
    )
    extractor, descriptor, made_local, made_global = None, None, NOWHERE, NOWHERE
    if needs_local(settings):
        chosen = settings.local_features
        extractor = lookup(LOCAL_EXTRACTORS, chosen.method, "local feature").build(chosen, device)
        parts = {"local_features": chosen, "weights": extractor.weights, "dtype": how.dtype}
        made_local = _origin(LocalStore.kind, images, parts)
    if looks_at_image(settings):
        chosen = settings.global_descriptor
        descriptor = GLOBAL_DESCRIPTORS[chosen.method].build(chosen, device)
        parts = {"global_descriptor": chosen, "weights": descriptor.weights, "dtype": how.dtype}
        made_global = _origin((PatchStore if compares_patches(settings) else GlobalStore).kind, images, parts)
    if isinstance(extractor, SuperPoint) and isinstance(descriptor, SuperPointGlobal):
        if descriptor.shares_trunk_with(extractor):  # what follows then finds nothing left to do
            folders = places.local, places.described
            extract_together(images, extractor, descriptor, folders=folders, origins=(made_local, made_global), how=how)
    if extractor is not None:
        extract_local(images, extractor, places.local, made_local, how)
    if compares_patches(settings) and isinstance(descriptor, PatchNetVlad):
        extract_patches(images, descriptor, places.described, made_global, how)
    elif descriptor is not None:
        extract_global(images, descriptor, places.described, made_global, how)
    return open_side(images, settings, places)


def open_side(images: ImageSet, settings: Settings, folder: Path | Places) -> Side:
    """The features that ``extract`` left in a folder; raises DataError if there are none, or of other images."""
    places = folder if isinstance(folder, Places) else Places.under(folder)
    local = LocalStore(places.local) if needs_local(settings) else None
    kind = PatchStore if compares_patches(settings) else GlobalStore
    described = kind(places.described) if looks_at_image(settings) else None
    for store in (local, described):
        if store is not None and store.origin["images"] != _digest(images):
            raise DataError(
                f"{store.folder}: made from another list of {len(store)} images, this list has {len(images)}; "
                "extract the features of this list"
            )
    return Side(images, local, described)


def match(dataset: Dataset, database: Side, queries: Side, *, settings: Settings, work: Path, clock: Clock) -> Outcome:
    """Shortlist and, unless ``rerank.k`` is 0, predictions for every query.

    Lasting results go to the folder ``work``, where an interrupted run continues.
    """
    _require_one_origin(database, queries)
    output = settings.output
    with clock.stage("describe", len(dataset.database) + len(dataset.queries), "image"):
        vectors, query_vectors, made_by = _global_descriptors(database, queries, settings, work)
    with clock.stage("index", len(dataset.database), "image"):
        index = build_index(vectors, settings.index.factory, settings.index.gpu)
        index.save(work / "index", {"descriptors": made_by})
    groups = _groups(dataset, settings)

    def search(asked: Floats) -> Ranking:
        return shortlist(index, asked, settings.shortlist.k, groups, settings.index.search)

    with clock.stage(output.shortlist_name, len(dataset.queries), "query"):
        candidates = search(query_vectors)
    clock.alone(lambda row: search(query_vectors[row : row + 1]), len(query_vectors))
    stages = {output.shortlist_name: candidates}
    reranker = build_reranker(settings)
    if settings.rerank.k > 0 and database.compared is not None and queries.compared is not None:
        parts = {
            "descriptors": made_by,
            "index": settings.index,
            "shortlist": settings.shortlist,
            "matcher": settings.matcher,
            "weights": reranker.weights,
            "verification": settings.verification,
            "rerank": settings.rerank,
            "cost": settings.cost,
            "features": database.compared.origin["fingerprint"],
            "database": _digest(dataset.database),
        }
        with clock.stage(output.predictions_name, len(dataset.queries), "query"):
            stages[output.predictions_name] = rerank_into(
                work / f"{output.predictions_name}-{fingerprint(parts)}",
                _origin("re-ranked shortlist", dataset.queries, parts),
                reranker=reranker,
                shortlist=candidates,
                queries=queries.compared,
                database=database.compared,
            )
    return Outcome(stages, database, queries, reranker)


def report(
    dataset: Dataset,
    outcome: Outcome,
    settings: Settings,
    out: Path,
    *,
    about: Mapping[str, str],
    clock: Clock,
    root: str | None = None,
) -> Summary | None:
    """Write predictions, recalls and the HTML report into the folder; see write_outputs."""
    page = ReportInput(
        dataset=dataset,
        stages=outcome.stages,
        recall_at=reached(settings, dataset),
        settings_toml=dump(settings),
        facts=about,
        timings=clock.timings,
        failures=settings.output.failures,
        bytes_per_image=_bytes_per_image(outcome.database, outcome.queries),
    )

    def picture(role: str, row: int) -> Image | None:
        return _picture(outcome.queries if role == "query" else outcome.database, row)

    def correspondences(query: int, candidate: int) -> Correspondences | None:
        return _correspondences(outcome, query, candidate)

    return write_outputs(out, page, picture, correspondences, root)


def build_reranker(settings: Settings) -> PairReranker[Any]:
    """The second stage as the settings describe it."""
    device = device_of(settings.machine.device)
    on_cpu = device.type == "cpu"
    threads = threads_of(settings.machine.threads) if on_cpu else 1  # a GPU is filled by one thread's batches
    if isinstance(settings.rerank, patches.Settings):
        return PatchReranker(settings.rerank, device, control=settings.cost, threads=threads, reads_ahead=not on_cpu)
    if not isinstance(settings.rerank, local_features.Settings):
        raise AssertionError(f"no way to build {settings.rerank.method}")
    matcher = lookup(MATCHERS, settings.matcher.method, "matcher").build(settings.matcher, device)
    return LocalReranker(
        matcher,
        lookup(VERIFIERS, settings.verification.method, "verifier").build(settings.verification, device),
        settings.rerank,
        settings.verification,
        control=settings.cost,
        scout=nearest.build(nearest.Settings(), device) if settings.cost.order == "nearest" else None,
        threads=threads,
        together=4 if on_cpu else 128,
        reads_ahead=not on_cpu,
    )


def needs_local(settings: Settings) -> bool:
    return (settings.rerank.k > 0 and not compares_patches(settings)) or not looks_at_image(settings)


def compares_patches(settings: Settings) -> bool:
    """Whether the second stage compares patches of the global descriptor's features, not local features."""
    return settings.rerank.k > 0 and settings.rerank.method == "patch_netvlad"


def looks_at_image(settings: Settings) -> bool:
    """Whether the global descriptor is made from the picture, not from its local features."""
    return settings.global_descriptor.method in GLOBAL_DESCRIPTORS


def _global_descriptors(database: Side, queries: Side, settings: Settings, work: Path) -> tuple[Floats, Floats, str]:
    """Descriptors of both sides, and a fingerprint of what made them."""
    if database.described is not None and queries.described is not None:
        return database.described.matrix(), queries.described.matrix(), database.described.origin["fingerprint"]
    if database.local is None or queries.local is None:
        raise AssertionError("a method that aggregates local features was chosen, but they were not opened")
    chosen = settings.global_descriptor
    build = lookup(LOCAL_AGGREGATORS, chosen.method, "global descriptor").build
    given: str = getattr(chosen, "weights", "")
    parts = {
        "global_descriptor": chosen,
        "local features": database.local.origin["fingerprint"],
        "fitted on": find(given).sha256 if given else database.local.origin["images"],
    }
    folder = work / f"global-{fingerprint(parts)}"
    if not given:
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "model.safetensors"
        if not model.exists():
            build(database.local, chosen).save(model)
        chosen = chosen.model_copy(update={"weights": str(model)})
        parts["weights"] = sha256_of(model)
    aggregator = build(database.local, chosen)
    threads = threads_of(settings.machine.threads)
    matrices = []
    for role, side, local in (("database", database, database.local), ("queries", queries, queries.local)):
        origin = _origin(GlobalStore.kind, side.images, parts)
        matrices.append(aggregate(side.images, local, aggregator, folder / role, origin, threads=threads).matrix())
    return matrices[0], matrices[1], fingerprint(parts)


def _require_one_origin(database: Side, queries: Side) -> None:
    for one, other in ((database.local, queries.local), (database.described, queries.described)):
        if one is not None and other is not None and one.origin["fingerprint"] != other.origin["fingerprint"]:
            raise DataError(
                f"{one.folder} and {other.folder} were made with different settings; "
                "extract both with the same configuration"
            )


def _groups(dataset: Dataset, settings: Settings) -> Any:
    if not settings.shortlist.one_per_group:
        return None
    if dataset.database.groups is None:
        raise ConfigError(f"shortlist.one_per_group: {dataset.name} does not say which images are of one panorama")
    return dataset.database.groups


def reached(settings: Settings, dataset: Dataset) -> tuple[int, ...]:
    """The k of recall@k that the shortlist is long enough for."""
    ks, longest = settings.evaluation.recall_at, settings.shortlist.k
    reached = tuple(k for k in ks if k <= longest or longest >= len(dataset.database))
    if reached != ks:
        left_out = ", ".join(str(k) for k in ks if k not in reached)
        logger.info("recall@%s left out: a shortlist holds shortlist.k = %d candidates", left_out, longest)
    return reached


def _bytes_per_image(*sides: Side) -> dict[str, float]:
    """Size of the features on disk, by kind, over both sides."""
    sizes: dict[str, list[float]] = {}
    for side in sides:
        for store in filter(None, (side.local, side.described)):
            held = sum(path.stat().st_size for path in store.folder.glob("*.safetensors"))
            total = sizes.setdefault(store.kind, [0, 0])
            total[0] += held
            total[1] += len(side.images)
    return {kind: round(held / images, 1) for kind, (held, images) in sizes.items() if images}


def _picture(side: Side, row: int) -> Image | None:
    """The picture at the size that its compared features refer to; None if it cannot be read."""
    try:
        image = read_image(side.images.path(row), "rgb")
    except ImageError:
        return None
    size = side.compared[row].image_size if side.compared is not None else (0, 0)
    return resize(image, size) if all(size) else image


def _correspondences(outcome: Outcome, query: int, candidate: int) -> Correspondences | None:
    if outcome.queries.compared is None or outcome.database.compared is None:
        return None
    of_query, of_candidate = outcome.queries.compared[query], outcome.database.compared[candidate]
    pair = outcome.reranker.pair(of_query, of_candidate)
    rows = pair.matches.pairs.numpy()
    return Correspondences(
        of_query.points.numpy()[rows[:, 0]], of_candidate.points.numpy()[rows[:, 1]], pair.verified.inliers
    )


def _origin(kind: str, images: ImageSet, parts: Mapping[str, Any]) -> Origin:
    return Origin(kind, fingerprint(parts), _digest(images), str(parts.get("weights", "")), plain(parts))


def _digest(images: ImageSet) -> str:
    return digest_of_names(usable_name(name) for name in images.names)
