"""A folder of immutable safetensors shards, each named by the content keys of the items in it.

The items of a job, in a fixed order, are cut into slices of ``shard_size``. The name of a shard is a digest of the keys
of its items, so a shard that exists is right, an item that was computed before is found by its key wherever it is now,
and a list that gained, lost or replaced items costs the work of those items alone. ``origin.json`` says what the shards
were made by; a folder made otherwise is refused. ``index.json`` lists the shards in order and is written last.
However often a job was killed, the folder ends up byte-identical to that of a run in one piece.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vpr.core import DataError, Origin
from vpr.runtime.files import exclusive_lock, read_json, remove_leftovers, write_atomically, write_json

FORMAT = 2  # raised when files written before can no longer be read
INDEX = "index.json"
SHARDS = "shards"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class StoredItem:
    """Where an item lies that was computed before."""

    shard: str
    place: int


class ShardFolder:
    """Writes and finds the shards of one job; see the module's text."""

    def __init__(self, folder: Path, origin: Origin, keys: Sequence[str], shard_size: int) -> None:
        self.folder = folder
        self.origin = origin
        self.keys = keys
        self.shard_size = shard_size

    def __len__(self) -> int:
        return len(self.keys)

    def slices(self) -> list[range]:
        """The items of each shard, in order."""
        count = len(self.keys)
        return [range(first, min(first + self.shard_size, count)) for first in range(0, count, self.shard_size)]

    def path(self, name: str) -> Path:
        return shard_path(self.folder, name)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Claim the folder for this process; raises DataError if it was made otherwise or is being written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.folder / ".lock") as locked:
            if not locked:
                raise DataError(f"{self.folder}: another process is writing here; wait for it to end")
            remove_leftovers(self.folder)
            for below in (self.folder / SHARDS).glob("*"):
                remove_leftovers(below)
            self._claim()
            yield

    def stored(self) -> dict[str, StoredItem]:
        """Every item that a whole shard holds, by its key; those that failed are left out."""
        found: dict[str, StoredItem] = {}
        for path in sorted((self.folder / SHARDS).glob("*/*.safetensors")):
            try:
                notes = read_notes(path)
                keys, failed = notes["keys"], notes.get("failed", {})
            except (DataError, KeyError):
                path.unlink()  # it would never be read again
                continue
            for place, key in enumerate(keys):
                if key and str(place) not in failed:
                    found.setdefault(key, StoredItem(path.stem, place))
        return found

    def name_of(self, items: range, failed: Mapping[int, str]) -> str:
        """Name of the shard of these items, of which some failed, by their places in it."""
        digest = hashlib.blake2b(digest_size=16)
        for place, item in enumerate(items):
            digest.update(f"{self.keys[item]}{'!' if place in failed else ''}\n".encode())
        return digest.hexdigest()

    def write(self, items: range, arrays: Arrays, failed: Mapping[int, str] | None = None) -> str:
        """Write the shard of these items unless it exists; returns its name. ``failed``: reasons, by place."""
        failed = failed or {}
        name = self.name_of(items, failed)
        path = self.path(name)
        if not path.exists():
            contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
            notes = {
                "keys": [self.keys[item] for item in items],
                "failed": {str(place): reason for place, reason in failed.items()},
                "checksums": {key: crc32(array) for key, array in sorted(contiguous.items())},
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            # One entry of metadata: safetensors writes several in no fixed order.
            write_atomically(path, save(contiguous, metadata={"notes": json.dumps(notes, sort_keys=True)}))
        return name

    def finish(self, shards: Sequence[str], about: Mapping[str, Any] | None = None) -> None:
        """Write the index of the shards, in order, and delete those that it no longer lists."""
        record = {
            "format": FORMAT,
            "count": len(self.keys),
            "shards": list(shards),
            "keys": list(self.keys),
            **(about or {}),
        }
        path = self.folder / INDEX
        if not path.exists() or read_json(path) != json.loads(json.dumps(record)):
            write_json(path, record, indent=None)
        kept = set(shards)
        for shard in (self.folder / SHARDS).glob("*/*.safetensors"):
            if shard.stem not in kept:
                shard.unlink()

    def _claim(self) -> None:
        path = self.folder / "origin.json"
        record = {"format": FORMAT, "shard_size": self.shard_size, **asdict(self.origin)}
        if not path.exists():
            if any(self.folder.glob("**/*.safetensors")):
                raise DataError(f"{self.folder}: holds shards of unknown origin; choose an empty folder")
            write_json(path, record, indent=None)
            return
        found = read_origin(self.folder)
        refuse_other_origin(self.folder, self.origin, found)
        if found != json.loads(json.dumps(record)):  # another format or shard size: nothing to refuse
            for old in self.folder.glob("*.safetensors"):  # format 1 kept its shards here
                old.unlink()
            (self.folder / "index.sqlite").unlink(missing_ok=True)
            write_json(path, record, indent=None)


def shard_path(folder: Path, name: str) -> Path:
    """Where the shard of a name lies: 256 subfolders keep folders small."""
    return folder / SHARDS / name[:2] / f"{name}.safetensors"


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a whole folder; raises DataError if there is none, or a damaged one."""
    path = folder / INDEX
    try:
        record = read_json(path)
        if record["format"] == FORMAT and isinstance(record["shards"], list) and isinstance(record["count"], int):
            return dict(record)
        raise ValueError(f"format {record['format']}, expected {FORMAT}")
    except FileNotFoundError:
        raise DataError(
            f"{folder}: the extraction was interrupted; run it again, it continues where it stopped"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged: {error}; delete it and run again") from None


def open_shard(path: Path, framework: str = "pt") -> Any:
    """A memory-mapped shard; raises DataError if it is missing or damaged."""
    try:
        return safe_open(path, framework=framework)
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from None


def read_notes(path: Path) -> dict[str, Any]:
    """Keys, failures and checksums of a shard's items; raises DataError if the shard is damaged."""
    with open_shard(path, "np") as shard:
        return notes_of(shard, path)


def notes_of(shard: Any, path: Path) -> dict[str, Any]:
    """Keys, failures and checksums of an open shard's items; raises DataError if they are damaged."""
    try:
        notes: dict[str, Any] = json.loads((shard.metadata() or {}).get("notes", "{}"))
    except ValueError as error:
        raise damaged(path, error) from None
    return notes


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a shard, each checked against its checksum; raises DataError for a damaged shard."""
    with open_shard(path, "np") as shard:
        notes = notes_of(shard, path)
        try:
            arrays: dict[str, NDArray[Any]] = {name: shard.get_tensor(name) for name in shard.keys()}
        except (OSError, SafetensorError, ValueError) as error:
            raise damaged(path, error) from None
    for name, array in arrays.items():
        require_checksum(array, notes, name, path)
    return arrays


def crc32(array: NDArray[Any], value: int = 0) -> int:
    """Checksum of an array's bytes, continued from that of others."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, value)


def require_checksum(array: NDArray[Any], notes: Mapping[str, Any], name: str, path: Path) -> None:
    """Raise DataError if an array is not what was written; shards of format 1 have no checksums."""
    expected = notes.get("checksums", {}).get(name)
    if expected is not None and crc32(array) != expected:
        raise damaged(path, ValueError(f"the checksum of {name} does not fit its content"))


def read_origin(folder: Path) -> dict[str, Any]:
    """The record of what made a folder; raises DataError if there is none."""
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


def refuse_other_origin(folder: Path, wanted: Origin, found: Mapping[str, Any]) -> None:
    """Raise DataError that says in what the folder's origin differs from the wanted one."""
    expected = asdict(wanted)
    for key in ("kind", "weights", "fingerprint"):
        if found.get(key) != expected[key]:
            raise DataError(f"{folder}: {_difference(key, found, expected)}; give another folder or delete this one")


def damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged or missing: {error}; delete it and run the extraction again")


def _difference(key: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if key == "fingerprint":
        return f"made with other settings ({_changed(found.get('settings', {}), wanted['settings'])})"
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
