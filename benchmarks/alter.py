"""Copies of data sets whose images are altered, to be measured by benchmarks/recall.py.

    python benchmarks/alter.py DATA OUT --by turned|bonnet|letterbox|timestamp

DATA is a folder of data sets, each with database/, queries/ and ground_truth.csv. "turned" turns the queries by 90
degrees; the others alter all images: the lower 28 % black, 10 % black above and below, a date burnt into the lower
left corner.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from vpr.core import Image
from vpr.datasets.folders import folder_and_names
from vpr.images import read_image


def turned(image: Image) -> Image:
    return np.ascontiguousarray(np.rot90(image))


def bonnet(image: Image) -> Image:
    image[round(0.72 * len(image)) :] = 0
    return image


def letterbox(image: Image) -> Image:
    margin = round(0.1 * len(image))
    image[:margin] = image[len(image) - margin :] = 0
    return image


def timestamp(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = 0.03 * height / 22  # letters of 3 % of the height
    place = (round(0.02 * width), height - round(0.03 * height))
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        weight = max(1, round(thickness * scale * 1.5))
        cv2.putText(image, "2024-05-17 14:03:22 CAM 01", place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight)
    return image


ALTERATIONS: dict[str, Callable[[Image], Image]] = {
    each.__name__: each for each in (turned, bonnet, letterbox, timestamp)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--by", choices=sorted(ALTERATIONS), required=True)
    parser.add_argument("--only", nargs="*", help="names of data sets, instead of all")
    arguments = parser.parse_args()
    for root in sorted(path.parent for path in arguments.data.glob("*/ground_truth.csv")):
        if not arguments.only or root.name in arguments.only:
            alter_set(root, arguments.out / root.name, arguments.by)


def alter_set(root: Path, out: Path, by: str) -> None:
    """Images keep their names, so that the ground truth fits; they are written without loss."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "ground_truth.csv", out / "ground_truth.csv")
    for role in ("database", "queries"):
        folder, names = folder_and_names(root / role)
        for name in names:
            target = out / role / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if by == "turned" and role == "database":
                shutil.copy(folder / name, target)
                continue
            altered = ALTERATIONS[by](read_image(folder / name, "rgb").copy())
            _, data = cv2.imencode(".png", altered[..., ::-1])
            target.write_bytes(data.tobytes())  # a PNG under any name is read as one


if __name__ == "__main__":
    main()
