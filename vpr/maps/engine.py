"""The methods of a map: what makes the features that it stores, and what compares them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpr.build import Engine, build, compares_local, refuse_masks, refuse_rotations
from vpr.core import ConfigError, DataError, Floats, ImageError, ImageSet, LocalFeatures
from vpr.features.feature_set import ImageFeatures
from vpr.images import ImageLike
from vpr.rerank import LocalReranker
from vpr.runtime.device import device_of
from vpr.runtime.threads import one_thread
from vpr.settings import Settings
from vpr.weights import find


@dataclass(frozen=True, eq=False)
class MapFeatures:
    """What a map stores of an image, and asks of a query."""

    vector: Floats  # (D,) unit row; zeros where the image has nothing to describe
    local: LocalFeatures


@dataclass(frozen=True, eq=False)
class MapEngine:
    """Methods with weights of their own: none is fitted on the map, so that maps can grow and be compared."""

    engine: Engine
    dim: int  # of the global descriptor

    @property
    def reranker(self) -> LocalReranker | None:
        """What compares local features; None where nothing is re-ranked."""
        found = self.engine.reranker
        assert found is None or isinstance(found, LocalReranker)
        return found

    def weights(self) -> dict[str, str]:
        """sha256 of the weights that make what is stored, "" where a method has none."""
        made_by = {key: value for key, value in self.engine.weights().items() if key != "rerank"}
        vocabulary = str(getattr(self.engine.aggregation, "weights", ""))
        return {**made_by, "vocabulary": find(vocabulary).sha256 if vocabulary else ""}

    def single(self, image: ImageLike, degrees: int = 0) -> MapFeatures:
        """The features of one image, turned counter-clockwise by ``degrees``. Raises ImageError.

        On a CPU each network computes on one thread, with the same bits: two threads of one network wait for each
        other, and where another process uses a core this costs five times as much of the processor.
        """
        if self.on_accelerator:
            return self._of(self.engine.extractor.single(image, degrees))
        found = self.engine.extractor.single(image, degrees, side_by_side=True)
        with one_thread():
            return self._of(found)

    @property
    def on_accelerator(self) -> bool:
        """Whether the methods compute on something else than a CPU."""
        return device_of(self.engine.settings.machine.device).type != "cpu"

    def stream(self, images: ImageSet) -> Iterator[tuple[int, MapFeatures | ImageError]]:
        """Row and features of each image, in order; see FeatureExtractor.stream."""
        for row, found in self.engine.extractor.stream(images):
            yield row, found if isinstance(found, ImageError) else self._of(found)

    def _of(self, found: ImageFeatures) -> MapFeatures:
        local = found.local if found.local is not None else LocalFeatures.empty(1)
        whole = None if found.descriptor is None else found.descriptor.float().cpu().numpy()
        aggregator = self.engine.aggregator
        if aggregator is None:
            assert whole is not None
            return MapFeatures(whole, local)
        words = aggregator.aggregate(local)
        joined = self.engine.settings.joined
        if joined is None:
            return MapFeatures(words, local)
        assert whole is not None
        scales = np.sqrt(np.array([1 - joined.weight, joined.weight], np.float32))
        return MapFeatures(np.concatenate([scales[0] * whole, scales[1] * words]), local)


def build_engine(settings: Settings) -> MapEngine:
    """The methods that the settings name.

    Raises ConfigError for those that a map cannot use: a vocabulary that would be fitted on it, re-ranking by patches.
    """
    if settings.rerank.k and not compares_local(settings):
        raise ConfigError(f"a map compares local features; rerank.method = {settings.rerank.method!r} is not for maps")
    refuse_masks(settings, "a map")
    refuse_rotations(settings, "a map")
    if settings.shortlist.one_per_group:
        raise ConfigError("shortlist.one_per_group is not for maps; every image of a panorama is a candidate")
    with one_thread():  # as in MapEngine.single
        engine = build(settings)
    if engine.aggregation is not None and engine.aggregator is None:
        section = "global_descriptor" if settings.joined is None else "joined.descriptor"
        raise ConfigError(
            f"a map's vocabulary is fitted before, not on the map: set {section}.weights, "
            "for instance vpr-superpoint-vlad, or a file that `vpr fit` made"
        )
    parts = (engine.extractor.descriptor, engine.aggregator)
    return MapEngine(engine, sum(part.dim for part in parts if part is not None))


def require_weights(folder: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise DataError unless the weights in use, sha256 by method, are those that made a map."""
    for method, digest in wanted.items():
        if found.get(method) != digest:
            raise DataError(
                f"{folder}: {method} was made with weights of sha256 {digest or 'none'}, here are "
                f"{found.get(method) or 'none'}; use the weights of then, or make the map again"
            )
