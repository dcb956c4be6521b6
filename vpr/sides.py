"""The features of a run's two sides, database and queries, made as the settings say and kept in folders.

A folder's features are picked up again where they are whole, and continued where they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpr.config import digest_of_names, fingerprint, lookup, plain
from vpr.core import DataError, Dataset, GlobalDescriptor, ImageError, ImageSet, LocalExtractor, Origin, usable_name
from vpr.features.extraction import (
    Extraction,
    extract_global,
    extract_local,
    extract_patches,
    extract_together,
    look_once,
)
from vpr.features.store import GlobalStore, LocalStore, PatchStore
from vpr.global_descriptors import GLOBAL_DESCRIPTORS
from vpr.global_descriptors.patch_netvlad import PatchNetVlad
from vpr.global_descriptors.superpoint_global import SuperPointGlobal
from vpr.images import read_image
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.superpoint import SuperPoint
from vpr.runtime.device import device_of, threads_of
from vpr.runtime.timing import Clock
from vpr.settings import Settings

LOCAL, GLOBAL = "local", "global"  # the stores in a features folder


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


class Extractors:
    """What makes the features that some settings need; their networks are loaded once."""

    def __init__(self, settings: Settings) -> None:
        device = device_of(settings.machine.device)
        self.settings = settings
        self.local: LocalExtractor | None = None
        self.whole: GlobalDescriptor | None = None  # looks at the picture itself
        if needs_local(settings):
            local = settings.local_features
            self.local = lookup(LOCAL_EXTRACTORS, local.method, "local feature").build(local, device)
        if looks_at_image(settings):
            chosen = settings.global_descriptor
            self.whole = GLOBAL_DESCRIPTORS[chosen.method].build(chosen, device)
        self.together = _sharing_trunk(self.local, self.whole)

    def extract(self, images: ImageSet, folder: Path | Places) -> Side:
        """All features of an image set, into the folder; continues where it was interrupted.

        Raises DataError if the folder holds features of other settings or other images.
        """
        places = folder if isinstance(folder, Places) else Places.under(folder)
        settings, how = self.settings, self._how()
        if self.together is not None:  # what follows then finds nothing left to do
            origins = self._local_origin(images), self._whole_origin(images)
            extract_together(images, *self.together, folders=(places.local, places.described), origins=origins, how=how)
        if self.local is not None:
            extract_local(images, self.local, places.local, self._local_origin(images), how)
        if compares_patches(settings) and isinstance(self.whole, PatchNetVlad):
            extract_patches(images, self.whole, places.described, self._whole_origin(images), how)
        elif self.whole is not None:
            extract_global(images, self.whole, places.described, self._whole_origin(images), how)
        return open_side(images, settings, places)

    def look(self, path: Path) -> None:
        """Read one picture and make all its features, which are kept nowhere; one that cannot be read has none."""
        most = self.settings.images.max_megapixels
        try:
            if self.together is not None:
                local, whole = self.together
                look_once([local.preprocess(read_image(path, local.channels, most))], local, whole)
                return
            if self.local is not None:
                self.local.extract([self.local.preprocess(read_image(path, self.local.channels, most))])
            if self.whole is not None:
                image = self.whole.preprocess(read_image(path, self.whole.channels, most))
                if compares_patches(self.settings) and isinstance(self.whole, PatchNetVlad):
                    [vector.cpu() for vector, _ in self.whole.describe_patches([image])]
                else:
                    self.whole.describe([image]).cpu()
        except ImageError:
            return

    def _how(self) -> Extraction:
        settings = self.settings
        return Extraction(
            batch_size=settings.store.batch_size,
            shard_size=settings.store.shard_size,
            threads=threads_of(settings.machine.threads),
            on_bad_image=settings.images.on_bad_image,
            max_megapixels=settings.images.max_megapixels,
            dtype=settings.store.dtype,
        )

    def _local_origin(self, images: ImageSet) -> Origin:
        assert self.local is not None
        return self._origin(LocalStore.kind, images, "local_features", self.local)

    def _whole_origin(self, images: ImageSet) -> Origin:
        assert self.whole is not None
        kind = PatchStore.kind if compares_patches(self.settings) else GlobalStore.kind
        return self._origin(kind, images, "global_descriptor", self.whole)

    def _origin(self, kind: str, images: ImageSet, section: str, method: LocalExtractor | GlobalDescriptor) -> Origin:
        parts = {
            section: getattr(self.settings, section),
            "weights": method.weights,
            "dtype": self.settings.store.dtype,
        }
        return origin_of(kind, images, parts)


def _sharing_trunk(
    local: LocalExtractor | None, whole: GlobalDescriptor | None
) -> tuple[SuperPoint, SuperPointGlobal] | None:
    """Both, if one pass gives what both make."""
    if isinstance(local, SuperPoint) and isinstance(whole, SuperPointGlobal) and whole.shares_trunk_with(local):
        return local, whole
    return None


def extract(images: ImageSet, settings: Settings, folder: Path | Places) -> Side:
    """All features of one image set that the settings need; see ``Extractors.extract``."""
    return Extractors(settings).extract(images, folder)


def extract_both(
    dataset: Dataset, settings: Settings, where: Callable[[str], Path | Places], clock: Clock
) -> tuple[Side, Side]:
    """Features of database and queries, each where ``where`` says for its role; single queries are timed as well."""
    extractors = Extractors(settings)
    with clock.stage("extract, database", len(dataset.database), "image"):
        database = extractors.extract(dataset.database, where("database"))
    with clock.stage("extract, queries", len(dataset.queries), "image"):
        queries = extractors.extract(dataset.queries, where("queries"))
    clock.alone(lambda row: extractors.look(dataset.queries.path(row)), len(dataset.queries))
    return database, queries


def open_side(images: ImageSet, settings: Settings, folder: Path | Places) -> Side:
    """The features that ``extract`` left in a folder; raises DataError if there are none, or of other images."""
    places = folder if isinstance(folder, Places) else Places.under(folder)
    local = LocalStore(places.local) if needs_local(settings) else None
    kind = PatchStore if compares_patches(settings) else GlobalStore
    described = kind(places.described) if looks_at_image(settings) else None
    for store in (local, described):
        if store is not None and store.origin["images"] != digest_of(images):
            raise DataError(
                f"{store.folder}: made from another list of {len(store)} images, this list has {len(images)}; "
                "extract the features of this list"
            )
    return Side(images, local, described)


def needs_local(settings: Settings) -> bool:
    return (settings.rerank.k > 0 and not compares_patches(settings)) or not looks_at_image(settings)


def compares_patches(settings: Settings) -> bool:
    """Whether the second stage compares patches of the global descriptor's features, not local features."""
    return settings.rerank.k > 0 and settings.rerank.method == "patch_netvlad"


def looks_at_image(settings: Settings) -> bool:
    """Whether the global descriptor is made from the picture, not from its local features."""
    return settings.global_descriptor.method in GLOBAL_DESCRIPTORS


def origin_of(kind: str, images: ImageSet, parts: Mapping[str, Any]) -> Origin:
    return Origin(kind, fingerprint(parts), digest_of(images), str(parts.get("weights", "")), plain(parts))


def digest_of(images: ImageSet) -> str:
    return digest_of_names(usable_name(name) for name in images.names)
