"""Test pairs of YFCC100M and ScanNet as IMP and SGMNet read them from the raw data.

Chen et al., ICCV 2021 (SGMNet); Xue, Budvytis and Cipolla, CVPR 2023 (IMP); the YFCC100M pairs are those of OANet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vpr.core import DataError, Doubles
from vpr.datasets.pickled_arrays import OnlyArrays
from vpr.datasets.pose_pairs import PosePair, checked_pair
from vpr.datasets.tables import name_at
from vpr.runtime.files import require_file

PAIRS = "-te-1000-pairs.pkl"


def read_yfcc_raw(root: Path) -> list[PosePair]:
    """The pairs of ``root/pairs/SEQUENCE-te-1000-pairs.pkl``.

    Images are those of ``root/yfcc100m/SEQUENCE/test/images.txt``, and their cameras (HDF5: K, R, T, imsize) those of
    ``calibration.txt`` there. The principal point is the centre of the image, as in the published evaluation.
    """
    files = sorted((root / "pairs").glob(f"*{PAIRS}"))
    if not files:
        raise DataError(f"{root}: no pairs/*{PAIRS}; give the folder with pairs/ and yfcc100m/")
    return [pair for path in files for pair in _sequence(root, path)]


def _sequence(root: Path, path: Path) -> list[PosePair]:
    name = path.name.removesuffix(PAIRS)
    folder = root / "yfcc100m" / name / "test"
    images, cameras = (_lines(folder / each) for each in ("images.txt", "calibration.txt"))
    if len(images) != len(cameras):
        raise DataError(f"{folder}: images.txt has {len(images)} lines and calibration.txt {len(cameras)}")
    found = []
    read: dict[int, tuple[Doubles, Doubles, Doubles]] = {}
    for number, (one, other) in enumerate(_pairs_of(path, len(images))):
        for row in {one, other} - set(read):
            read[row] = _camera(folder / cameras[row])
        (K1, R1, t1), (K2, R2, t2) = read[one], read[other]
        rotation = R2 @ R1.T
        pair = PosePair(folder / images[one], folder / images[other], K1, K2, rotation, t2 - rotation @ t1, name)
        found.append(checked_pair(pair, f"{path}, pair {number}"))
    return found


def _pairs_of(path: Path, images: int) -> list[tuple[int, int]]:
    try:
        with require_file(path).open("rb") as file:
            rows = np.array([list(pair)[:2] for pair in OnlyArrays(file).load()])
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path}: not a list of pairs: {error}") from None
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or not ((rows >= 0) & (rows < images)).all():
        raise DataError(f"{path}: holds no pairs of two of the {images} images")
    return [(int(one), int(other)) for one, other in rows]


def _camera(path: Path) -> tuple[Doubles, Doubles, Doubles]:
    """Intrinsics, rotation and translation, world to camera."""
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path}: reading HDF5 needs h5py; pip install 'vpr[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            arrays = [np.asarray(file[key], np.float64) for key in ("K", "R", "T", "imsize")]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no camera of YFCC100M: {error}") from None
    K, R, T, size = arrays[0], arrays[1], arrays[2].reshape(-1), arrays[3].reshape(-1)
    if K.shape != (3, 3) or R.shape != (3, 3) or T.shape != (3,) or size.shape != (2,):
        raise DataError(f"{path}: K, R, T and imsize have other shapes than (3, 3), (3, 3), 3 and 2")
    if not all(np.isfinite(each).all() for each in arrays):
        raise DataError(f"{path}: holds numbers that are not finite")
    K[:2, 2] = (size - 1) / 2
    return K, R, T


def read_scannet_raw(path: Path, root: Path) -> list[PosePair]:
    """The pairs of a list, two names a line (``scene0707_00/img/15.jpg``), with images and cameras below ``root``.

    Beside ``img`` a scene has ``extrinsic/15.txt``, camera to world (4, 4), and ``intrinsic/15.txt``.
    """
    found = []
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        names = line.split()
        if len(names) != 2:
            raise DataError(f"{where}: {len(names)} fields; expected the names of two images")
        images = [root / name_at(name, where) for name in names]
        to_world, matrices = (
            [_matrix(each.parent.parent / kind / f"{each.stem}.txt") for each in images]
            for kind in ("extrinsic", "intrinsic")
        )
        if any(each.shape != (4, 4) for each in to_world):
            raise DataError(f"{where}: an extrinsic matrix is not 4 x 4")
        try:
            relative = np.linalg.inv(to_world[1]) @ to_world[0]
        except np.linalg.LinAlgError:
            raise DataError(f"{where}: the extrinsic matrix of {names[1]} has no inverse") from None
        K1, K2 = (each[:3, :3] for each in matrices)
        pair = PosePair(images[0], images[1], K1, K2, relative[:3, :3], relative[:3, 3], "all")
        found.append(checked_pair(pair, where))
    return found


def _matrix(path: Path) -> Doubles:
    try:
        matrix = np.loadtxt(require_file(path), ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a matrix: {error}") from None
    if matrix.shape not in ((3, 3), (4, 4)) or not np.isfinite(matrix).all():
        raise DataError(f"{path}: not a finite matrix of 3 x 3 or 4 x 4")
    return matrix


def _lines(path: Path) -> list[Any]:
    try:
        lines = [line.strip() for line in require_file(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list: {error}") from None
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path}: empty")
    return lines
