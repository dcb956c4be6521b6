"""Rows of images by the names that files of other programs use: with or without folders in front."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from vpr.core import NO_ROW, ImageSet, usable_name


class NameFinder:
    """Rows of an image set by its names, by names with some folders of the set's root in front, or by absolute paths.

    All names of one file have the same number of folders in front, so a name has one meaning only.
    """

    def __init__(self, images: ImageSet) -> None:
        self._rows = {usable_name(name): row for row, name in enumerate(images.names)}
        self._above = Path(os.path.abspath(images.root)).parts

    def rows(self, names: Sequence[str]) -> list[int]:
        """The row of each name, NO_ROW for one that is not an image of the set."""
        keys = [_normal(name) for name in names]
        best, most = [NO_ROW] * len(keys), 0
        for depth in range(len(self._above) + 1):
            rows = self._with_front(keys, depth)
            found = len(rows) - rows.count(NO_ROW)
            if found > most:
                best, most = rows, found
            if most == len(rows):
                break
        return best

    def _with_front(self, keys: Sequence[str], depth: int) -> list[int]:
        """The rows, if the last ``depth`` folders of the root stand before each name."""
        front = "" if depth == 0 else posixpath.join(*self._above[-depth:]).rstrip("/") + "/"
        return [self._rows.get(key[len(front) :], NO_ROW) if key.startswith(front) else NO_ROW for key in keys]


def _normal(name: str) -> str:
    """Without ``./`` and doubled slashes; what begins with ``../`` is meant from the working directory."""
    path = posixpath.normpath(name)
    return os.path.abspath(path) if path.startswith("../") else path
