"""Results of units on their way to the process that stores them: files in a shared folder or an object store.

A result is there whole or not at all: a file gets its name when all of it is on disk, and an object of another store is
followed by its checksum. Only results of the same content, settings and version have the same key.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from vpr.core import ConfigError, DataError
from vpr.runtime.files import remove_leftovers, write_atomically

_SUFFIX = ".unit"
_DIGEST_BYTES = 16
_TRIES = ".tries"
_TOKEN = "token"


class Staging:
    """Results by key, in a folder or below a URL that fsspec reads, for instance s3://bucket/staging.

    Raises ConfigError for a URL whose package is not installed.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._store: Any = None
        if "://" in place:
            self._store, self._folder = _remote(place)
        else:
            self._folder = place

    def begin(self) -> str:
        """Make the place where there is none; returns a token by which others see that theirs is the same."""
        token = secrets.token_hex(8)
        try:
            if self._store is None:
                Path(self._folder).mkdir(parents=True, exist_ok=True)
                remove_leftovers(Path(self._folder))
            else:
                self._store.makedirs(self._folder, exist_ok=True)
            self._write(_TOKEN, token.encode())
        except OSError:
            raise
        except Exception as error:  # each store has errors of its own
            raise DataError(f"{self.place}: cannot be written: {_short(error)}") from None
        return token

    def require(self, token: str, where: str) -> None:
        """Raise DataError unless ``begin`` gave this token to the process that asks."""
        if self._read(_TOKEN) != token.encode():
            raise DataError(
                f"{where} does not see what this machine writes to {self.place}; give a folder that all machines share "
                "at the same path, or a URL as s3://bucket/staging (--staging)"
            )

    def keys(self) -> set[str]:
        """Keys of the results that are there."""
        return {name.removesuffix(_SUFFIX) for name in self._names() if name.endswith(_SUFFIX)}

    def put(self, key: str, data: bytes) -> None:
        self._write(f"{key}{_SUFFIX}", data + _digest(data))

    def get(self, key: str) -> bytes | None:
        """A result; None if there is none, or not all of it."""
        found = self._read(f"{key}{_SUFFIX}")
        if found is None or _digest(found[:-_DIGEST_BYTES]) != found[-_DIGEST_BYTES:]:
            return None
        return found[:-_DIGEST_BYTES]

    def count_try(self, key: str, token: str, most: int) -> None:
        """Count that a process begins with a unit. Raises DataError if ``most`` have, and did not come to its end."""
        name = f"{key}-{token}{_TRIES}"
        before = len(self._read(name) or b"")
        if before >= most:
            raise DataError(
                f"unit {key}: the processes that computed it died {before} times; where memory was short, give each "
                "more processors (--worker-cpus), so that a machine has fewer, or a smaller store.batch_size"
            )
        self._write(name, b"x" * (before + 1))

    def forget_tries(self, key: str, token: str) -> None:
        self._remove(f"{key}-{token}{_TRIES}")

    def delete(self, key: str) -> None:
        self._remove(f"{key}{_SUFFIX}")

    def end(self) -> None:
        """Delete what a job that ended left, results of other units before a kill among it."""
        for name in self._names():
            if name.endswith((_SUFFIX, _TRIES)):
                self._remove(name)
        self._remove(_TOKEN)
        if self._store is None:
            remove_leftovers(Path(self._folder))
            with suppress(OSError):  # something of the user's lies there too
                Path(self._folder).rmdir()

    def _names(self) -> list[str]:
        if self._store is None:
            return [path.name for path in Path(self._folder).glob("*")]
        self._store.invalidate_cache()
        return [str(name).rsplit("/", 1)[-1] for name in self._store.ls(self._folder, detail=False)]

    def _write(self, name: str, data: bytes) -> None:
        if self._store is None:
            write_atomically(Path(self._folder) / name, data)
        else:
            self._store.pipe_file(f"{self._folder}/{name}", data)

    def _read(self, name: str) -> bytes | None:
        try:
            if self._store is None:
                return (Path(self._folder) / name).read_bytes()
            return bytes(self._store.cat_file(f"{self._folder}/{name}"))
        except FileNotFoundError:
            return None

    def _remove(self, name: str) -> None:
        try:
            if self._store is None:
                (Path(self._folder) / name).unlink(missing_ok=True)
            else:
                self._store.rm_file(f"{self._folder}/{name}")
        except FileNotFoundError:
            return


def _remote(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        store, folder = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"--staging {url}: {_short(error)}; for s3:// pip install s3fs") from None
    return store, str(folder).rstrip("/")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _short(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
