"""Features of a whole image set, batch by batch, into stores; only what the stores lack is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from vpr.core import (
    Channels,
    GlobalDescriptor,
    Image,
    ImageError,
    ImageSet,
    JointDescriptor,
    LocalAggregator,
    LocalExtractor,
    LocalFeatures,
    Origin,
    PatchDescriptor,
)
from vpr.features.contents import Contents
from vpr.features.masks import Masks, covered, kept
from vpr.features.shards import Arrays, ShardFolder, StoredItem, read_arrays
from vpr.features.store import OPTIONAL, GlobalStore, LocalStore, PatchStore, local_arrays, patch_arrays
from vpr.features.turned import turned
from vpr.global_descriptors.patches import PatchFeatures
from vpr.images import MAX_MEGAPIXELS, ImageLike, as_image, in_order
from vpr.runtime.progress import Progress
from vpr.runtime.threads import one_thread_each

logger = logging.getLogger(__name__)

SHARD_BYTES = 256 << 20  # of patch descriptors in one file, which is put together in memory

T = TypeVar("T")
Slice: TypeAlias = tuple[dict[int, tuple[Any, ...]], dict[int, str]]  # features of each kind, and reasons, by row


@dataclass(frozen=True)
class Extraction:
    """Settings of the pass over an image set; none of them changes the features."""

    batch_size: int = 16
    shard_size: int = 128  # images per file, and the most that a kill loses
    threads: int = 2
    on_bad_image: Literal["skip", "fail"] = "skip"
    max_megapixels: float = MAX_MEGAPIXELS
    dtype: Literal["float16", "float32"] = "float16"


@dataclass
class Work:
    """Numbers of images computed, found in the store, and unreadable."""

    computed: int = 0
    reused: int = 0
    failed: dict[int, str] = field(default_factory=dict)  # reason by row


class Kind(Protocol):
    """One kind of features: how those of a shard's images become arrays, and are read from them again."""

    store: type[LocalStore | GlobalStore]  # what reads them
    weights: str  # sha256 of the method's weights, or ""

    def pack(self, items: Sequence[Any | None]) -> Arrays:
        """The arrays of one shard; None is an image that failed."""

    def unpack(self, arrays: Arrays, place: int) -> Any:
        """One image's features, as ``pack`` takes them."""


class Local:
    """Local features."""

    store: type[LocalStore | GlobalStore] = LocalStore

    def __init__(self, extractor: LocalExtractor, dtype: str) -> None:
        self.weights = extractor.weights
        self.none = LocalFeatures.empty(extractor.dim)
        self.dtype = np.dtype(dtype)

    def pack(self, items: Sequence[LocalFeatures | None]) -> Arrays:
        return local_arrays([self.none if each is None else each for each in items], self.dtype)

    def unpack(self, arrays: Arrays, place: int) -> LocalFeatures:
        first, last = arrays["offsets"][place : place + 2].tolist()
        names = ("keypoints", "scores", "descriptors", *(name for name in OPTIONAL if name in arrays))
        width, height = arrays["image_sizes"][place].tolist()
        return LocalFeatures(
            **{name: torch.from_numpy(arrays[name][first:last].astype(np.float32)) for name in names},
            image_size=(width, height),
        )


class Global:
    """Global descriptors."""

    store: type[LocalStore | GlobalStore] = GlobalStore

    def __init__(self, descriptor: GlobalDescriptor | LocalAggregator, dtype: str) -> None:
        self.weights: str = getattr(descriptor, "weights", "")
        self.zeros = torch.zeros(descriptor.dim)
        self.dtype = dtype

    def pack(self, items: Sequence[Tensor | None]) -> Arrays:
        rows = [self.zeros if each is None else each for each in items]
        return {"descriptors": torch.stack(rows).numpy().astype(self.dtype)}

    def unpack(self, arrays: Arrays, place: int) -> Tensor:
        return torch.from_numpy(arrays["descriptors"][place].astype(np.float32))


class Patches:
    """A global descriptor and the descriptors of the image's patches."""

    store: type[LocalStore | GlobalStore] = PatchStore

    def __init__(self, descriptor: PatchDescriptor, dtype: str) -> None:
        self.weights = descriptor.weights
        self.dtype: torch.dtype = getattr(torch, dtype)
        grids, sizes = descriptor.grids, [(len(grid), descriptor.dim) for grid in descriptor.grids]
        self.bytes_per_image: int = self.dtype.itemsize * sum(count * dim for count, dim in sizes)
        empty = PatchFeatures(tuple(grids), tuple(torch.zeros(size) for size in sizes), descriptor.image_size)
        self.none = torch.zeros(descriptor.dim), empty

    def pack(self, items: Sequence[tuple[Tensor, PatchFeatures] | None]) -> Arrays:
        vectors, patches = zip(*[self.none if each is None else each for each in items], strict=True)
        return patch_arrays(
            [vector.to(self.dtype) for vector in vectors],
            [[each.to(self.dtype) for each in of_image.descriptors] for of_image in patches],
            self.none[1].grids,
            self.none[1].image_size,
        )

    def unpack(self, arrays: Arrays, place: int) -> tuple[Tensor, PatchFeatures]:
        grids, size = self.none[1].grids, self.none[1].image_size
        patches = tuple(torch.from_numpy(arrays[f"patches{i}"][place]) for i in range(len(grids)))
        return torch.from_numpy(arrays["descriptors"][place]), PatchFeatures(grids, patches, size)


@dataclass(frozen=True)
class FeatureOutput:
    """Where one kind of features goes."""

    folder: Path
    origin: Origin
    kind: Kind


@dataclass(frozen=True)
class Pass:
    """One way through the images that gives one or several kinds of features."""

    channels: Channels
    preprocess: Callable[[Image], Tensor]
    process: Callable[[Sequence[Tensor]], Sequence[tuple[Any, ...]]]  # for each image, an item for each kind

    def prepare(self, image: ImageLike, max_megapixels: float, mask: Image | None = None, degrees: int = 0) -> Tensor:
        """One image, as ``process`` takes it, without what a mask leaves out, and turned. Raises ImageError."""
        decoded = as_image(image, self.channels, max_megapixels)
        return self.preprocess(turned(decoded if mask is None else covered(decoded, mask), degrees))


class Prepared(NamedTuple):
    """An image that is ready for a pass, and its mask, if it has one."""

    tensor: Tensor
    mask: Image | None
    select: Callable[[Any], Any] | None = None  # what is kept of its features by its label mask

    def kept(self, item: Any) -> Any:
        """The features that the masks leave."""
        left = item if self.mask is None else kept(item, self.mask)
        return left if self.select is None else self.select(left)


def local_pass(extractor: LocalExtractor) -> Pass:
    """Local features alone."""
    return Pass(extractor.channels, extractor.preprocess, lambda batch: [(each,) for each in extractor.extract(batch)])


def global_pass(descriptor: GlobalDescriptor) -> Pass:
    """Global descriptors alone."""
    return Pass(
        descriptor.channels, descriptor.preprocess, lambda batch: [(each,) for each in descriptor.describe(batch).cpu()]
    )


def patch_pass(descriptor: PatchDescriptor) -> Pass:
    """Global descriptors and those of patches."""

    def process(batch: Sequence[Tensor]) -> list[tuple[tuple[Tensor, PatchFeatures]]]:
        return [
            ((vector.cpu(), replace(patches, descriptors=tuple(each.cpu() for each in patches.descriptors))),)
            for vector, patches in descriptor.describe_patches(batch)
        ]

    return Pass(descriptor.channels, descriptor.preprocess, process)


def joint_pass(extractor: LocalExtractor, descriptor: JointDescriptor) -> Pass:
    """Local features and global descriptors from one pass of the backbone that both share."""
    return Pass(
        extractor.channels,
        extractor.preprocess,
        lambda batch: [(local, vector) for local, vector in descriptor.describe_with(extractor, batch)],
    )


def extract(
    images: ImageSet,
    contents: Contents,
    way: Pass,
    outputs: Sequence[FeatureOutput],
    *,
    how: Extraction,
    masks: Masks | None = None,
    degrees: int = 0,
    said: set[str] | None = None,
    computing: Callable[[Sequence[Sequence[int]]], Generator[Slice, None, None]] | None = None,
) -> Work:
    """Features of every image into the folders, in the order of the images; what they hold already is not computed.

    An image that cannot be read has empty features, and is tried again by the next call. Raises ImageError at the first
    such image if ``how.on_bad_image`` is "fail", and DataError if a folder was made with other settings or weights.
    Images are turned counter-clockwise by ``degrees``; the keys of the contents are those of Masks.keyed and
    Contents.keyed. ``said`` collects the warnings about such images,
    so that another pass over them does not repeat any. ``computing`` gives the features of the rows of each shard in
    the place of computed_here.
    """
    said = set() if said is None else said
    keys = contents.keys
    shard_size = min(shard_size_of(output.kind, how) for output in outputs)
    folders = [ShardFolder(output.folder, output.origin, keys, shard_size) for output in outputs]
    work = Work()
    with ExitStack() as claimed:
        for folder in folders:
            claimed.enter_context(folder.writing())
        stored = [folder.stored() for folder in folders]
        lacking = [
            row
            for row, key in enumerate(keys)
            if any(key not in found for found in stored) or contents.megapixels[row] > how.max_megapixels
        ]
        slices = folders[0].slices()
        shards: list[list[str]] = [[] for _ in folders]
        name = "/".join(outputs[0].folder.parts[-2:])
        progress = Progress(name, len(keys), "image", initial=len(keys) - len(lacking))
        waiting = set(lacking)
        rows = [[row for row in items if row in waiting] for items in slices]
        here = partial(computed_here, images, way, how=how, masks=masks, degrees=degrees, progress=progress)
        with progress, closing((computing or here)(rows)) as results:
            for items, (computed, failed) in zip(slices, results, strict=True):
                _warn(failed, said)
                if computing is not None:
                    progress.update(len(computed) + len(failed))
                work.failed |= failed
                work.computed += len(computed)
                places = {row - items.start: reason for row, reason in failed.items()}
                for place, (folder, output) in enumerate(zip(folders, outputs, strict=True)):
                    name = folder.name_of(items, places)
                    if not folder.path(name).exists():
                        fresh = {row: each[place] for row, each in computed.items()}
                        gathered = _gather(
                            folder, output.kind, items, computed=fresh, stored=stored[place], failed=failed
                        )
                        folder.write(items, output.kind.pack(gathered), places)
                    shards[place].append(name)
        about = {"names": list(images.names)}
        for folder, names in zip(folders, shards, strict=True):
            folder.finish(names, about)
    work.reused = len(keys) - len(lacking)
    return work


def computed_here(
    images: ImageSet,
    way: Pass,
    rows: Sequence[Sequence[int]],
    *,
    how: Extraction,
    masks: Masks | None,
    degrees: int,
    progress: Progress | None = None,
) -> Generator[Slice, None, None]:
    """The features of the rows of each shard, computed in this process; see extract."""

    def load(row: int) -> Prepared:
        mask = None if masks is None else masks.of(images, row)
        prepared = way.prepare(images.path(row), how.max_megapixels, mask, degrees)
        select = None
        if masks is not None and masks.labels is not None:
            classes = masks.labels.of(images, row)
            select = partial(masks.labels.kept, classes=None if classes is None else turned(classes, degrees))
        return Prepared(prepared, None if mask is None else turned(mask, degrees), select)

    with closing(in_order(load, [row for some in rows for row in some], how.threads)) as loaded:
        for some in rows:
            computed: dict[int, tuple[Any, ...]] = {}
            failed: dict[int, str] = {}
            for batch in _batches(loaded, len(some), how.batch_size):
                computed |= _process(batch, way, failed, how)
                if progress is not None:
                    progress.update(len(batch))
            yield computed, failed


def _gather(
    folder: ShardFolder,
    kind: Kind,
    items: range,
    *,
    computed: Mapping[int, Any],
    stored: Mapping[str, StoredItem],
    failed: Mapping[int, str],
) -> list[Any | None]:
    """The features of a shard's images: computed now, or copied from the shard in which they are."""
    opened: dict[str, Arrays] = {}
    gathered: list[Any | None] = []
    for row in items:
        if row in failed:
            gathered.append(None)
            continue
        if row in computed:
            gathered.append(computed[row])
            continue
        found = stored[folder.keys[row]]
        if found.shard not in opened:
            opened[found.shard] = read_arrays(folder.path(found.shard))
        gathered.append(kind.unpack(opened[found.shard], found.place))
    return gathered


class Aggregated(NamedTuple):
    """Global descriptors made of local features, and how many of them were there already."""

    store: GlobalStore
    reused: int


def aggregate(
    local: LocalStore, keys: Sequence[str], aggregator: LocalAggregator, output: FeatureOutput, *, threads: int
) -> Aggregated:
    """Global descriptors made of stored local features; float32, one shard per shard of the local store."""
    folder = ShardFolder(output.folder, output.origin, keys, local.shard_size)
    unread = local.failed()
    reused = 0
    with folder.writing(), one_thread_each(threads) as pool:
        stored = folder.stored()
        shards = []
        for items in Progress("aggregate", len(folder.slices()), "shard").over(folder.slices()):
            failed = {row: unread[row] for row in items if row in unread}
            places = {row - items.start: reason for row, reason in failed.items()}
            name = folder.name_of(items, places)
            lacking = [row for row in items if row not in failed and keys[row] not in stored]
            reused += len(items) - len(lacking)
            if not folder.path(name).exists():
                vectors = pool.map(lambda row: torch.from_numpy(aggregator.aggregate(local[row])), lacking)
                fresh = dict(zip(lacking, vectors, strict=True))
                gathered = _gather(folder, output.kind, items, computed=fresh, stored=stored, failed=failed)
                folder.write(items, output.kind.pack(gathered), places)
            shards.append(name)
        folder.finish(shards)
    return Aggregated(GlobalStore(output.folder), reused)


def shard_size_of(kind: Kind, how: Extraction) -> int:
    """Images per shard: fewer than asked for if their patch descriptors would take more than SHARD_BYTES."""
    if isinstance(kind, Patches):
        return max(1, min(how.shard_size, SHARD_BYTES // kind.bytes_per_image))
    return how.shard_size


def _batches(loaded: Iterator[T], count: int, batch_size: int) -> Iterator[list[T]]:
    """The next ``count`` items, in lists of at most ``batch_size``."""
    while count > 0:
        batch = list(islice(loaded, min(batch_size, count)))
        count -= len(batch)
        yield batch


def _warn(failed: Mapping[int, str], said: set[str]) -> None:
    """Say which images could not be used, once."""
    for reason in failed.values():
        if reason not in said:
            logger.warning("skipped: %s", reason)
        said.add(reason)


def _process(
    batch: Sequence[tuple[int, Prepared | ImageError]], way: Pass, failed: dict[int, str], how: Extraction
) -> dict[int, tuple[Any, ...]]:
    """Features by row; the reasons of images that could not be read go to ``failed``."""
    readable: list[tuple[int, Prepared]] = []
    for row, image in batch:
        if isinstance(image, ImageError):
            if how.on_bad_image == "fail":
                raise image
            failed[row] = str(image)
        else:
            readable.append((row, image))
    if not readable:
        return {}
    results = way.process([image.tensor for _, image in readable])
    return {
        row: tuple(image.kept(item) for item in result) for (row, image), result in zip(readable, results, strict=True)
    }
