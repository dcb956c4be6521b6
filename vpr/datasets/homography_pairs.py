"""Pairs of images that a known homography relates: HPatches, and a plain folder with a table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpr.core import DataError, Doubles
from vpr.datasets.tables import finite, name_at, read_table
from vpr.images import SUFFIXES
from vpr.runtime.files import require_file

TABLE = "homographies.csv"
PARTS = {"i": "illumination", "v": "viewpoint"}
# Of 116 sequences, those whose images are so large that D2-Net and Glue Factory leave them out: 108 stay, 540 pairs.
LARGE = ("i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding", "v_artisans", "v_astronautis",
         "v_talent")  # fmt: skip
_SEQUENCE = re.compile(r"[iv]_.+")


@dataclass(frozen=True, eq=False)
class HomographyPair:
    """Two images, and the homography from pixels of the first to pixels of the second."""

    first: Path
    second: Path
    homography: Doubles  # (3, 3)
    part: str  # of the data set; results are given for each part too

    @property
    def name(self) -> str:
        return f"{self.first.parent.name}/{self.first.stem} {self.second.stem}"


def read_hpatches(root: Path, *, large: bool = True) -> list[HomographyPair]:
    """Pairs (1, k) of every sequence ``i_*`` and ``v_*`` with images 1 to 6 and files H_1_k.

    Balntas et al., CVPR 2017 (HPatches, full sequences). Without ``large``, eight sequences are left out.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected HPatches' sequences, folders named i_* and v_*")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and _SEQUENCE.fullmatch(path.name))
    if not folders:
        raise DataError(f"{root}: holds no folder named i_* or v_*; give the folder of HPatches' full sequences")
    chosen = [folder for folder in folders if large or folder.name not in LARGE]
    return [pair for folder in chosen for pair in _sequence(folder)]


def read_homography_folder(root: Path) -> list[HomographyPair]:
    """Pairs listed in ``homographies.csv``: image_a, image_b and h00 to h22, row by row, which map a to b."""
    table = read_table(root / TABLE)
    entries = np.stack([table.numbers(f"h{row}{column}") for row in range(3) for column in range(3)], axis=1)
    pairs = []
    names = zip(table.column("image_a"), table.column("image_b"), table.lines, strict=True)
    for (first, second, line), numbers in zip(names, entries, strict=True):
        where = f"{table.path}, line {line}"
        matrix = _invertible(numbers.reshape(3, 3), where)
        pairs.append(HomographyPair(root / name_at(first, where), root / name_at(second, where), matrix, root.name))
    if not pairs:
        raise DataError(f"{table.path}: lists no pair")
    return pairs


def _sequence(folder: Path) -> list[HomographyPair]:
    first = _picture(folder, 1)
    part = PARTS[folder.name[0]]
    return [HomographyPair(first, _picture(folder, k), _matrix(folder / f"H_1_{k}"), part) for k in range(2, 7)]


def _picture(folder: Path, number: int) -> Path:
    for suffix in (".ppm", *SUFFIXES):
        path = folder / f"{number}{suffix}"
        if path.exists():
            return path
    raise DataError(f"{folder}: no image {number}.ppm; a sequence of HPatches has images 1 to 6")


def _matrix(path: Path) -> Doubles:
    try:
        words = require_file(path).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it holds the homography from image 1") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not a text file: {error}") from None
    if len(words) != 9:
        raise DataError(f"{path}: {len(words)} numbers; expected the nine of a homography")
    return _invertible(np.array([finite(word, str(path)) for word in words]).reshape(3, 3), str(path))


def _invertible(matrix: Doubles, where: str) -> Doubles:
    if np.linalg.matrix_rank(matrix / max(np.abs(matrix).max(), 1e-300), tol=1e-12) < 3:
        raise DataError(f"{where}: the homography cannot be inverted")
    return matrix
