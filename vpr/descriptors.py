"""Global descriptors of database and queries: those of the images, those made of local features, or both joined."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpr.build import Engine
from vpr.config import digest_of_names, fingerprint, plain
from vpr.core import Floats, Origin
from vpr.features.extraction import FeatureOutput, Global, aggregate
from vpr.features.feature_set import FeatureSet
from vpr.features.patchnetvlad_folder import PatchNetVladFolder
from vpr.features.store import GlobalStore, LocalStore
from vpr.runtime.device import threads_of
from vpr.weights import find, sha256_of


@dataclass(frozen=True, eq=False)
class Features:
    """Features of database and queries."""

    database: FeatureSet
    queries: FeatureSet
    turned: tuple[FeatureSet, ...] = ()  # the queries at other rotations


class JoinedStores:
    """Several descriptors of each image as one vector, so that its similarities are their weighted sum."""

    def __init__(self, stores: Sequence[GlobalStore], weights: Sequence[float]) -> None:
        self.stores = stores
        self.scales = np.sqrt(np.asarray(weights, np.float32))
        self.dim = sum(store.dim for store in stores)

    def __len__(self) -> int:
        return len(self.stores[0])

    def blocks(self) -> Iterator[Floats]:
        """The descriptors, (n, dim) float32 each, in the order of the images."""
        for rows in zip(*(store.blocks() for store in self.stores), strict=True):
            yield np.concatenate([scale * each for scale, each in zip(self.scales, rows, strict=True)], axis=1)

    def matrix(self) -> Floats:
        """(N, dim) float32, all of it."""
        return np.concatenate(list(self.blocks()))


Vectors = GlobalStore | PatchNetVladFolder | JoinedStores


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Global descriptors of database and queries."""

    database: Vectors
    queries: Vectors
    made_by: str  # fingerprint
    # Descriptor of one query from its local features; None where there is nothing to aggregate.
    aggregate_one: Callable[[int], Floats] | None
    reused: int  # images whose descriptor was found on disk


def describe(features: Features, engine: Engine, work: Path) -> Descriptors:
    """The descriptors that are searched; what is made of local features is kept beside them, or in ``work``."""
    database, queries = features.database, features.queries
    whole = None
    if database.global_store is not None and queries.global_store is not None:
        count = len(database.global_store) + len(queries.global_store)
        made_by = database.global_store.fingerprint
        whole = Descriptors(database.global_store, queries.global_store, made_by, None, count)
    if engine.aggregation is None:
        assert whole is not None  # a method that looks at the image was chosen
        return whole
    aggregated = _aggregated(features, engine, work)
    return aggregated if whole is None else _joined(whole, aggregated, engine)


def _joined(whole: Descriptors, aggregated: Descriptors, engine: Engine) -> Descriptors:
    joined = engine.settings.joined
    assert joined is not None
    weights = (1 - joined.weight, joined.weight)
    stores = [
        JoinedStores([_stored(one), _stored(other)], weights)
        for one, other in ((whole.database, aggregated.database), (whole.queries, aggregated.queries))
    ]
    made_by = fingerprint({"parts": [whole.made_by, aggregated.made_by], "weight": joined.weight})
    return Descriptors(stores[0], stores[1], made_by, aggregated.aggregate_one, aggregated.reused)


def _stored(vectors: Vectors) -> GlobalStore:
    assert isinstance(vectors, GlobalStore)
    return vectors


def _aggregated(features: Features, engine: Engine, work: Path) -> Descriptors:
    database, queries, chosen = features.database, features.queries, engine.aggregation
    assert chosen is not None and database.local_store is not None and queries.local_store is not None
    given: str = getattr(chosen, "weights", "")
    parts: dict[str, Any] = {
        "global_descriptor": chosen,
        "local features": database.local_store.fingerprint,
        "fitted on": find(given).sha256 if given else digest_of_names(database.keys),
    }
    folder = _beside(database.local_store, work)
    name = f"aggregated-{fingerprint(parts)}"
    aggregator = engine.aggregator
    if aggregator is None:
        model = folder / f"{name}.safetensors"
        if not model.exists():
            folder.mkdir(parents=True, exist_ok=True)
            engine.fit_aggregator(database.local_store).save(model)
        aggregator = engine.load_aggregator(model)
        parts["weights"] = sha256_of(model)
    origin = Origin(GlobalStore.kind, fingerprint(parts), str(parts.get("weights", "")), plain(parts))
    stores, reused = [], 0
    for each, local in ((database, database.local_store), (queries, queries.local_store)):
        target = _beside(local, work / ("database" if each is database else "queries")) / name
        output = FeatureOutput(target, origin, Global(aggregator, "float32"))
        done = aggregate(local, each.keys, aggregator, output, threads=threads_of(engine.settings.machine.threads))
        stores.append(done.store)
        reused += done.reused
    of_queries = queries.local_store
    return Descriptors(
        stores[0], stores[1], origin.fingerprint, lambda row: aggregator.aggregate(of_queries[row]), reused
    )


def _beside(store: LocalStore, work: Path) -> Path:
    """The folder of a store, for what is made of it, so that other runs find it; ``work`` if it is read-only."""
    folder = store.folder.parent
    return folder if os.access(folder, os.W_OK) else work
