"""Features on disk: written shard by shard (see ``shards.py``), read through memory maps.

Keypoints are float32, since half precision is half a pixel at 640; descriptors and scores are float16 by default.
Format 1, with shards numbered in the order of the images and without checksums, is still read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from vpr.config import digest_of_names
from vpr.core import DataError, Floats, LocalFeatures
from vpr.features.rows import RowSequence
from vpr.features.shards import (
    Arrays,
    crc32,
    damaged,
    notes_of,
    open_shard,
    read_index,
    read_notes,
    read_origin,
    require_checksum,
    shard_path,
)
from vpr.global_descriptors.patches import PatchFeatures, PatchGrid
from vpr.runtime.units import require_folder

OPEN_SHARDS = 256  # each holds a file handle; the usual limit of a process is 1024
KEYPOINTS = ("keypoints", "points")  # the array of keypoints, and its name in format 1
OPTIONAL = ("scales", "orientations")  # of local features; None where a method has none


def local_arrays(features: Sequence[LocalFeatures], dtype: np.dtype[Any]) -> Arrays:
    """The arrays of one shard of local features; image i owns rows offsets[i]:offsets[i + 1]."""
    counts = [len(each) for each in features]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    arrays = {
        "keypoints": torch.cat([each.keypoints for each in features]).cpu().numpy().astype(np.float32),
        "scores": torch.cat([each.scores for each in features]).cpu().numpy().astype(dtype),
        "descriptors": torch.cat([each.descriptors for each in features]).cpu().numpy().astype(dtype),
    }
    for name in OPTIONAL:
        values = [getattr(each, name) for each in features if len(each)]
        if values and all(value is not None for value in values):
            arrays[name] = torch.cat(values).cpu().numpy().astype(np.float32)
    sizes = np.array([each.image_size for each in features], dtype=np.int32).reshape(-1, 2)
    checksums = [
        _checksum(size, [array[first:last] for array in arrays.values()])
        for size, first, last in zip(sizes, offsets[:-1], offsets[1:], strict=True)
    ]
    return arrays | {
        "offsets": offsets,
        "image_sizes": sizes,
        "item_checksums": np.array(checksums, dtype=np.uint32),
    }


def patch_arrays(
    vectors: Sequence[Tensor], patches: Sequence[Sequence[Tensor]], grids: Sequence[PatchGrid], size: tuple[int, int]
) -> Arrays:
    """The arrays of one shard of global and patch descriptors: (B, D), and for each grid (B, P, D)."""
    arrays = {f"patches{i}": torch.stack(list(of_grid)).numpy() for i, of_grid in enumerate(zip(*patches, strict=True))}
    sides = np.array(size, dtype=np.int32)
    checksums = [_checksum(sides, [array[place] for array in arrays.values()]) for place in range(len(vectors))]
    return arrays | {
        "descriptors": torch.stack(list(vectors)).numpy(),
        "grids": np.array([astuple(grid) for grid in grids], dtype=np.int32),
        "image_size": sides,
        "item_checksums": np.array(checksums, dtype=np.uint32),
    }


def _checksum(image_size: NDArray[np.int32], arrays: Iterable[NDArray[Any]]) -> int:
    """Of what belongs to one image, so that reading one image need not read the others."""
    value = crc32(image_size)
    for array in arrays:
        value = crc32(array, value)
    return value


class _Store:
    """Base of every store: origin, names of its shards, and a bounded number of open ones."""

    kind: str

    def __init__(self, folder: Path) -> None:
        origin = read_origin(folder)
        if origin.get("kind") != self.kind:
            raise DataError(f"{folder}: holds {origin.get('kind')}, expected {self.kind}")
        self.folder = folder
        self.origin = origin
        self.shard_size: int = origin["shard_size"]
        self.names: tuple[str, ...] | None = None  # of the images, where the store says
        self.keys: tuple[str, ...]  # content keys of the images; of format 1, which has none, what stands for them
        if origin.get("format") == 1:
            self.size: int = origin["count"]
            count = -(-self.size // self.shard_size)
            self._paths = [folder / f"{shard:06d}.safetensors" for shard in range(count)]
            if not all(path.exists() for path in self._paths):
                raise DataError(f"{folder}: the extraction was interrupted; run it again")
            self.keys = tuple(digest_of_names([str(origin), str(row)]) for row in range(self.size))
        else:
            index = read_index(folder)
            self.size = index["count"]
            self._paths = [shard_path(folder, name) for name in index["shards"]]
            self.names = tuple(index["names"]) if "names" in index else None
            self.keys = tuple(index["keys"])
        self._open: OrderedDict[int, tuple[Any, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.size

    def __reduce__(self) -> Any:
        """Sent to another process as its folder, which is opened there."""
        return _opened, (type(self), self.folder)

    @property
    def fingerprint(self) -> str:
        """Of the settings and weights that made the features."""
        return str(self.origin["fingerprint"])

    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self._paths)

    def failed(self) -> dict[int, str]:
        """Rows of the images that could not be read, with the reason."""
        reasons: dict[int, str] = {}
        for shard, path in enumerate(self._paths):
            notes = read_notes(path)
            if "unreadable" in notes:  # format 1, by row
                reasons |= {int(row): reason for row, reason in notes["unreadable"].items()}
            failed = notes.get("failed", {})
            reasons |= {shard * self.shard_size + int(place): reason for place, reason in failed.items()}
        return reasons

    def _shard(self, shard: int) -> tuple[Any, dict[str, Any]]:
        """An open shard and its notes."""
        with self._lock:
            if shard not in self._open:
                opened = open_shard(self._paths[shard])
                self._open[shard] = opened, notes_of(opened, self._paths[shard])
            self._open.move_to_end(shard)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
            return self._open[shard]

    def _whole(self, shard: int, name: str) -> Tensor:
        """One array of a shard, checked."""
        opened, notes = self._shard(shard)
        try:
            tensor: Tensor = opened.get_tensor(name)
        except SafetensorError as error:
            raise damaged(self._paths[shard], error) from None
        require_checksum(tensor.numpy(), notes, name, self._paths[shard])
        return tensor

    def _place(self, row: int) -> tuple[int, int]:
        """Shard and place in it of a row; raises IndexError."""
        if not 0 <= row < self.size:
            raise IndexError(row)
        return divmod(row, self.shard_size)


def _opened(kind: type[_Store], folder: Path) -> _Store:
    require_folder(folder)
    return kind(folder)


def _require_item_checksum(shard: Any, place: int, size: NDArray[np.int32], arrays: Iterable[Tensor]) -> None:
    """Raise ValueError if an image's features are not what was written; format 1 has no checksums."""
    if "item_checksums" in shard.keys():
        expected = int(shard.get_slice("item_checksums")[place : place + 1][0])
        if _checksum(size, [array.numpy() for array in arrays]) != expected:
            raise ValueError(f"the checksum of item {place} does not fit its features")


class LocalStore(_Store, RowSequence[LocalFeatures]):
    """Local features of an image set; ``store[row]`` maps only that image's bytes. A failed image has no keypoints."""

    kind = "local features"

    def _row(self, row: int) -> LocalFeatures:
        number, place = self._place(row)
        shard, _ = self._shard(number)
        try:
            first, last = (int(offset) for offset in shard.get_slice("offsets")[place : place + 2])
            names = [name for name in (*KEYPOINTS, "scores", "descriptors", *OPTIONAL) if name in shard.keys()]
            read = {name: shard.get_slice(name)[first:last] for name in names}
            size = shard.get_slice("image_sizes")[place].numpy()
            _require_item_checksum(shard, place, size, read.values())
            width, height = size.tolist()
            return LocalFeatures(
                read[names[0]],
                read["scores"].float(),
                read["descriptors"].float(),
                (width, height),
                **{name: read[name] for name in OPTIONAL if name in read},
            )
        except (SafetensorError, ValueError, IndexError, KeyError) as error:
            raise damaged(self._paths[number], error) from None


class GlobalStore(_Store):
    """Global descriptors of an image set. A failed image has a zero row."""

    kind = "global descriptors"

    @property
    def dim(self) -> int:
        shard, _ = self._shard(0)
        return int(shard.get_slice("descriptors").get_shape()[1])

    def blocks(self) -> Iterator[Floats]:
        """The descriptors, (n, D) float32 for each shard in order."""
        for shard in range(len(self._paths)):
            yield np.asarray(self._whole(shard, "descriptors").float().numpy(), dtype=np.float32)

    def matrix(self) -> Floats:
        """(N, D) float32, all of it."""
        return np.concatenate(list(self.blocks()))


class PatchStore(GlobalStore, RowSequence[PatchFeatures]):
    """Global descriptors of an image set, and the descriptors of each image's patches.

    ``store[row]`` maps only that image's bytes, and leaves its descriptors in the type they were written in.
    """

    kind = "global and patch descriptors"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._failed = self.failed().keys()

    def _row(self, row: int) -> PatchFeatures:
        number, place = self._place(row)
        shard, _ = self._shard(number)
        grids = tuple(PatchGrid(*numbers) for numbers in shard.get_tensor("grids").tolist())
        size = shard.get_tensor("image_size").numpy()
        patches = [shard.get_slice(f"patches{i}")[place] for i in range(len(grids))]
        try:
            _require_item_checksum(shard, place, size, patches)
        except ValueError as error:
            raise damaged(self._paths[number], error) from None
        width, height = size.tolist()
        count = 0 if row in self._failed else None
        return PatchFeatures(grids, tuple(each[:count] for each in patches), (width, height))

    def vector(self, row: int) -> Tensor:
        """(D,) global descriptor of an image, in the type it was written in."""
        number, place = self._place(row)
        vector: Tensor = self._shard(number)[0].get_slice("descriptors")[place]
        return vector
