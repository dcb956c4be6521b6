"""Content keys: a digest of each image file, by which everything computed from the image is kept.

A file is hashed again only if its size, modification time or change time differs from when it was hashed last.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from vpr.config import digest_of_names
from vpr.core import ImageSet
from vpr.images import megapixels_in_header
from vpr.runtime.files import exclusive_lock, read_json, remove_leftovers, write_json
from vpr.runtime.progress import Progress

NO_CONTENT = ""  # key of an image whose file is missing or cannot be read
_Stamp = tuple[int, int, int]  # size in bytes, modification and change time in nanoseconds


class _Entry(NamedTuple):
    """Size, time and hash of one file."""

    stamp: _Stamp | None
    key: str
    megapixels: float


_UNKNOWN = _Entry(None, NO_CONTENT, 0.0)


@dataclass(frozen=True)
class Contents:
    """Content hashes of the files of an image set; row i is image i."""

    keys: tuple[str, ...]  # digest of 32 hexadecimal digits, NO_CONTENT where the file cannot be read
    megapixels: tuple[float, ...]  # as the header says; 0 where it is of no known kind

    def __len__(self) -> int:
        return len(self.keys)

    def keyed(self, what: str) -> Contents:
        """Keys of the same images after something that ``what`` names was done to them."""
        keys = [hashlib.blake2b(f"{key} {what}".encode(), digest_size=16).hexdigest() for key in self.keys]
        return replace(self, keys=tuple(new if old else old for old, new in zip(self.keys, keys, strict=True)))

    def digest(self) -> str:
        """Of all images, in order."""
        return digest_of_names(self.keys)


def read_contents(images: ImageSet, cache: Path, *, threads: int = 2, verify: bool = False) -> Contents:
    """Content keys of all images.

    ``cache`` is a JSON file in which they are kept beside size and times of their files; with ``verify`` every file is
    hashed whatever it says.
    """
    known = {} if verify else _read_cache(cache, images.root)
    stamps = [_stamp(images.path(row)) for row in range(len(images))]
    found = [known.get(name, _UNKNOWN) for name in images.names]
    to_hash = [row for row, stamp in enumerate(stamps) if stamp is not None and found[row].stamp != stamp]
    entries = [_UNKNOWN if stamp is None else entry for stamp, entry in zip(stamps, found, strict=True)]
    if to_hash:
        with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
            hashed = pool.map(lambda row: _entry(images.path(row), stamps[row]), to_hash)
            progress = Progress("hash images", len(to_hash), "image").over(hashed)
            for row, entry in zip(to_hash, progress, strict=True):
                entries[row] = entry
        _write_cache(cache, images, entries)
    return Contents(tuple(entry.key for entry in entries), tuple(entry.megapixels for entry in entries))


def digest_of_file(path: Path) -> str:
    """BLAKE2 of the file's bytes, 32 hexadecimal digits; NO_CONTENT if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return NO_CONTENT


def _stamp(path: Path) -> _Stamp | None:
    """Size and times of a regular file, links followed; None for anything else, which is never opened."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _entry(path: Path, stamp: _Stamp | None) -> _Entry:
    return _Entry(stamp, digest_of_file(path), megapixels_in_header(path))


def _read_cache(cache: Path, root: Path) -> dict[str, _Entry]:
    """Returns the cached entries by image name; none if the cache is missing, damaged or of another folder."""
    try:
        record = read_json(cache)
        if record["root"] != os.path.abspath(root):
            return {}
        return {
            name: _Entry((int(size), int(modified), int(changed)), str(key), float(megapixels))
            for name, (size, modified, changed, key, megapixels) in record["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_cache(cache: Path, images: ImageSet, entries: Sequence[_Entry]) -> None:
    files = {
        name: [*entry.stamp, entry.key, entry.megapixels]
        for name, entry in zip(images.names, entries, strict=True)
        if entry.stamp is not None and entry.key != NO_CONTENT
    }
    cache.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(cache.with_name(f".{cache.name}.lock")) as held:
        if not held:  # another process writes it
            return
        remove_leftovers(cache.parent, cache.name)
        write_json(cache, {"root": os.path.abspath(images.root), "files": files}, indent=None)
