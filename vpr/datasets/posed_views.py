"""Images with depth and camera, scene by scene: the demo city, MegaDepth as Glue Factory has it, ScanNet.

To learn matching from; see vpr.training.pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import cv2
import numpy as np

from vpr.core import DataError, Doubles, Floats
from vpr.datasets.pickled_arrays import read_array
from vpr.demo_city.records import depth_path, read_depth, read_shots
from vpr.runtime.files import require_file


@dataclass(frozen=True, eq=False)
class PosedView:
    """One image of a scene."""

    image: Path
    depth: Path
    matrix: Doubles  # (3, 3) intrinsics of the image as it is stored
    world_to_camera: Doubles  # (4, 4)

    @property
    def centre(self) -> Doubles:
        """(3,) where the camera stands."""
        return np.asarray(-self.world_to_camera[:3, :3].T @ self.world_to_camera[:3, 3])

    @property
    def direction(self) -> Doubles:
        """(3,) unit vector along the optical axis."""
        return np.asarray(self.world_to_camera[2, :3])


@dataclass(frozen=True, eq=False)
class PosedScene:
    """Views of one scene in one system of coordinates."""

    name: str
    views: Sequence[PosedView]
    read_depth: Callable[[Path], Floats]  # (H, W) along the optical axis; 0 where unknown, infinite for sky
    overlap: Doubles | None = None  # (V, V) share of a view's points that another shows, where that is known


def read_city(root: Path) -> list[PosedScene]:
    """A demo city, rendered with depth, as one scene."""
    shots = read_shots(root)
    views = [
        PosedView(root / shot.role / shot.name, depth_path(root, shot), shot.camera.matrix, shot.camera.world_to_camera)
        for shot in shots
    ]
    if not views[0].depth.exists():
        raise DataError(
            f"{root}: was rendered without depth; run `vpr demo-city` with --with-depth into another folder"
        )
    return [PosedScene(root.name, views, read_depth)]


def read_megadepth(root: Path) -> list[PosedScene]:
    """MegaDepth: ``scene_info/*.npz`` with the images, depths, intrinsics, poses and overlaps of each scene.

    Images that the npz has no path for are left out. Depth files are HDF5 (the extra ``hdf5``).
    """
    tables = sorted((root / "scene_info").glob("*.npz"))
    if not tables:
        raise DataError(f"{root}: no scene_info/*.npz; give the folder that Glue Factory calls megadepth")
    return [_megadepth_scene(root, path) for path in tables]


def _megadepth_scene(root: Path, path: Path) -> PosedScene:
    try:
        info = _read_npz(path, ("image_paths", "depth_paths", "intrinsics", "poses", "overlap_matrix"))
    except (OSError, KeyError, ValueError, UnpicklingError, BadZipFile) as error:
        raise DataError(f"{path}: not a scene of MegaDepth: {error}") from None
    kept = [row for row, name in enumerate(info["image_paths"]) if name and info["depth_paths"][row]]
    views = [
        PosedView(
            root / str(info["image_paths"][row]),
            root / str(info["depth_paths"][row]),
            np.asarray(info["intrinsics"][row], np.float64),
            np.asarray(info["poses"][row], np.float64),
        )
        for row in kept
    ]
    overlap = np.asarray(info["overlap_matrix"], np.float64)[np.ix_(kept, kept)]
    return PosedScene(path.stem.removesuffix(".0"), views, read_hdf5_depth, overlap)  # D2-Net's files are 0001.0.npz


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, Any]:
    arrays = {}
    with ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as file:
                arrays[name] = read_array(file)
    return arrays


def read_hdf5_depth(path: Path) -> Floats:
    """(H, W) of the dataset ``depth`` of a file of MegaDepth."""
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path}: reading HDF5 needs h5py; pip install 'vpr[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file["depth"], np.float32)
    except (OSError, KeyError) as error:
        raise DataError(f"{path}: no depth of MegaDepth: {error}") from None


def read_scannet(root: Path) -> list[PosedScene]:
    """ScanNet as its exporter writes it: a folder per scene with ``color``, ``depth``, ``pose`` and ``intrinsic``.

    Depth is in 16-bit millimetres, poses are camera to world; frames without a finite pose are left out.
    """
    scenes = (
        [_scannet_scene(folder) for folder in sorted(root.iterdir()) if (folder / "color").is_dir()]
        if root.is_dir()
        else []
    )
    if not scenes:
        raise DataError(f"{root}: holds no scene of ScanNet (a folder with color/, depth/, pose/ and intrinsic/)")
    return scenes


def _scannet_scene(folder: Path) -> PosedScene:
    matrix = _numbers(folder / "intrinsic" / "intrinsic_color.txt")[:3, :3]
    views = []
    for image in sorted((folder / "color").glob("*.jpg"), key=lambda path: (len(path.stem), path.stem)):
        pose = _numbers(folder / "pose" / f"{image.stem}.txt")
        if np.isfinite(pose).all():
            views.append(PosedView(image, folder / "depth" / f"{image.stem}.png", matrix, _inverse(pose)))
    return PosedScene(folder.name, views, read_millimetres)


def _inverse(pose: Doubles) -> Doubles:
    return np.asarray(np.linalg.inv(pose), np.float64)


def read_millimetres(path: Path) -> Floats:
    """(H, W) metres of a 16-bit image in millimetres."""
    steps = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if steps is None or steps.dtype != np.uint16 or steps.ndim != 2:
        raise DataError(f"{path}: not a 16-bit depth image")
    return np.asarray(steps / 1000, np.float32)


def _numbers(path: Path) -> Doubles:
    try:
        matrix = np.loadtxt(require_file(path), ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a matrix: {error}") from None
    if matrix.shape != (4, 4):
        raise DataError(f"{path}: a {matrix.shape} matrix, expected 4 x 4")
    return matrix


POSED_SCENES: dict[str, Callable[[Path], list[PosedScene]]] = {
    "demo_city": read_city,
    "megadepth": read_megadepth,
    "scannet": read_scannet,
}
