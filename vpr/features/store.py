"""Features on disk: written shard by shard, read through memory maps.

A store is a folder with ``origin.json`` (what made it), shards ``000000.safetensors`` ... and ``index.sqlite``
(image name to row, and the images that could not be read). The index is written last: a folder with one is whole.
Points are float32, since half precision is half a pixel at 640; descriptors and scores are float16 by default.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vpr.core import DataError, Floats, LocalFeatures, usable_name
from vpr.features.shards import read_origin
from vpr.global_descriptors.patches import PatchFeatures, PatchGrid
from vpr.runtime.files import TEMPORARY, sync_folder

INDEX = "index.sqlite"
OPEN_SHARDS = 256  # each holds a file handle; the usual limit of a process is 1024


def local_arrays(features: Sequence[LocalFeatures], dtype: np.dtype[Any]) -> dict[str, Any]:
    """The arrays of one shard of local features; image i owns rows offsets[i]:offsets[i + 1]."""
    counts = [len(each) for each in features]
    return {
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "points": torch.cat([each.points for each in features]).cpu().numpy().astype(np.float32),
        "scores": torch.cat([each.scores for each in features]).cpu().numpy().astype(dtype),
        "descriptors": torch.cat([each.descriptors for each in features]).cpu().numpy().astype(dtype),
        "image_sizes": np.array([each.image_size for each in features], dtype=np.int32).reshape(-1, 2),
    }


def patch_arrays(
    vectors: Sequence[Tensor], patches: Sequence[Sequence[Tensor]], grids: Sequence[PatchGrid], size: tuple[int, int]
) -> dict[str, Any]:
    """The arrays of one shard of global and patch descriptors: (B, D), and for each grid (B, P, D)."""
    arrays = {f"patches{i}": torch.stack(list(of_grid)).numpy() for i, of_grid in enumerate(zip(*patches, strict=True))}
    return arrays | {
        "descriptors": torch.stack(list(vectors)).numpy(),
        "grids": np.array([astuple(grid) for grid in grids], dtype=np.int32),
        "image_size": np.array(size, dtype=np.int32),
    }


def write_index(folder: Path, names: Sequence[str], unreadable: Mapping[int, str]) -> None:
    """Write the index of a store whose shards are all there; ``unreadable`` gives the reason per row."""
    path = folder / INDEX
    temporary = folder / f".{INDEX}{TEMPORARY}"
    temporary.unlink(missing_ok=True)
    connection = sqlite3.connect(temporary)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        columns = "name TEXT PRIMARY KEY, row INTEGER NOT NULL, error TEXT"
        connection.execute(f"CREATE TABLE images ({columns}) WITHOUT ROWID")
        entries = ((usable_name(name), row, unreadable.get(row)) for row, name in enumerate(names))
        connection.executemany("INSERT INTO images VALUES (?, ?, ?)", entries)
        connection.commit()
    finally:
        connection.close()
    temporary.replace(path)
    sync_folder(folder)


class _Store:
    """What both kinds of store share: origin, index, and a bounded number of open shards."""

    kind: str

    def __init__(self, folder: Path) -> None:
        origin = read_origin(folder)
        if origin["kind"] != self.kind:
            raise DataError(f"{folder}: holds {origin['kind']}, expected {self.kind}")
        if not (folder / INDEX).exists():
            raise DataError(f"{folder}: the extraction was interrupted; run it again, it continues where it stopped")
        self.folder = folder
        self.origin = origin
        self.size: int = origin["count"]
        self.shard_size: int = origin["shard_size"]
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.size

    def unreadable(self) -> dict[int, str]:
        """Rows of the images that could not be read, with the reason."""
        return {int(row): error for row, error in self._query("SELECT row, error FROM images WHERE error IS NOT NULL")}

    def row_of(self, name: str) -> int:
        """Row of an image by its name; raises DataError for a name that is not in the store."""
        found = self._query("SELECT row FROM images WHERE name = ?", (usable_name(name),))
        if not found:
            raise DataError(f"{self.folder}: has no image {name!r}")
        return int(found[0][0])

    def _query(self, statement: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.folder / INDEX}?mode=ro&immutable=1", uri=True)
        try:
            return connection.execute(statement, tuple(values)).fetchall()
        except sqlite3.DatabaseError as error:
            raise _damaged(self.folder / INDEX, error) from None
        finally:
            connection.close()

    def _shard(self, shard: int) -> Any:
        with self._lock:
            if shard not in self._open:
                self._open[shard] = self._map(shard)
            self._open.move_to_end(shard)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
            return self._open[shard]

    def _map(self, shard: int) -> Any:
        path = self.folder / f"{shard:06d}.safetensors"
        try:
            return safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from None


class LocalStore(_Store, Sequence[LocalFeatures]):
    """Local features of an image set; ``store[row]`` maps only that image's bytes. Unreadable images have no points."""

    kind = "local features"

    @overload
    def __getitem__(self, row: int) -> LocalFeatures: ...
    @overload
    def __getitem__(self, row: slice) -> list[LocalFeatures]: ...
    def __getitem__(self, row: int | slice) -> LocalFeatures | list[LocalFeatures]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(self.size))]
        if not 0 <= row < self.size:
            raise IndexError(row)
        shard = self._shard(row // self.shard_size)
        place = row % self.shard_size
        first, last = (int(offset) for offset in shard.get_slice("offsets")[place : place + 2])
        width, height = (int(side) for side in shard.get_slice("image_sizes")[place])
        return LocalFeatures(
            shard.get_slice("points")[first:last],
            shard.get_slice("scores")[first:last].float(),
            shard.get_slice("descriptors")[first:last].float(),
            (width, height),
        )


class GlobalStore(_Store):
    """Global descriptors of an image set. Unreadable images have zero rows."""

    kind = "global descriptors"

    def matrix(self) -> Floats:
        """(N, D) float32, all of it."""
        shards = -(-self.size // self.shard_size)
        parts: list[Tensor] = [self._shard(shard).get_tensor("descriptors").float() for shard in range(shards)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


class PatchStore(GlobalStore, Sequence[PatchFeatures]):
    """Global descriptors of an image set, and the descriptors of each image's patches.

    ``store[row]`` maps only that image's bytes, and leaves its descriptors in the type they were written in.
    """

    kind = "global and patch descriptors"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._unreadable = self.unreadable().keys()

    @overload
    def __getitem__(self, row: int) -> PatchFeatures: ...
    @overload
    def __getitem__(self, row: slice) -> list[PatchFeatures]: ...
    def __getitem__(self, row: int | slice) -> PatchFeatures | list[PatchFeatures]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(self.size))]
        if not 0 <= row < self.size:
            raise IndexError(row)
        shard = self._shard(row // self.shard_size)
        place = row % self.shard_size
        grids = tuple(PatchGrid(*numbers) for numbers in shard.get_tensor("grids").tolist())
        width, height = shard.get_tensor("image_size").tolist()
        patches = [shard.get_slice(f"patches{i}")[place] for i in range(len(grids))]
        count = 0 if row in self._unreadable else None
        return PatchFeatures(grids, tuple(each[:count] for each in patches), (width, height))


def read_notes(path: Path) -> dict[str, Any]:
    """The notes of one shard; raises DataError if the shard is damaged."""
    try:
        with safe_open(path, framework="np") as shard:
            notes: dict[str, Any] = json.loads((shard.metadata() or {}).get("notes", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, error) from None
    return notes


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged or missing: {error}; delete it and run the extraction again")
