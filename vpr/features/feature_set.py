"""The features of one image set: which stores hold them, how they are made, and how they are found again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from vpr.config import digest_of_names, fingerprint, plain
from vpr.core import (
    DataError,
    GlobalDescriptor,
    ImageError,
    ImageSet,
    JointDescriptor,
    LocalExtractor,
    LocalFeatures,
    Origin,
    PatchDescriptor,
    Rows,
    usable_name,
)
from vpr.features.contents import read_contents
from vpr.features.extraction import (
    Extraction,
    FeatureOutput,
    Global,
    Kind,
    Local,
    Pass,
    Patches,
    Work,
    extract,
    global_pass,
    joint_pass,
    local_pass,
    patch_pass,
)
from vpr.features.extraction_units import computed_on
from vpr.features.masks import Masks
from vpr.features.patchnetvlad_folder import PatchNetVladFolder
from vpr.features.shards import refuse_other_origin
from vpr.features.store import GlobalStore, LocalStore, PatchStore
from vpr.features.turned import ChosenTurns
from vpr.images import ImageLike, in_order
from vpr.runtime.threads import one_thread_each
from vpr.runtime.units import Workers

LOCAL, GLOBAL, CONTENTS = "local", "global", "contents.json"  # in a folder of features


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of the database or of the queries; a store that the methods do not need is None."""

    images: ImageSet
    keys: tuple[str, ...]  # content keys of the images
    local_store: LocalStore | None
    global_store: GlobalStore | PatchNetVladFolder | None  # global descriptors of methods that look at the image
    work: Work | None = None  # of the extraction, where there was one
    masks: Masks | None = None  # which pixels give features
    rotations: Rows | None = None  # (N,) degrees by which each image was turned counter-clockwise; None: not at all
    chosen: ChosenTurns | None = None  # what the second stage compares where images are turned one by one

    @property
    def rerank_store(self) -> LocalStore | PatchStore | PatchNetVladFolder | ChosenTurns | None:
        """The store that the second stage compares."""
        if self.chosen is not None:
            return self.chosen
        return self.global_store if isinstance(self.global_store, PatchStore | PatchNetVladFolder) else self.local_store


@dataclass(frozen=True)
class FeatureFolders:
    """Where the stores of an image set lie."""

    local: Path
    descriptors: Path
    contents: Path  # file of content keys

    @staticmethod
    def under(folder: Path) -> FeatureFolders:
        """All in one folder, as a single run has them."""
        return FeatureFolders(folder / LOCAL, folder / GLOBAL, folder / CONTENTS)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of one image, in memory; what the methods do not make is None."""

    local: LocalFeatures | None
    descriptor: Tensor | None  # (D,)
    patches: Any | None = None  # PatchFeatures

    @property
    def rerank_features(self) -> Any:
        """The store that the second stage compares."""
        return self.local if self.patches is None else self.patches


class FeatureExtractor:
    """Makes and finds the features of image sets, by a local extractor, a global descriptor, or both.

    With ``patches`` the global descriptor also gives the patch descriptors that the second stage compares.
    ``settings`` are those of the two methods, by section; they are part of what makes a store.
    """

    def __init__(
        self,
        local: LocalExtractor | None,
        descriptor: GlobalDescriptor | None,
        *,
        patches: bool,
        settings: Mapping[str, Any],
        how: Extraction,
        on_worker: Callable[[int], FeatureExtractor] | None = None,
    ) -> None:
        self.local = local
        self.descriptor = descriptor
        self.patches = patches
        self.settings = settings
        self.how = how
        self.on_worker = on_worker  # builds an equal extractor with a number of threads
        shares = getattr(descriptor, "shares_backbone_with", None)
        self.joint = local is not None and shares is not None and not patches and bool(shares(local))

    def extract(
        self,
        images: ImageSet,
        folders: FeatureFolders,
        *,
        verify: bool = False,
        masks: Masks | None = None,
        degrees: int = 0,
        workers: Workers | None = None,
    ) -> FeatureSet:
        """All features of an image set; continues where it was interrupted and computes only what is new.

        With ``verify`` every file is hashed, even if its size and times are those it had.
        ``masks`` say which pixels give features; every image is turned counter-clockwise by ``degrees`` before.
        With ``workers`` these compute the features; the folders get the same bytes.
        Raises DataError if a folder holds features of other settings.
        """
        contents = read_contents(images, folders.contents, threads=self.how.threads, verify=verify)
        if masks is not None:
            contents = masks.keyed(images, contents)
        if degrees:
            contents = contents.keyed(f"turned {degrees}")
        work, said = Work(reused=len(images)), set[str]()
        for place, (way, kinds) in enumerate(self.passes()):
            outputs = [self._output(kind, folders) for kind in kinds]
            common: dict[str, Any] = {"how": self.how, "masks": masks, "degrees": degrees}
            computing = None
            if workers is not None:
                assert self.on_worker is not None
                build = partial(self.on_worker, workers.threads)
                computing = partial(
                    computed_on, workers, build, images, contents, place=place, outputs=outputs, **common
                )
            done = extract(images, contents, way, outputs, said=said, computing=computing, **common)
            work = Work(
                max(work.computed, done.computed), min(work.reused, done.reused), {**work.failed, **done.failed}
            )
        rotations = np.full(len(images), degrees) if degrees else None
        return replace(self._found(images, contents.keys, folders, work), masks=masks, rotations=rotations)

    def open(self, images: ImageSet, folders: FeatureFolders) -> FeatureSet:
        """The features that ``extract`` left.

        Raises DataError if there are none, or of other images, settings or weights.
        """
        keys: tuple[str, ...] = ()
        for _, kinds in self.passes():
            for output in (self._output(kind, folders) for kind in kinds):
                store = output.kind.store(output.folder)
                refuse_other_origin(store.folder, output.origin, store.origin)
                keys = _require_images(store, images)
        return self._found(images, keys, folders, None)

    def _found(self, images: ImageSet, keys: tuple[str, ...], folders: FeatureFolders, work: Work | None) -> FeatureSet:
        local = None if self.local is None else LocalStore(folders.local)
        kind = PatchStore if self.patches else GlobalStore
        descriptors = None if self.descriptor is None else kind(folders.descriptors)
        return FeatureSet(images, keys, local, descriptors, work)

    def single(self, image: ImageLike, degrees: int = 0, *, side_by_side: bool = False) -> ImageFeatures:
        """The features of one image, turned counter-clockwise by ``degrees``, which are kept nowhere.

        ``side_by_side``: each pass computes on one thread, and all at the same time. Raises ImageError if the image
        cannot be read.
        """
        ways, most = self.passes(), self.how.max_megapixels

        def work(way: Pass) -> Sequence[Any]:
            found: Sequence[Any] = way.process([way.prepare(image, most, degrees=degrees)])[0]
            return found

        if not side_by_side:
            found = [work(way) for way, _ in ways]
        else:
            with one_thread_each(min(self.how.threads, len(ways))) as pool:
                found = list(pool.map(work, [way for way, _ in ways]))
        return _gathered([(kinds, each) for (_, kinds), each in zip(ways, found, strict=True)])

    def stream(self, images: ImageSet) -> Iterator[tuple[int, ImageFeatures | ImageError]]:
        """Row and features of each image, in order, kept nowhere; decoded in threads ahead of the methods.

        An image that cannot be used comes as its ImageError, or is raised if ``how.on_bad_image`` is "fail".
        """
        passes = self.passes()

        def prepare(row: int) -> list[Tensor]:
            return [way.prepare(images.path(row), self.how.max_megapixels) for way, _ in passes]

        with closing(in_order(prepare, range(len(images)), self.how.threads)) as loaded:
            while batch := list(islice(loaded, self.how.batch_size)):
                bad = [item for _, item in batch if isinstance(item, ImageError)]
                if bad and self.how.on_bad_image == "fail":
                    raise bad[0]
                readable = [item for _, item in batch if not isinstance(item, ImageError)]
                found = iter(self._process(readable))
                for row, item in batch:
                    yield row, item if isinstance(item, ImageError) else next(found)

    def _process(self, prepared: Sequence[Sequence[Tensor]]) -> list[ImageFeatures]:
        """Features of some images, each prepared for every pass."""
        if not prepared:
            return []
        by_pass = [
            (kinds, way.process([tensors[place] for tensors in prepared]))
            for place, (way, kinds) in enumerate(self.passes())
        ]
        return [_gathered([(kinds, found[image]) for kinds, found in by_pass]) for image in range(len(prepared))]

    def passes(self) -> list[tuple[Pass, list[Kind]]]:
        """Ways through the images, with the kinds of features that each gives."""
        local, descriptor, dtype = self.local, self.descriptor, self.how.dtype
        if self.joint:
            assert local is not None and descriptor is not None
            both: list[Kind] = [Local(local, dtype), Global(descriptor, dtype)]
            return [(joint_pass(local, cast(JointDescriptor, descriptor)), both)]
        ways: list[tuple[Pass, list[Kind]]] = []
        if local is not None:
            ways.append((local_pass(local), [Local(local, dtype)]))
        if descriptor is not None and self.patches:
            patching = cast(PatchDescriptor, descriptor)
            ways.append((patch_pass(patching), [Patches(patching, dtype)]))
        elif descriptor is not None:
            ways.append((global_pass(descriptor), [Global(descriptor, dtype)]))
        return ways

    def shared_folders(self, folder: Path) -> Callable[[str], FeatureFolders]:
        """Folders for each role below one folder, by what makes the features.

        So methods that differ elsewhere find the features of each other.
        """
        made_by = {kind.store: self._origin(kind).fingerprint for _, kinds in self.passes() for kind in kinds}
        local = made_by.pop(LocalStore, "")
        others = "-".join(made_by.values())

        def of_role(role: str) -> FeatureFolders:
            return FeatureFolders(
                folder / f"{LOCAL}-{local}" / role / LOCAL,
                folder / f"{GLOBAL}-{others}" / role / GLOBAL,
                folder / f"{role}-{CONTENTS}",
            )

        return of_role

    def _output(self, kind: Kind, folders: FeatureFolders) -> FeatureOutput:
        folder = folders.local if kind.store is LocalStore else folders.descriptors
        return FeatureOutput(folder, self._origin(kind), kind)

    def _origin(self, kind: Kind) -> Origin:
        section = "local_features" if kind.store is LocalStore else "global_descriptor"
        parts = {section: self.settings[section], "weights": kind.weights, "dtype": self.how.dtype}
        return Origin(kind.store.kind, fingerprint(parts), kind.weights, plain(parts))


def _gathered(found: Sequence[tuple[Sequence[Kind], Sequence[Any]]]) -> ImageFeatures:
    """The features of one image, as the kinds of each pass gave them."""
    local = descriptor = patches = None
    for kinds, items in found:
        for kind, item in zip(kinds, items, strict=True):
            if kind.store is LocalStore:
                local = item
            elif kind.store is PatchStore:
                descriptor, patches = item
            else:
                descriptor = item
    return ImageFeatures(local, descriptor, patches)


def _require_images(store: LocalStore | GlobalStore, images: ImageSet) -> tuple[str, ...]:
    """The store's content keys. Raises DataError if it holds the features of other images."""
    wanted = [usable_name(name) for name in images.names]
    same = len(store) == len(wanted)
    if same and store.names is not None:
        same = [usable_name(name) for name in store.names] == wanted
    elif same:  # format 1 has a digest of the names alone
        same = store.origin["images"] == digest_of_names(wanted)
    if not same:
        raise DataError(
            f"{store.folder}: made from another list of {len(store)} images, this list has {len(images)}; "
            "extract the features of this list"
        )
    return store.keys
