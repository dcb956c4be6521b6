"""Features of other programs in the place of those that a run would extract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vpr.build import Engine
from vpr.core import ConfigError, LocalFeatures
from vpr.descriptors import Features
from vpr.features.feature_set import FeatureSet
from vpr.features.imported import HlocPaths, combined_keys, import_descriptors, import_local


def with_imported(features: Features, paths: HlocPaths, folder: Path) -> Features:
    """The features, with those that hloc's files hold; copies of these lie in ``folder``."""
    return Features(
        _with_imported(features.database, paths, folder / "database"),
        _with_imported(features.queries, paths, folder / "queries"),
    )


def _with_imported(features: FeatureSet, paths: HlocPaths, folder: Path) -> FeatureSet:
    keys = [features.keys] if features.keys else []
    local, descriptors = features.local_store, features.global_store
    if paths.local:
        local = import_local(features.images, paths.local, folder / "hloc-local")
        keys.append(local.keys)
    if paths.descriptors:
        descriptors = import_descriptors(features.images, paths.descriptors, folder / "hloc-global")
        keys.append(descriptors.keys)
    return FeatureSet(features.images, combined_keys(keys), local, descriptors, features.work)


def require_comparable(features: Features, engine: Engine) -> None:
    """Raise ConfigError if the methods of a run cannot take the local features: they expect another length."""
    store = features.database.local_store
    found = None if store is None else next((each for each in store if len(each) > 1), None)
    if found is None:
        return
    reranker, aggregator = engine.reranker, engine.aggregator
    if reranker is not None and reranker.prepare is None:  # else it compares images, not these features
        _try(lambda: reranker.pair(found, found), f"matcher.method = {engine.settings.matcher.method!r}", found)
    if aggregator is not None:
        _try(lambda: aggregator.aggregate(found), "the descriptor of local features", found)


def _try(use: Callable[[], object], method: str, features: LocalFeatures) -> None:
    try:
        use()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{method} cannot take descriptors of length {features.descriptors.shape[1]}: {error}; choose the config "
            "that fits the imported features"
        ) from None
