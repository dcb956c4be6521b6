"""Lists of image pairs to match: two names on a line, and perhaps by how much each stored image is to be turned.

Lists with intrinsics and poses (SuperGlue's 38 fields, Glue Factory's 32 and 36) are read too; these are left to
``vpr evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vpr.core import DataError, ImageSet, Rows
from vpr.datasets.pose_pairs import turn
from vpr.datasets.tables import name_at
from vpr.runtime.files import require_file

FIELDS = {2: 0, 4: 2, 32: 0, 36: 0, 38: 2}  # fields of a line, and how many of them are turns


@dataclass(frozen=True, eq=False)
class ImagePairs:
    """Pairs of images; row i of ``pairs`` and ``turns`` is pair i."""

    images: ImageSet  # every image of the list once, in the order of the list
    pairs: Rows  # (P, 2) rows of the two images
    turns: Rows  # (P, 2) quarter turns, counter-clockwise, that put the stored images upright

    def __len__(self) -> int:
        return len(self.pairs)

    def first(self, count: int | None) -> ImagePairs:
        """Returns the first ``count`` pairs, with their images; None for all."""
        if count is None or count >= len(self):
            return self
        kept = int(self.pairs[:count].max()) + 1
        images = replace(self.images, names=self.images.names[:kept])
        return ImagePairs(images, self.pairs[:count], self.turns[:count])

    def names(self, pair: int) -> tuple[str, str]:
        """Of the two images."""
        first, second = self.pairs[pair].tolist()
        return self.images.names[first], self.images.names[second]


def read_image_pairs(path: Path, root: Path) -> ImagePairs:
    """One pair per line, fields between spaces: two names relative to ``root``, and quarter turns or none.

    Lines that begin with # are comments. Raises DataError, with the line, for anything else and for a pair that is
    listed twice.
    """
    try:
        lines = require_file(path).read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such list of pairs") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list of pairs: {error}") from None
    numbered = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    if not numbered:
        raise DataError(f"{path}: lists no pair; expected two image names on every line")
    parsed = [_fields(fields, f"{path}, line {number}") for number, fields in numbered]
    _refuse_repeated(path, [number for number, _ in numbered], parsed)
    rows: dict[str, int] = {}
    pairs = [[rows.setdefault(name, len(rows)) for name in names] for names, _ in parsed]
    return ImagePairs(ImageSet(root, tuple(rows)), np.array(pairs), np.array([turns for _, turns in parsed]))


_Pair = tuple[tuple[str, str], tuple[int, int]]


def _fields(fields: Sequence[str], where: str) -> _Pair:
    if len(fields) not in FIELDS:
        raise DataError(
            f"{where}: {len(fields)} fields; expected 2 (two names), 4 (two names, and quarter turns 0 to 3 of both), "
            "or 32, 36 or 38 (with intrinsics and pose); names with spaces cannot be listed"
        )
    turns = (turn(fields[2], where), turn(fields[3], where)) if FIELDS[len(fields)] else (0, 0)
    return (name_at(fields[0], where), name_at(fields[1], where)), turns


def _refuse_repeated(path: Path, numbers: Sequence[int], pairs: Sequence[_Pair]) -> None:
    lines: dict[_Pair, int] = {}
    for number, pair in zip(numbers, pairs, strict=True):
        if pair in lines:
            raise DataError(f"{path}, line {number}: the pair of line {lines[pair]}; list every pair once")
        lines[pair] = number
