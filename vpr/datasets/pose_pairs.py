"""Pairs of images with a known relative pose: the lists of SuperGlue and Glue Factory, and folders with poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpr.core import DataError, Doubles
from vpr.datasets.tables import Table, finite, name_at, read_table
from vpr.demo_city.records import CAMERAS, read_shots
from vpr.runtime.files import require_file

POSES = "poses.csv"
STEPS = (1, 2, 5)


@dataclass(frozen=True, eq=False)
class PosePair:
    """Two images: a point X in the first camera's frame is R X + t in the second's, up to the length of t."""

    first: Path
    second: Path
    first_intrinsics: Doubles  # (3, 3) of the image as it is stored
    second_intrinsics: Doubles
    rotation: Doubles  # (3, 3)
    translation: Doubles  # (3,)
    part: str  # of the data set; results are given for each part too
    turns: tuple[int, int] = (0, 0)  # quarter turns, counter-clockwise, that put each stored image upright

    @property
    def name(self) -> str:
        return f"{self.first.parent.name}/{self.first.name} {self.second.parent.name}/{self.second.name}"


def read_pair_list(path: Path, root: Path) -> list[PosePair]:
    """One pair per line, fields between spaces; see _pair_of_line. Names are relative to ``root``.

    The lists of ScanNet and YFCC that come with SuperGlue, and Glue Factory's ``pairs_calibrated.txt`` of MegaDepth-
    1500 and ScanNet-1500.
    """
    try:
        lines = require_file(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it lists the pairs with intrinsics and poses") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not a text file: {error}") from None
    numbered = [(line.split(), f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: lists no pair")
    return [_pair_of_line(fields, root, where) for fields, where in numbered]


def _pair_of_line(fields: Sequence[str], root: Path, where: str) -> PosePair:
    """Names, then the pose from first to second after both intrinsics.

    | fields | after the two names |
    | --- | --- |
    | 38 | quarter turns of both, K of both, 4 x 4 pose (SuperGlue) |
    | 36 | K of both, 4 x 4 pose |
    | 32 | K of both, 3 x 3 rotation, translation (Glue Factory) |
    """
    if len(fields) not in (32, 36, 38):
        raise DataError(
            f"{where}: {len(fields)} fields; expected 38 (SuperGlue), or 32 or 36 (Glue Factory): two names, "
            "[two rotations,] nine numbers of each camera, and the pose"
        )
    names, words = fields[:2], fields[2:]
    turns = (0, 0)
    if len(fields) == 38:
        turns = (turn(words[0], where), turn(words[1], where))
        words = words[2:]
    numbers = np.array([finite(word, where) for word in words])
    first, second, pose = numbers[:9].reshape(3, 3), numbers[9:18].reshape(3, 3), numbers[18:]
    if len(pose) == 16:
        rotation, translation = pose.reshape(4, 4)[:3, :3], pose.reshape(4, 4)[:3, 3]
    else:
        rotation, translation = pose[:9].reshape(3, 3), pose[9:]
    paths = [root / name_at(name, where) for name in names]
    return checked_pair(PosePair(paths[0], paths[1], first, second, rotation, translation, "all", turns), where)


def read_pose_folder(root: Path, steps: Sequence[int] = STEPS) -> list[PosePair]:
    """A folder of one of two kinds.

    With ``poses.csv``: one row per image of a sequence, image and p0 to p11, the camera-to-world matrix (3, 4) row by
    row; intrinsics in columns fx, fy, cx, cy, or in a ``calib*.txt`` whose first line is the projection matrix (3, 4).
    The pairs are all images that many ``steps`` of rows apart. With ``cameras.csv``, a demo city: every query with
    the database images of its place that look the same way, up to 45 degrees.
    """
    if (root / CAMERAS).exists() and not (root / POSES).exists():
        return _demo_city(root)
    table = read_table(root / POSES)
    matrices = np.stack([table.numbers(f"p{i}") for i in range(12)], axis=1).reshape(-1, 3, 4)
    intrinsics = _intrinsics(root, table)
    paths = [
        root / name_at(name, f"{table.path}, line {line}")
        for name, line in zip(table.column("image"), table.lines, strict=True)
    ]
    pairs = []
    for step in steps:
        for i in range(len(paths) - step):
            j = i + step
            rotation, translation = _relative(matrices[i], matrices[j])
            part = f"{step} apart"
            pair = PosePair(paths[i], paths[j], intrinsics[i], intrinsics[j], rotation, translation, part)
            pairs.append(checked_pair(pair, f"{table.path}, line {table.lines[j]}"))
    if not pairs:
        raise DataError(f"{table.path}: {len(paths)} images make no pair {', '.join(map(str, steps))} rows apart")
    return pairs


def _demo_city(root: Path) -> list[PosePair]:
    pairs = []
    shots = read_shots(root)
    for query in (shot for shot in shots if shot.role == "queries"):
        for shot in (shot for shot in shots if shot.role == "database" and shot.place == query.place):
            relative = shot.camera.world_to_camera @ np.linalg.inv(query.camera.world_to_camera)
            if relative[2, 2] < np.cos(np.radians(45)):  # between the optical axes
                continue
            pairs.append(
                PosePair(
                    root / query.role / query.name,
                    root / shot.role / shot.name,
                    query.camera.matrix,
                    shot.camera.matrix,
                    relative[:3, :3],
                    relative[:3, 3],
                    query.light,
                )
            )
    if not pairs:
        raise DataError(f"{root / CAMERAS}: no query looks where a database image of its place looks")
    return pairs


def _intrinsics(root: Path, table: Table) -> list[Doubles]:
    """One matrix per row of the table."""
    if "fx" in table.columns:
        columns = (table.numbers(name) for name in ("fx", "fy", "cx", "cy"))
        return [np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) for fx, fy, cx, cy in zip(*columns, strict=True)]
    found = sorted(root.glob("calib*.txt"))
    if not found:
        raise DataError(
            f"{root}: no intrinsics; give columns fx, fy, cx, cy in {POSES}, or a calib.txt with a projection matrix"
        )
    words = (found[0].read_text(encoding="utf-8").splitlines() or [""])[0].split()
    words = words[1:] if words and words[0].endswith(":") else words  # KITTI begins the line with "P0:"
    if len(words) != 12:
        raise DataError(f"{found[0]}, line 1: {len(words)} numbers; expected the twelve of a projection matrix")
    matrix = np.array([finite(word, f"{found[0]}, line 1") for word in words]).reshape(3, 4)
    return [matrix[:, :3]] * len(table)


def _relative(first: Doubles, second: Doubles) -> tuple[Doubles, Doubles]:
    """From the first camera's frame to the second's; both are camera to world, (3, 4)."""
    rotation = second[:, :3].T @ first[:, :3]
    return rotation, second[:, :3].T @ (first[:, 3] - second[:, 3])


def checked_pair(pair: PosePair, where: str) -> PosePair:
    """The pair; raises DataError, which begins with ``where``, if its pose or a camera is none."""
    rotation = pair.rotation
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-2 or np.linalg.det(rotation) < 0:
        raise DataError(f"{where}: the pose's 3 x 3 part is not a rotation")
    for intrinsics in (pair.first_intrinsics, pair.second_intrinsics):
        if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
            raise DataError(f"{where}: a focal length is not positive")
    return pair


def turn(word: str, where: str) -> int:
    """The number of quarter turns that a word writes; raises DataError for anything else."""
    if word not in ("0", "1", "2", "3"):
        raise DataError(f"{where}: {word!r} is not a number of quarter turns, 0 to 3")
    return int(word)
