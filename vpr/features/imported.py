"""Features that hloc extracted, as stores of an image set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vpr.config import digest_of_names, fingerprint
from vpr.core import NO_ROW, DataError, ImageSet, LocalFeatures, Origin
from vpr.datasets.listed_names import NameFinder
from vpr.exchange.hloc import GLOBAL, KEYPOINTS, HlocFile
from vpr.features.shards import Arrays, ShardFolder
from vpr.features.store import GlobalStore, LocalStore, local_arrays
from vpr.runtime.progress import Progress

SHARD_SIZE = 128
SHOWN = 3  # names that an error lists
Item = tuple[NDArray[Any], ...]
S = TypeVar("S", LocalStore, GlobalStore)


@dataclass(frozen=True)
class _Kind(Generic[S]):
    """One kind of features: what reads them here, and how they come from a file."""

    store: type[S]
    dataset: str  # in the file
    read: Callable[[HlocFile, str], Item]
    pack: Callable[[Sequence[Item]], Arrays]


@dataclass(frozen=True)
class HlocPaths:
    """Files of hloc; images are looked up in all files of a kind."""

    local: tuple[Path, ...] = ()
    descriptors: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.local or self.descriptors)


def import_local(images: ImageSet, paths: Sequence[Path], folder: Path) -> LocalStore:
    """A store of local features; descriptors become unit rows. Raises DataError if an image has none."""

    def read(file: HlocFile, name: str) -> Item:
        found = file.features(name)
        return found.keypoints, found.scores, _unit(found.descriptors), np.array(found.image_size)

    def pack(items: Sequence[Item]) -> Arrays:
        dim = max((each[2].shape[1] for each in items), default=0)
        features = [_local(images, item, dim) for item in items]
        return local_arrays(features, np.dtype(np.float16))

    return _imported(images, paths, folder, _Kind(LocalStore, KEYPOINTS, read, pack))


def import_descriptors(images: ImageSet, paths: Sequence[Path], folder: Path) -> GlobalStore:
    """A store of global descriptors, which become unit rows. Raises DataError if an image has none."""

    def read(file: HlocFile, name: str) -> Item:
        return (_unit(file.descriptor(name)[None])[0],)

    def pack(items: Sequence[Item]) -> Arrays:
        lengths = {len(vector) for (vector,) in items}
        if len(lengths) > 1:
            raise DataError(
                f"{', '.join(map(str, paths))}: global descriptors of lengths {sorted(lengths)}; give one kind"
            )
        return {"descriptors": np.stack([vector for (vector,) in items]).astype(np.float32)}

    return _imported(images, paths, folder, _Kind(GlobalStore, GLOBAL, read, pack))


def combined_keys(parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Content keys of images whose features are of several kinds."""
    return tuple(digest_of_names(keys) for keys in zip(*parts, strict=True))


def _imported(images: ImageSet, paths: Sequence[Path], folder: Path, kind: _Kind[S]) -> S:
    """Copy what the files hold of the images into a store; shards that are there already are not written again."""
    origin = Origin(kind.store.kind, fingerprint({"imported": "hloc", "kind": kind.store.kind}))
    with ExitStack() as opened:
        files = [opened.enter_context(HlocFile(path)) for path in paths]
        places = _places(images, files, kind.dataset)
        keys = [_key(kind.read(*place)) for place in Progress("read", len(places), "image").over(places)]
        job = ShardFolder(folder, origin, keys, SHARD_SIZE)
        with job.writing():
            shards = []
            for items in job.slices():
                name = job.name_of(items, {})
                if not job.path(name).exists():
                    job.write(items, kind.pack([kind.read(*places[row]) for row in items]))
                shards.append(name)
            job.finish(shards, {"names": list(images.names)})
    return kind.store(folder)


def _places(images: ImageSet, files: Sequence[HlocFile], dataset: str) -> list[tuple[HlocFile, str]]:
    """File and name there of each image. Raises DataError with the images that no file has."""
    finder = NameFinder(images)
    found: dict[int, tuple[HlocFile, str]] = {}
    for file in files:
        names = file.names(dataset)
        found |= {row: (file, name) for row, name in zip(finder.rows(names), names, strict=True) if row != NO_ROW}
    lacking = [name for row, name in enumerate(images.names) if row not in found]
    if lacking:
        listed = ", ".join(lacking[:SHOWN])
        raise DataError(
            f"{', '.join(str(file.path) for file in files)}: nothing of {len(lacking)} of {len(images)} images "
            f"({listed}); names may be relative to any folder above the images, in one file all to the same"
        )
    return [found[row] for row in range(len(images))]


def _key(item: Item) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in item:
        digest.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _local(images: ImageSet, item: Item, dim: int) -> LocalFeatures:
    keypoints, scores, descriptors, size = item
    if len(keypoints) and descriptors.shape[1] != dim:
        raise DataError(f"{images.root}: descriptors of {descriptors.shape[1]} and of {dim} numbers; give one kind")
    rows = descriptors if len(keypoints) else np.zeros((0, dim), np.float32)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (keypoints, scores, rows)]
    return LocalFeatures(tensors[0], tensors[1], tensors[2], (int(size[0]), int(size[1])))


def _unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    rows = rows.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float32] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units
