"""Splits of a folder's images: ``train.txt`` and ``val.txt`` name those for training and for validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vpr.core import DataError


def read_split(path: Path, names: Sequence[str]) -> list[int]:
    """Rows of the images that a list names, in the order of ``names``.

    A line is the name of an image, with or without its suffix and the folders above it, or that of a folder, which
    means every image below it. Raises DataError for a list that cannot be read, is empty, or names what is not there.
    """
    lines = _lines(path)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        for known in _known_as(name):
            rows.setdefault(known, []).append(row)
    unknown = [line for line in lines if line not in rows]
    if unknown:
        raise DataError(f"{path}: names {unknown[0]!r}, which is not among the {len(names)} images")
    chosen = sorted({row for line in lines for row in rows[line]})
    if not chosen:
        raise DataError(f"{path}: names no image")
    return chosen


def _known_as(name: str) -> set[str]:
    """What a line of a list may call an image."""
    path = PurePosixPath(name)
    folders = {str(folder) for folder in path.parents} - {"."}
    return {name, str(path.with_suffix("")), path.name, path.stem, *folders}


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list of names: {error}") from None
    return [str(PurePosixPath(line.strip().replace("\\", "/"))) for line in lines if line.strip()]
