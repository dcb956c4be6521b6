"""COCO's panoptic annotations: a json and one colour mask for each image; and their masks as Cityscapes ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vpr.categories import CS34_ID, IGNORED
from vpr.core import DataError, Image
from vpr.images import read_image
from vpr.runtime.files import write_atomically
from vpr.runtime.progress import Progress

# Cityscapes' class for the names of COCO's panoptic categories. What Cityscapes does not know is "unlabeled", but for
# animals and vehicles of other kinds, which move, and furniture of streets, which stands.
_BY_NAME = {
    "person": "person", "bicycle": "bicycle", "car": "car", "motorcycle": "motorcycle", "bus": "bus", "train": "train",
    "truck": "truck", "traffic light": "traffic light", "stop sign": "traffic sign", "bridge": "bridge",
    "railroad": "rail track", "road": "road", "pavement-merged": "sidewalk", "platform": "sidewalk",
    "tree-merged": "vegetation", "flower": "vegetation", "grass-merged": "terrain", "dirt-merged": "terrain",
    "sand": "terrain", "gravel": "terrain", "snow": "terrain", "mountain-merged": "terrain", "rock-merged": "terrain",
    "playingfield": "terrain", "sky-other-merged": "sky", "house": "building", "building-other-merged": "building",
    "roof": "building", "door-stuff": "building", "window-other": "building", "wall-brick": "wall",
    "wall-stone": "wall", "wall-tile": "wall", "wall-wood": "wall", "wall-other-merged": "wall",
    "fence-merged": "fence", "floor-wood": "ground", "floor-other-merged": "ground",
} | dict.fromkeys(
    ("airplane", "boat", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "dynamic",
) | dict.fromkeys(("fire hydrant", "parking meter", "bench", "potted plant"), "static")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Panoptic:
    """What the ids in the masks of a panoptic json mean."""

    images: tuple[str, ...]  # file names
    segments: Mapping[str, Mapping[int, int]]  # by the mask's file name: the Cityscapes id of each segment

    def mask(self, path: Path) -> Image:
        """(H, W) uint8 Cityscapes ids of a mask; pixels of no segment are unlabeled. Raises DataError."""
        colours = read_image(path, "rgb").astype(np.int64)
        ids, places = np.unique(colours @ np.array([1, 256, 65536]), return_inverse=True)
        known = self.segments[path.name]
        strange = [number for number in ids.tolist() if number and number not in known]
        if strange:
            raise DataError(f"{path}: has a segment {strange[0]}, which the json does not know")
        table = np.array([known.get(number, CS34_ID["unlabeled"]) for number in ids.tolist()], np.uint8)
        return np.asarray(table[places].reshape(colours.shape[:2]), np.uint8)


def cs34_of_category(name: str) -> int:
    """The Cityscapes id of a COCO panoptic category."""
    return CS34_ID[_BY_NAME.get(name, "unlabeled")]


def read_panoptic(annotations: Path, categories: Path | None = None) -> Panoptic:
    """A panoptic json; ``categories`` is a list of categories instead of its own. Raises DataError."""
    content = _json(annotations)
    try:
        listed = content["categories"] if categories is None else _json(categories)
        classes = {int(each["id"]): cs34_of_category(str(each["name"])) for each in listed}
        files = {each["id"]: str(each["file_name"]) for each in content["images"]}
        entries = list(_entries(content["annotations"], files, classes))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{annotations}: not COCO's panoptic json ({type(error).__name__}: {error})") from None
    return Panoptic(tuple(image for image, _, _ in entries), {mask: segments for _, mask, segments in entries})


def write_cs34(panoptic: Panoptic, source: Path, out: Path) -> tuple[int, int]:
    """Grey masks of Cityscapes ids of all masks, into a folder; returns how many were written, and were there.

    Raises DataError for a mask that is missing or does not belong to the json.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    progress = Progress("cs34 masks", len(panoptic.segments), "mask")
    for name in progress.over(panoptic.segments):
        target = out / name
        if target.exists():
            continue
        encoded = cv2.imencode(".png", panoptic.mask(source / name))[1]
        write_atomically(target, encoded.tobytes())
        written += 1
    return written, len(panoptic.segments) - written


def _entries(
    annotations: list[Any], files: Mapping[Any, str], classes: Mapping[int, int]
) -> Iterator[tuple[str, str, dict[int, int]]]:
    """Image, mask and segments of each annotation. Names that lead out of a folder are refused."""
    for each in annotations:
        image, mask = files[each["image_id"]], str(each["file_name"])
        for name in (image, mask):
            if Path(name).name != name:
                raise ValueError(f"the file name {name!r} leads to another folder")
        segments = {
            int(one["id"]): IGNORED if one.get("iscrowd") else classes[int(one["category_id"])]
            for one in each["segments_info"]
        }
        yield image, mask, segments


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not json ({error})") from None
