"""A folder of safetensors shards that can be killed at any moment and continued.

The items of a job, in a fixed order, are cut into slices of ``shard_size``; each slice becomes one file that appears
whole or not at all. ``origin.json`` says what the shards were made by and of; a folder made otherwise is refused.
Shards and index come out byte-identical however often the job was interrupted.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from vpr.core import DataError, Origin
from vpr.runtime.files import read_json, remove_leftovers, write_atomically, write_json

FORMAT = 1  # raised when files written before can no longer be read


class ShardFolder:
    """Writes and finds the shards of one job; see the module's text."""

    def __init__(self, folder: Path, origin: Origin, count: int, shard_size: int) -> None:
        self.folder = folder
        self.origin = origin
        self.count = count
        self.shard_size = shard_size

    def record(self) -> dict[str, Any]:
        """What ``origin.json`` says."""
        return {"format": FORMAT, "count": self.count, "shard_size": self.shard_size, **asdict(self.origin)}

    @property
    def shard_count(self) -> int:
        return -(-self.count // self.shard_size)

    def shard_path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.safetensors"

    def items_of(self, shard: int) -> range:
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.count))

    def missing(self) -> list[int]:
        """Shards that are not there yet, ascending."""
        return [shard for shard in range(self.shard_count) if not self.shard_path(shard).exists()]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Claim the folder for this process; raises DataError if it was made otherwise or is being written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the kernel, even after kill -9
            except BlockingIOError:
                raise DataError(f"{self.folder}: another process is writing here; wait for it to end") from None
            remove_leftovers(self.folder)
            self._claim()
            yield

    def write(self, shard: int, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, Any] | None = None) -> None:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # One entry of metadata: safetensors writes several in no fixed order.
        metadata = {"notes": json.dumps(notes or {}, sort_keys=True)}
        write_atomically(self.shard_path(shard), save(contiguous, metadata=metadata))

    def _claim(self) -> None:
        path = self.folder / "origin.json"
        if path.exists():
            refuse_other_origin(self.folder, self.record())
        elif any(self.folder.glob("*.safetensors")):
            raise DataError(f"{self.folder}: holds shards of unknown origin; choose an empty folder")
        else:
            write_json(path, self.record())


def refuse_other_origin(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise DataError that says in what the folder's origin differs from the wanted record."""
    found = read_origin(folder)
    for key in ("format", "kind", "weights", "fingerprint", "images", "count", "shard_size"):
        if found.get(key) != wanted[key]:
            raise DataError(f"{folder}: {_difference(key, found, wanted)}; give another folder or delete this one")


def read_origin(folder: Path) -> dict[str, Any]:
    """The record of a folder; raises DataError if there is none."""
    path = folder / "origin.json"
    if not path.exists():
        raise DataError(f"{folder}: no origin.json, so this is not a folder of features; run the extraction first")
    try:
        record = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}; delete the folder and extract again") from None
    if not isinstance(record, dict):
        raise DataError(f"{path}: damaged: not an object; delete the folder and extract again")
    return record


def _difference(key: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if key == "fingerprint":
        return f"made with other settings ({_changed(found.get('settings', {}), wanted['settings'])})"
    if key in ("images", "count"):
        return f"made from another list of images ({found.get('count')} then, {wanted['count']} now)"
    return f"made with {key} {found.get(key)!r}, wanted {wanted[key]!r}"


def _changed(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """The settings that differ, as ``section.key: then -> now``."""
    changes = []
    for key in sorted(found.keys() | wanted.keys()):
        then, now = found.get(key), wanted.get(key)
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            changes.append(_changed(then, now, f"{prefix}{key}."))
        elif then != now:
            changes.append(f"{prefix}{key}: {then} -> {now}")
    return ", ".join(filter(None, changes))
