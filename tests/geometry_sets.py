"""Small sets of pictures in the layouts of the geometry benchmarks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from conftest import textured, write_picture

from vpr.core import Doubles, Image
from vpr.datasets.pose_pairs import PosePair, read_pose_folder

# Pixels of the first picture to pixels of the second; far enough from the identity to notice an inversion.
WARP = np.array([[1.05, 0.08, -12.0], [-0.06, 0.97, 9.0], [1e-4, -5e-5, 1.0]])


def warped(image: Image, homography: Doubles = WARP) -> Image:
    height, width = image.shape[:2]
    return np.asarray(cv2.warpPerspective(image, homography, (width, height), flags=cv2.INTER_CUBIC), dtype=np.uint8)


def write_hpatches(
    root: Path, names: tuple[str, ...] = ("i_dark", "v_wall"), size: tuple[int, int] = (400, 300)
) -> None:
    """Sequences of six pictures; those of illumination get darker, those of viewpoint are warped ever more."""
    for number, name in enumerate(names):
        first = textured(number, size[1], size[0])
        write_picture(root / name / "1.ppm", first)
        for k in range(2, 7):
            share = (k - 1) / 5 if name.startswith("v_") else 0.0
            homography = np.eye(3) * (1 - share) + WARP * share
            shown = (warped(first, homography) * (1 - 0.1 * (k - 1) * name.startswith("i_"))).astype(np.uint8)
            write_picture(root / name / f"{k}.ppm", shown)
            (root / name / f"H_1_{k}").write_text("\n".join(" ".join(map(repr, row)) for row in homography.tolist()))


def write_homography_folder(root: Path, pairs: int = 3, size: tuple[int, int] = (400, 300)) -> None:
    header = "image_a,image_b," + ",".join(f"h{i}{j}" for i in range(3) for j in range(3))
    lines = [header]
    for i in range(pairs):
        image = textured(20 + i, size[1], size[0])
        write_picture(root / f"{i}a.png", image)
        write_picture(root / f"{i}b.png", warped(image))
        lines.append(f"{i}a.png,{i}b.png," + ",".join(map(repr, WARP.ravel().tolist())))
    (root / "homographies.csv").write_text("\n".join(lines) + "\n")


def pair_list(city: Path, fields: int) -> str:
    """The pairs of a demo city as SuperGlue (38 fields) or Glue Factory (32 or 36) write them."""
    return "".join(_line(city, pair, fields) for pair in read_pose_folder(city))


def _line(city: Path, pair: PosePair, fields: int) -> str:
    names = [str(path.relative_to(city)) for path in (pair.first, pair.second)]
    numbers = [*pair.first_intrinsics.ravel(), *pair.second_intrinsics.ravel()]
    if fields == 32:
        numbers += [*pair.rotation.ravel(), *pair.translation]
    else:
        pose = np.vstack([np.column_stack([pair.rotation, pair.translation]), [0, 0, 0, 1]])
        numbers += [*pose.ravel()]
    turns = ["0", "0"] if fields == 38 else []
    return " ".join([*names, *turns, *(repr(float(number)) for number in numbers)]) + "\n"
