"""The stages in order: pictures to features, features to shortlist, shortlist to predictions, predictions to files.

Every stage leaves its result in a folder, and picks it up there when it is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vpr.config import dump, fingerprint, lookup
from vpr.core import ConfigError, DataError, Dataset, Floats, Image, ImageError, Ranking
from vpr.evaluation.comparison import Summary
from vpr.features.extraction import aggregate
from vpr.features.store import GlobalStore
from vpr.global_descriptors import LOCAL_AGGREGATORS
from vpr.images import read_image, resize
from vpr.index import build_index, shortlist
from vpr.matchers import MATCHERS, nearest
from vpr.report.drawing import Correspondences
from vpr.report.outputs import write_outputs
from vpr.rerank import VERIFIERS, LocalReranker, PairReranker, PatchReranker, rerank_into
from vpr.rerank import patch_netvlad as patches
from vpr.rerank import reranker as local_features
from vpr.results import RunResult
from vpr.runtime.device import device_of, threads_of
from vpr.runtime.timing import Clock
from vpr.settings import Settings
from vpr.sides import Side, digest_of, extract_both, origin_of
from vpr.weights import find, sha256_of

logger = logging.getLogger(__name__)


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
    database, queries = extract_both(dataset, settings, (out / "features").joinpath, clock)
    outcome = match(dataset, database, queries, settings=settings, work=out / "work", clock=clock)
    return report(dataset, outcome, settings, out, about=about, clock=clock)


def match(dataset: Dataset, database: Side, queries: Side, *, settings: Settings, work: Path, clock: Clock) -> Outcome:
    """Shortlist and, unless ``rerank.k`` is 0, predictions for every query.

    Lasting results go to the folder ``work``, where an interrupted run continues.
    """
    _require_one_origin(database, queries)
    output = settings.output
    with clock.stage("describe", len(dataset.database) + len(dataset.queries), "image"):
        described = _global_descriptors(database, queries, settings, work)
    if described.aggregate_one is not None:
        clock.alone(described.aggregate_one, len(dataset.queries))
    with clock.stage("index", len(dataset.database), "image"):
        index = build_index(described.database, settings.index.factory, settings.index.gpu)
        index.save(work / "index", {"descriptors": described.made_by})
    groups = _groups(dataset, settings)

    def search(asked: Floats) -> Ranking:
        return shortlist(index, asked, settings.shortlist.k, groups, settings.index.search)

    with clock.stage(output.shortlist_name, len(dataset.queries), "query"):
        candidates = search(described.queries)
    clock.alone(lambda row: search(described.queries[row : row + 1]), len(dataset.queries))
    stages = {output.shortlist_name: candidates}
    reranker = build_reranker(settings)
    if settings.rerank.k > 0 and database.compared is not None and queries.compared is not None:
        parts = {
            "descriptors": described.made_by,
            "index": settings.index,
            "shortlist": settings.shortlist,
            "matcher": settings.matcher,
            "weights": reranker.weights,
            "verification": settings.verification,
            "rerank": settings.rerank,
            "cost": settings.cost,
            "features": database.compared.origin["fingerprint"],
            "database": digest_of(dataset.database),
        }
        with clock.stage(output.predictions_name, len(dataset.queries), "query"):
            stages[output.predictions_name] = rerank_into(
                work / f"{output.predictions_name}-{fingerprint(parts)}",
                origin_of("re-ranked shortlist", dataset.queries, parts),
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
    page = RunResult(
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
        scout=nearest.build(nearest.RATIO_ALONE, device) if settings.cost.order == "nearest" else None,
        threads=threads,
        together=4 if on_cpu else 128,
        reads_ahead=not on_cpu,
    )


class _Described(NamedTuple):
    """Global descriptors of both sides."""

    database: Floats  # (N, D)
    queries: Floats
    made_by: str  # fingerprint
    # Descriptor of one query from its local features; None where features are extracted with those of the picture.
    aggregate_one: Callable[[int], Floats] | None


def _global_descriptors(database: Side, queries: Side, settings: Settings, work: Path) -> _Described:
    if database.described is not None and queries.described is not None:
        made_by = database.described.origin["fingerprint"]
        return _Described(database.described.matrix(), queries.described.matrix(), made_by, None)
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
        origin = origin_of(GlobalStore.kind, side.images, parts)
        matrices.append(aggregate(side.images, local, aggregator, folder / role, origin, threads=threads).matrix())
    of_queries = queries.local
    return _Described(matrices[0], matrices[1], fingerprint(parts), lambda row: aggregator.aggregate(of_queries[row]))


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
