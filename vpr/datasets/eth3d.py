"""ETH3D's undistorted images with depth, in the folders that SOLD2 and Glue Factory published.

Below the root a folder per scene, with ``images/dslr_images_undistorted/*.JPG``,
``ground_truth_depth/undistorted_depth/NAME.png`` (16 bits, 1/256 m, an eighth of the images' size; 0 is unknown), and
COLMAP's ``cameras.txt`` and ``images.txt`` in ``dslr_calibration_undistorted``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from vpr.core import DataError, Doubles, Floats
from vpr.datasets.posed_views import PosedView
from vpr.runtime.files import require_file

IMAGES, DEPTHS, CALIBRATION = (
    "images/dslr_images_undistorted",
    "ground_truth_depth/undistorted_depth",
    "dslr_calibration_undistorted",
)
MIN_SHARED = 500  # points of the reconstruction that both images of a pair see
UNIT_M = 1 / 256


@dataclass(frozen=True, eq=False)
class DepthPair:
    """Two images of a scene with depth and cameras."""

    scene: str
    first: PosedView
    second: PosedView


def read_eth3d(root: Path, min_shared: int = MIN_SHARED) -> list[DepthPair]:
    """Pairs of all scenes below ``root``, or of the one that it is, that see enough points of it in common."""
    folders = [root, *sorted(root.iterdir())] if root.is_dir() else []
    scenes = [folder for folder in folders if (folder / CALIBRATION).is_dir()]
    if not scenes:
        raise DataError(f"{root}: no scene of ETH3D, which has a folder {CALIBRATION}; give the folder of the scenes")
    pairs = [pair for scene in scenes for pair in _pairs(scene, min_shared)]
    if not pairs:
        raise DataError(f"{root}: no two images of a scene share {min_shared} points of images.txt")
    return pairs


def read_eth3d_depth(path: Path) -> Floats:
    """(H, W) metres along the optical axis; 0 where it is not known."""
    depth = cv2.imread(str(require_file(path)), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
        raise DataError(f"{path}: no depth of ETH3D, a grey png of 16 bits")
    return depth.astype(np.float32) * np.float32(UNIT_M)


def _pairs(scene: Path, min_shared: int) -> list[DepthPair]:
    cameras = _cameras(scene / CALIBRATION / "cameras.txt")
    views, seen = _views(scene, cameras)
    names = sorted(views)
    return [
        DepthPair(scene.name, views[one], views[other])
        for one, other in combinations(names, 2)
        if len(seen[one] & seen[other]) >= min_shared
    ]


def _cameras(path: Path) -> dict[str, Doubles]:
    """Intrinsics (3, 3) by id; COLMAP's origin is the corner of the top-left pixel, ours its centre."""
    cameras = {}
    for line in _lines(path):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 8 or fields[1] != "PINHOLE":
            raise DataError(
                f"{path}: {line[:60]!r} is no camera of the kind PINHOLE: id, PINHOLE, size, fx, fy, cx, cy"
            )
        fx, fy, cx, cy = _numbers(fields[4:], path)
        cameras[fields[0]] = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    return cameras


def _views(scene: Path, cameras: dict[str, Doubles]) -> tuple[dict[str, PosedView], dict[str, set[str]]]:
    """By the file name: views, and the points that they see."""
    path = scene / CALIBRATION / "images.txt"
    lines = _lines(path)
    views, seen = {}, {}
    for about, points in zip(lines[::2], [*lines[1::2], ""], strict=False):
        fields = about.split()
        if len(fields) != 10 or fields[8] not in cameras:
            raise DataError(
                f"{path}: {about[:60]!r} is no image: id, rotation, translation, camera of cameras.txt, name"
            )
        name = PurePosixPath(fields[9]).name
        pose = np.eye(4)
        w, x, y, z, *translation = _numbers(fields[1:8], path)
        pose[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
        pose[:3, 3] = translation
        depth = scene / DEPTHS / PurePosixPath(name).with_suffix(".png").name
        views[name] = PosedView(scene / IMAGES / name, depth, cameras[fields[8]], pose)
        seen[name] = set(points.split()[2::3]) - {"-1"}
    return views, seen


def _lines(path: Path) -> list[str]:
    try:
        text = require_file(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; COLMAP's text files lie there") from None
    lines = [line for line in text.split("\n") if not line.startswith("#")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _numbers(fields: list[str], path: Path) -> list[float]:
    try:
        numbers = [float(each) for each in fields]
    except ValueError:
        numbers = [np.nan]
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: {' '.join(fields)[:60]!r} are no numbers")
    return numbers
