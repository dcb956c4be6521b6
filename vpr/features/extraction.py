"""Features of a whole image set, batch by batch, into a store; continues where it was interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vpr.core import (
    GlobalDescriptor,
    ImageError,
    ImageSet,
    LocalAggregator,
    LocalExtractor,
    LocalFeatures,
    Origin,
)
from vpr.features.shards import ShardFolder
from vpr.features.store import (
    INDEX,
    GlobalStore,
    LocalStore,
    PatchStore,
    local_arrays,
    patch_arrays,
    read_notes,
    write_index,
)
from vpr.global_descriptors.patch_netvlad import PatchNetVlad
from vpr.global_descriptors.superpoint_global import SuperPointGlobal
from vpr.images import MAX_MEGAPIXELS, in_order, read_image
from vpr.local_features.superpoint import SuperPoint
from vpr.runtime.threads import one_thread_each

logger = logging.getLogger(__name__)

SHARD_BYTES = 256 << 20  # of patch descriptors in one file, which is put together in memory

T = TypeVar("T")
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Extraction:
    """How an image set is gone through; none of it changes the features."""

    batch_size: int = 16
    shard_size: int = 128  # images per file, and the most that a kill loses
    threads: int = 2
    on_bad_image: Literal["skip", "fail"] = "skip"
    max_megapixels: float = MAX_MEGAPIXELS
    dtype: Literal["float16", "float32"] = "float16"


def extract_local(
    images: ImageSet, extractor: LocalExtractor, folder: Path, origin: Origin, how: Extraction
) -> LocalStore:
    """Local features of every image into the folder; an image that cannot be read has none.

    Raises ImageError at the first such image if ``how.on_bad_image`` is "fail", and DataError if the folder was made
    by another origin.
    """

    def extract(batch: Sequence[Tensor]) -> list[tuple[LocalFeatures]]:
        return [(each,) for each in extractor.extract(batch)]

    job = ShardFolder(folder, origin, len(images), how.shard_size)
    _extract([_Output(job, _packs_local(extractor, how))], images, extractor, extract, how=how)
    return LocalStore(folder)


def extract_global(
    images: ImageSet, descriptor: GlobalDescriptor, folder: Path, origin: Origin, how: Extraction
) -> GlobalStore:
    """Global descriptor of every image into the folder; an image that cannot be read has a zero row.

    Raises as extract_local does.
    """

    def describe(batch: Sequence[Tensor]) -> list[tuple[Tensor]]:
        return [(each,) for each in descriptor.describe(batch).cpu()]

    job = ShardFolder(folder, origin, len(images), how.shard_size)
    _extract([_Output(job, _packs_global(descriptor, how))], images, descriptor, describe, how=how)
    return GlobalStore(folder)


def extract_together(
    images: ImageSet,
    extractor: SuperPoint,
    descriptor: SuperPointGlobal,
    *,
    folders: tuple[Path, Path],
    origins: tuple[Origin, Origin],
    how: Extraction,
) -> None:
    """What extract_local and extract_global make, in two folders, from one pass of the trunk that both share."""

    def both(batch: Sequence[Tensor]) -> list[tuple[LocalFeatures, Tensor]]:
        return look_once(batch, extractor, descriptor)

    jobs = [
        ShardFolder(folder, origin, len(images), how.shard_size)
        for folder, origin in zip(folders, origins, strict=True)
    ]
    outputs = [_Output(jobs[0], _packs_local(extractor, how)), _Output(jobs[1], _packs_global(descriptor, how))]
    _extract(outputs, images, extractor, both, how=how)


def look_once(
    images: Sequence[Tensor], extractor: SuperPoint, descriptor: SuperPointGlobal
) -> list[tuple[LocalFeatures, Tensor]]:
    """Local features and global descriptor of each image, from one pass of the trunk that both share."""
    return extractor.extract_and(images, lambda maps: list(descriptor.of_maps(maps).cpu()))


def extract_patches(
    images: ImageSet, descriptor: PatchNetVlad, folder: Path, origin: Origin, how: Extraction
) -> PatchStore:
    """Global and patch descriptors of every image into the folder; an image that cannot be read has no patches.

    Raises as extract_local does. A shard holds fewer images than asked for if they would take more than SHARD_BYTES.
    """
    dtype: torch.dtype = getattr(torch, how.dtype)
    sizes = [(len(grid), descriptor.dim) for grid in descriptor.grids]
    bytes_per_image = dtype.itemsize * sum(count * dim for count, dim in sizes)
    shard_size = max(1, min(how.shard_size, SHARD_BYTES // bytes_per_image))
    none = torch.zeros(descriptor.dim, dtype=dtype), [torch.zeros(size, dtype=dtype) for size in sizes]

    def describe(batch: Sequence[Tensor]) -> list[tuple[tuple[Tensor, list[Tensor]]]]:
        return [
            ((vector.to(dtype).cpu(), [each.to(dtype).cpu() for each in patches.descriptors]),)
            for vector, patches in descriptor.describe_patches(batch)
        ]

    def pack(rows: Sequence[tuple[Tensor, list[Tensor]] | None]) -> Arrays:
        vectors, patches = zip(*[none if row is None else row for row in rows], strict=True)
        return patch_arrays(vectors, patches, descriptor.grids, descriptor.image_size)

    job = ShardFolder(folder, origin, len(images), shard_size)
    _extract([_Output(job, pack)], images, descriptor, describe, how=how)
    return PatchStore(folder)


def aggregate(
    images: ImageSet, local: LocalStore, aggregator: LocalAggregator, folder: Path, origin: Origin, *, threads: int
) -> GlobalStore:
    """Global descriptors made of stored local features; float32, one shard per shard of the local store."""
    job = ShardFolder(folder, origin, len(local), local.shard_size)
    with job.writing(), one_thread_each(threads) as pool:
        for shard in tqdm(job.missing(), desc=f"describe {folder.name}", unit="shard", disable=None):
            rows = list(pool.map(lambda row: aggregator.aggregate(local[row]), job.items_of(shard)))
            job.write(shard, {"descriptors": np.stack(rows).astype(np.float32)})
        if not (folder / INDEX).exists():
            write_index(folder, images.names, local.unreadable())
    return GlobalStore(folder)


@dataclass(frozen=True)
class _Output:
    """Where one kind of features goes; ``pack`` makes a shard's arrays of them, None for unreadable images."""

    job: ShardFolder
    pack: Callable[[Sequence[Any]], Arrays]


def _packs_local(extractor: LocalExtractor, how: Extraction) -> Callable[[Sequence[LocalFeatures | None]], Arrays]:
    none = LocalFeatures.empty(extractor.dim)
    return lambda features: local_arrays([none if each is None else each for each in features], np.dtype(how.dtype))


def _packs_global(descriptor: GlobalDescriptor, how: Extraction) -> Callable[[Sequence[Tensor | None]], Arrays]:
    zeros = torch.zeros(descriptor.dim)

    def pack(rows: Sequence[Tensor | None]) -> Arrays:
        return {"descriptors": torch.stack([zeros if row is None else row for row in rows]).numpy().astype(how.dtype)}

    return pack


def _extract(
    outputs: Sequence[_Output],
    images: ImageSet,
    method: LocalExtractor | GlobalDescriptor,
    process: Callable[[Sequence[Tensor]], Sequence[tuple[Any, ...]]],
    *,
    how: Extraction,
) -> None:
    """Decode in threads ahead of ``process``, which sees batches that never span two shards.

    For each image it gives a tuple with an item for each output.
    """

    def prepare(row: int) -> Tensor:
        return method.preprocess(read_image(images.path(row), method.channels, how.max_megapixels))

    first = outputs[0].job
    with ExitStack() as claimed:
        for output in outputs:
            claimed.enter_context(output.job.writing())
        lacking = [set(output.job.missing()) for output in outputs]
        missing = sorted(set().union(*lacking))
        rows = [row for shard in missing for row in first.items_of(shard)]
        progress = tqdm(
            total=len(images), initial=len(images) - len(rows), desc=first.folder.name, unit="image", disable=None
        )
        with progress, closing(in_order(prepare, rows, how.threads)) as loaded:
            for shard in missing:
                results: list[tuple[Any, ...] | None] = []
                unreadable: dict[str, str] = {}
                for batch in _batches(loaded, len(first.items_of(shard)), how.batch_size):
                    results += _process_readable(batch, process, unreadable, how)
                    progress.update(len(batch))
                for place, output in enumerate(outputs):
                    if shard in lacking[place]:
                        mine = [None if each is None else each[place] for each in results]
                        output.job.write(shard, output.pack(mine), {"unreadable": unreadable})
        for output in outputs:
            if not (output.job.folder / INDEX).exists():
                write_index(output.job.folder, images.names, _unreadable(output.job))


def _batches(loaded: Iterator[T], count: int, batch_size: int) -> Iterator[list[T]]:
    """The next ``count`` items, in lists of at most ``batch_size``."""
    while count > 0:
        batch = list(islice(loaded, min(batch_size, count)))
        count -= len(batch)
        yield batch


def _process_readable(
    batch: Sequence[tuple[int, Tensor | ImageError]],
    process: Callable[[Sequence[Tensor]], Sequence[T]],
    unreadable: dict[str, str],
    how: Extraction,
) -> list[T | None]:
    """Results in the order of the batch, None for images that could not be read; their reasons go to ``unreadable``."""
    readable = []
    for row, image in batch:
        if isinstance(image, Tensor):
            readable.append(image)
            continue
        if how.on_bad_image == "fail":
            raise image
        logger.warning("skipped: %s", image)
        unreadable[str(row)] = str(image)
    results = iter(process(readable)) if readable else iter(())
    return [next(results) if isinstance(image, Tensor) else None for _, image in batch]


def _unreadable(job: ShardFolder) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for shard in range(job.shard_count):
        notes = read_notes(job.shard_path(shard))
        reasons.update({int(row): reason for row, reason in notes.get("unreadable", {}).items()})
    return reasons
