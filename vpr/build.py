"""Settings to objects: the only place where a section of the settings becomes a method.

Everything that settings name is built, and every weight found, before the first image is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vpr.config import MethodSettings, lookup
from vpr.core import (
    ConfigError,
    GlobalDescriptor,
    ImageMatcher,
    LocalAggregator,
    LocalExtractor,
    LocalFeatures,
    Matcher,
    Verifier,
)
from vpr.features.extraction import Extraction
from vpr.features.feature_set import FeatureExtractor
from vpr.global_descriptors import GLOBAL_DESCRIPTORS, LOCAL_AGGREGATORS
from vpr.images import ImageLike
from vpr.index import require_factory
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.dropping import build_selected, by_files
from vpr.local_features.settings import LocalFeatureSettings
from vpr.matchers import IMAGE_MATCHERS, MATCHERS
from vpr.rerank import RERANKERS, VERIFIERS, PairReranker
from vpr.runtime.device import device_of, threads_of
from vpr.settings import Settings
from vpr.weights import require_compatible


@dataclass(frozen=True, eq=False)
class Engine:
    """The methods of a run, with their weights loaded."""

    settings: Settings
    extractor: FeatureExtractor
    aggregator: LocalAggregator | None  # with weights of its own; None if it is to be fitted, or is not needed
    reranker: PairReranker[Any] | None  # None where nothing is re-ranked
    retrieves: bool = True  # False where the global descriptors or the shortlist are given

    def weights(self) -> dict[str, str]:
        """sha256 of the weights in use, "" where a method has none."""
        methods = {
            "local_features": self.extractor.local,
            "global_descriptor": self.extractor.descriptor,
            "rerank": self.reranker,
        }
        return {name: method.weights for name, method in methods.items() if method is not None}

    @property
    def aggregation(self) -> MethodSettings | None:
        """Settings of the global descriptor that is made of local features; None where there is none."""
        return aggregation(self.settings) if self.retrieves else None

    def fit_aggregator(self, database: Sequence[LocalFeatures]) -> LocalAggregator:
        """The aggregator with its own weights, or fitted on the local features of a database."""
        return self.aggregator or fit_aggregator(self.settings, database)

    def load_aggregator(self, path: Path) -> LocalAggregator:
        """The aggregator that was fitted before and saved to a file."""
        chosen = _require_aggregation(self.settings).model_copy(update={"weights": str(path)})
        return _build_aggregator(chosen, ())


def build(settings: Settings, *, retrieves: bool = True, extracts: bool = True, detects: bool = True) -> Engine:
    """All methods that the settings name.

    Without ``retrieves`` no global descriptor, where descriptors or the shortlist are given; without ``detects`` no
    local features, where these are given; without ``extracts`` no features at all, so their weights are not needed.
    Raises ConfigError for settings that do not fit together, and WeightsError for weights that are missing or damaged.
    """
    require_factory(settings.index.factory)
    _require_keypoints_to_drop(settings, detects=detects)
    aggregated = aggregation(settings) if retrieves else None
    if aggregated is not None:
        _require_compatible(settings, "global_descriptor", aggregated)
    reranker = build_reranker(settings) if settings.rerank.k > 0 else None
    extractor = build_extractor(settings, retrieves=retrieves, extracts=extracts, detects=detects)
    given = bool(getattr(aggregated, "weights", ""))
    return Engine(settings, extractor, fit_aggregator(settings, ()) if given else None, reranker, retrieves)


@dataclass(frozen=True, eq=False)
class PairMethods:
    """Methods that match single pairs of images."""

    extractor: FeatureExtractor
    reranker: PairReranker[Any]

    def compared(self, image: ImageLike) -> Any:
        """What the re-ranker compares of one image. Raises ImageError."""
        prepare = self.reranker.prepare
        return self.extractor.single(image).rerank_features if prepare is None else prepare(image, None)


def build_pair_methods(settings: Settings, *, dense: bool = False, masked: bool = False) -> PairMethods:
    """The features that the second stage compares, and the second stage, also where ``rerank.k`` is 0.

    Raises ConfigError for a method that compares the images themselves, unless ``dense``, and for ``images.masks``,
    unless the caller applies them and says so by ``masked``.
    """
    if not masked:
        refuse_masks(settings, "a comparison of single images")
    refuse_rotations(settings, "a comparison of single images")
    if compares_images(settings) and not dense:
        raise ConfigError(
            f"rerank.method = {settings.rerank.method!r} compares images, which have no keypoints to keep; it is for "
            "vpr run, vpr benchmark, vpr rank and vpr match-two"
        )
    settings = settings.model_copy(update={"rerank": settings.rerank.model_copy(update={"k": 1})})
    return PairMethods(build_extractor(settings, retrieves=False), build_reranker(settings))


def build_extractor(
    settings: Settings, *, retrieves: bool = True, extracts: bool = True, detects: bool = True
) -> FeatureExtractor:
    """Returns the extractors that the settings need; without ``retrieves`` only those of the second stage.

    Without ``detects`` none of local features; without ``extracts`` there are none.
    """
    patches = compares_patches(settings)
    local = detects and (needs_local(settings) if retrieves else compares_local(settings))
    described = patches or (retrieves and describes_images(settings))
    return FeatureExtractor(
        build_local(settings) if local and extracts else None,
        build_descriptor(settings) if described and extracts else None,
        patches=patches,
        settings={"local_features": settings.local_features, "global_descriptor": settings.global_descriptor},
        how=Extraction(
            batch_size=settings.store.batch_size,
            shard_size=settings.store.shard_size,
            threads=threads_of(settings.machine.threads),
            on_bad_image=settings.images.on_bad_image,
            max_megapixels=settings.images.max_megapixels,
            dtype=settings.store.dtype,
        ),
        on_worker=partial(_extractor_on_worker, settings, retrieves, extracts, detects),
    )


def _extractor_on_worker(
    settings: Settings, retrieves: bool, extracts: bool, detects: bool, threads: int
) -> FeatureExtractor:
    return build_extractor(on_worker(settings, threads), retrieves=retrieves, extracts=extracts, detects=detects)


def build_local(settings: Settings) -> LocalExtractor:
    """The local features."""
    chosen = settings.local_features
    build_extractor = lookup(LOCAL_EXTRACTORS, chosen.method, "local feature").build
    if isinstance(chosen, LocalFeatureSettings) and chosen.drop:
        return build_selected(chosen, _device(settings), build_extractor)
    return build_extractor(chosen, _device(settings))


def build_descriptor(settings: Settings) -> GlobalDescriptor:
    """The global descriptor of images; see describes_images."""
    chosen = settings.global_descriptor
    return lookup(GLOBAL_DESCRIPTORS, chosen.method, "global descriptor").build(chosen, _device(settings))


def fit_aggregator(settings: Settings, database: Sequence[LocalFeatures]) -> LocalAggregator:
    """The global descriptor of local features: by the weights that the settings name, else fitted on a database."""
    return _build_aggregator(_require_aggregation(settings), database)


def aggregation(settings: Settings) -> MethodSettings | None:
    """Settings of the global descriptor that is made of local features; None where there is none."""
    if not describes_images(settings):
        return settings.global_descriptor
    return None if settings.joined is None else settings.joined.descriptor


def _require_aggregation(settings: Settings) -> MethodSettings:
    chosen = aggregation(settings)
    assert chosen is not None
    return chosen


def _build_aggregator(chosen: MethodSettings, database: Sequence[LocalFeatures]) -> LocalAggregator:
    return lookup(LOCAL_AGGREGATORS, chosen.method, "global descriptor").build(database, chosen)


def build_matcher(settings: Settings) -> Matcher:
    """The matcher of local features."""
    _require_compatible(settings, "matcher", settings.matcher)
    return lookup(MATCHERS, settings.matcher.method, "matcher").build(settings.matcher, _device(settings))


def build_image_matcher(settings: Settings) -> ImageMatcher:
    """The matcher of images, without local features."""
    chosen = settings.image_matcher
    return lookup(IMAGE_MATCHERS, chosen.method, "image matcher").build(chosen, _device(settings))


def build_verifier(settings: Settings) -> Verifier:
    """The geometric verification."""
    chosen = settings.verification
    return lookup(VERIFIERS, chosen.method, "verifier").build(chosen, _device(settings))


def build_reranker(settings: Settings) -> PairReranker[Any]:
    """The second stage, also where ``rerank.k`` is 0: it compares single pairs as well."""
    device = _device(settings)
    return lookup(RERANKERS, settings.rerank.method, "re-ranker").build(
        settings.rerank,
        device,
        matcher=lambda: build_matcher(settings),
        image_matcher=lambda: build_image_matcher(settings),
        verifier=lambda: build_verifier(settings),
        geometry=settings.verification,
        control=settings.cost,
        max_megapixels=settings.images.max_megapixels,
        threads=threads_of(settings.machine.threads) if device.type == "cpu" else 1,  # one thread's batches fill a GPU
    )


def on_worker(settings: Settings, threads: int) -> Settings:
    """The settings for one of several processes, which leaves to another what a bad image does."""
    machine = settings.machine.model_copy(update={"threads": threads})
    images = settings.images.model_copy(update={"on_bad_image": "skip"})
    return settings.model_copy(update={"machine": machine, "images": images})


def refuse_masks(settings: Settings, what: str) -> None:
    """Raise ConfigError for masks in files where ``what`` does not apply them."""
    if settings.images.masks:
        raise ConfigError(f"images.masks: {what} takes no masks; vpr run, benchmark, fit and match-pairs do")
    if by_files(settings.local_features):
        raise ConfigError(
            f"local_features.segmentation is a folder of masks, and {what} takes none; vpr run, benchmark, fit and "
            "match-pairs do. Give the weights of a segmentation head instead"
        )


def refuse_rotations(settings: Settings, what: str) -> None:
    """Raise ConfigError for ``rotations.degrees`` where ``what`` does not turn images."""
    if settings.rotations.degrees != (0,):
        raise ConfigError(f"rotations.degrees: {what} turns no images; vpr run and vpr benchmark turn their queries")


def _require_keypoints_to_drop(settings: Settings, *, detects: bool) -> None:
    """Raise ConfigError for ``local_features.drop`` where no local features are extracted."""
    if not getattr(settings.local_features, "drop", ()):
        return
    if not detects:
        raise ConfigError("local_features.drop: the features are given, and all of their keypoints are used")
    if not needs_local(settings):
        raise ConfigError(
            "local_features.drop: these settings extract no local features, neither to re-rank with nor for the "
            "global descriptor"
        )


def _require_compatible(settings: Settings, section: str, method: MethodSettings) -> None:
    """Raise ConfigError for a matcher or a vocabulary whose weights were trained on other local features."""
    require_compatible(section, str(getattr(method, "weights", "")), settings.local_features)


def describes_images(settings: Settings) -> bool:
    """Whether the global descriptor is made from the image, not from its local features."""
    return settings.global_descriptor.method in GLOBAL_DESCRIPTORS


def compares_patches(settings: Settings) -> bool:
    """Whether the second stage compares patches, not local features."""
    return settings.rerank.k > 0 and RERANKERS[settings.rerank.method].compares == "patches"


def compares_local(settings: Settings) -> bool:
    """Whether the second stage compares local features."""
    return settings.rerank.k > 0 and RERANKERS[settings.rerank.method].compares == "local"


def compares_images(settings: Settings) -> bool:
    """Whether the second stage compares the images themselves."""
    return RERANKERS[settings.rerank.method].compares == "images"


def needs_local(settings: Settings) -> bool:
    """Whether local features are extracted: for re-ranking, or for a global descriptor made of them."""
    return compares_local(settings) or aggregation(settings) is not None


def _device(settings: Settings) -> torch.device:
    return device_of(settings.machine.device)
