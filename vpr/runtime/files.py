"""Writing files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import glob
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpr.core import DataError

TEMPORARY = ".tmp"  # suffix of a file that is still being written; leftovers of a killed run may be deleted


def write_atomically(path: Path, data: bytes | str | Iterable[str]) -> None:
    """Write under a temporary name in the same folder, flush to disk, then rename.

    Pieces of text are written as they come, so a long file never lies in memory. An OSError names ``path``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                for piece in [data] if isinstance(data, str) else data:
                    file.write(piece.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # the system names no file where a disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def require_file(path: Path) -> Path:
    """The path of a file that may be read to its end; raises OSError for a pipe, socket or device, which has none.

    What a shell passes as /dev/stdin or /dev/fd/63 is read. A path that does not exist is left to whoever opens it.
    """
    named_by_shell = path.is_relative_to("/dev/fd") or path.is_relative_to("/proc") or path == Path("/dev/stdin")
    if path.exists() and not (path.is_file() or path.is_dir() or named_by_shell):
        raise OSError("a pipe, socket or device, not a file")
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, for libraries that open files themselves; renamed to ``path`` if no error came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Delete the temporary files that a killed run left in the folder, of all files or of the one of this name."""
    for leftover in folder.glob(f".{glob.escape(name)}.*{TEMPORARY}" if name else f".*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[bool]:
    """Hold a lock on a file while the block runs; False, without waiting, where another process holds it.

    The kernel releases it when the process ends, even after kill -9. Where the system has no such locks (Windows), the
    block runs without one.
    """
    with path.open("a") as lock:
        try:
            import fcntl
        except ImportError:
            yield True
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    write_atomically(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """A compressed npz file, and the folders above it."""
    import numpy as np

    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def claim(folder: Path, name: str, made_by: Any) -> None:
    """Write into a folder, as the json file ``name``, what makes its files. Raises DataError where others lie there."""
    path = folder / name
    if path.exists():
        if read_json(path) != made_by:
            raise DataError(
                f"{folder}: made with other arguments or other settings; ask for the same, or choose another folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: holds something else; choose a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, made_by)


def shipped(folder: str) -> Path:
    """A folder that comes with vpr: at the top of a checkout, inside the package once installed."""
    inside = Path(__file__).parents[1] / folder
    return inside if inside.is_dir() else Path(__file__).parents[2] / folder
