"""Readers of a map: any number of threads and processes, each asking one committed state at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpr.core import DataError
from vpr.maps.manifest import Manifest
from vpr.maps.snapshot import Snapshot, open_snapshot

_TRIES = 3  # at a state whose segments are deleted by a compaction while they are opened


class MapReader:
    """Connections to the manifest, lent to one thread at a time, and the segments that are open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._idle: queue.LifoQueue[Manifest] = queue.LifoQueue()
        self._snapshot: Snapshot | None = None
        self._opening = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[tuple[Manifest, Snapshot]]:
        """The latest committed state; both see it, whatever is committed meanwhile."""
        try:
            manifest = self._idle.get_nowait()
        except queue.Empty:
            manifest = Manifest(self.folder)
        try:
            for attempt in range(_TRIES):
                with manifest.reading():
                    try:
                        snapshot = self._current(manifest)
                    except DataError:
                        if attempt == _TRIES - 1 or not self._has_moved(manifest):
                            raise
                        continue
                    yield manifest, snapshot
                    break
        finally:
            self._idle.put(manifest)

    def close(self) -> None:
        """Close what no thread is using."""
        with self._opening:
            self._snapshot = None
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def _current(self, manifest: Manifest) -> Snapshot:
        with self._opening:
            held = self._snapshot
            version = manifest.version
            if held is not None and held.version == version:
                return held
            snapshot = open_snapshot(self.folder, manifest, held)
            if held is None or version > held.version:  # another thread's transaction may be older
                self._snapshot = snapshot
            return snapshot

    def _has_moved(self, manifest: Manifest) -> bool:
        """Whether something was committed since the transaction of this manifest began."""
        other = Manifest(self.folder)
        try:
            return other.version != manifest.version
        finally:
            other.close()
