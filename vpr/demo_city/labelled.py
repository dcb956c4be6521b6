"""Labelled images of demo cities in the layouts of public data sets of semantic segmentation.

Each city is seen from its streets in every light, empty or with traffic. The last cities are for validation alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np

from vpr.categories import CS34, THINGS
from vpr.config import fingerprint
from vpr.core import ConfigError, DataError, Image, Origin
from vpr.demo_city.layout import City
from vpr.demo_city.places import MADE_BY, city_of, spots_of, views_of
from vpr.demo_city.render import Rendering
from vpr.demo_city.shots import Shot
from vpr.demo_city.write import as_jpeg, as_png, render_all
from vpr.runtime.files import claim, write_atomically, write_json

Layout = Literal["cityscapes", "coco-panoptic", "coco-cs34", "kitti"]
Split = Literal["train", "val"]

# What the city shows, by the names of COCO's panoptic categories.
COCO_NAMES = {
    "road": "road", "sidewalk": "pavement-merged", "ground": "dirt-merged", "building": "building-other-merged",
    "fence": "fence-merged", "vegetation": "tree-merged", "sky": "sky-other-merged", "car": "car", "truck": "truck",
    "bus": "bus", "person": "person", "traffic sign": "stop sign",
}  # fmt: skip
_COCO_IDS = {
    "person": 1, "car": 3, "bus": 6, "truck": 8, "stop sign": 13, "road": 149, "tree-merged": 184,
    "fence-merged": 185, "sky-other-merged": 187, "pavement-merged": 191, "dirt-merged": 194,
    "building-other-merged": 197,
}  # fmt: skip
_RECIPE = 1  # counts changes of what is drawn
_FEWEST_PIXELS = 12  # of a segment; smaller ones are left without a label
_SHARES = (0.0, 0.0, 0.15, 0.3, 0.45)  # of the image, that traffic covers


def write_labelled(
    out: Path,
    layout: Layout,
    *,
    cities: int = 4,
    held_out: int = 1,
    images: int = 40,
    seed: int = 0,
    size: tuple[int, int] = (320, 240),
    workers: int = 1,
) -> dict[Split, int]:
    """Render ``images`` of each city into a folder; returns how many images each split holds.

    Cities have the seeds from ``seed`` on; the last ``held_out`` are the split "val". A killed run is taken up where it
    stopped. Raises ConfigError for numbers that make no set and DataError if the folder holds anything else.
    """
    if layout not in get_args(Layout):
        raise ConfigError(f"unknown layout {layout!r}; known: {', '.join(get_args(Layout))}")
    if min(cities, images) < 1 or not 0 <= held_out < cities:
        raise ConfigError(
            f"{cities} cities, {held_out} held out, {images} images: at least one of each, and one to learn"
        )
    settings = {"recipe": _RECIPE, "layout": layout, "cities": cities, "held_out": held_out, "images": images,
                "seed": seed, "size": list(size)}  # fmt: skip
    claim(
        out, MADE_BY, asdict(Origin("labelled demo cities", fingerprint(settings), settings=settings)) | {"images": ""}
    )
    written: dict[Split, list[str]] = {"train": [], "val": []}
    for number in range(cities):
        split: Split = "val" if number >= cities - held_out else "train"
        city = city_of(images, seed + number)
        writer = LayoutFolder(out, layout, split, f"city{seed + number}")
        shots = [_shot(shot, place) for place, shot in enumerate(_one_of_each(city, images, size))]
        render_all(city, [shot for shot in shots if not writer.labels_of(shot).exists()], writer, workers)
        written[split] += [writer.stem(shot) for shot in shots]
    if layout == "coco-panoptic":
        for part, stems in written.items():
            write_json(out / "annotations" / f"panoptic_{part}2017.json", _annotations(out, part, stems))
    if layout == "kitti":
        for part, stems in written.items():
            write_atomically(out / f"{part}.txt", "".join(f"{stem}\n" for stem in stems))
    return {part: len(stems) for part, stems in written.items()}


@dataclass(frozen=True)
class LayoutFolder:
    """Writes images and labels of one city as a layout has them."""

    out: Path
    layout: Layout
    split: Split
    city: str

    def stem(self, shot: Shot) -> str:
        """Name of an image without its suffix."""
        if self.layout == "cityscapes":
            return f"{self.city}_{shot.place:06d}_000019"
        number = int(self.city.removeprefix("city")) * 100_000 + shot.place
        return f"{number:06d}_10" if self.layout == "kitti" else f"{number:012d}"

    def image_of(self, shot: Shot) -> Path:
        stem = self.stem(shot)
        if self.layout == "cityscapes":
            return self.out / "leftImg8bit" / self.split / self.city / f"{stem}_leftImg8bit.png"
        if self.layout == "kitti":
            return self.out / "training" / "image_2" / f"{stem}.png"
        return self.out / f"{self.split}2017" / f"{stem}.jpg"

    def labels_of(self, shot: Shot) -> Path:
        stem = self.stem(shot)
        if self.layout == "cityscapes":
            return self.out / "gtFine" / self.split / self.city / f"{stem}_gtFine_labelIds.png"
        if self.layout == "kitti":
            return self.out / "training" / "semantic" / f"{stem}.png"
        folder = "panoptic" if self.layout == "coco-panoptic" else "cs34"
        return self.out / "annotations" / f"{folder}_{self.split}2017" / f"{stem}.png"

    def __call__(self, shot: Shot, rendering: Rendering) -> None:
        image, labels = self.image_of(shot), rendering.labels
        drawn = panoptic(labels) if self.layout == "coco-panoptic" else labels
        for path in (image, self.labels_of(shot)):
            path.parent.mkdir(parents=True, exist_ok=True)
        encoded = as_jpeg(rendering.image) if image.suffix == ".jpg" else as_png(rendering.image)
        write_atomically(image, encoded)
        write_atomically(self.labels_of(shot), as_png(drawn))


def panoptic(labels: Image) -> Image:
    """(H, W, 3) RGB of COCO's panoptic masks: R + 256 G + 65536 B is the id of a segment, 0 where there is none.

    What is counted has a segment for each connected part, everything else one for each class. The id of a segment is
    its class's Cityscapes id plus 64 for each part before it.
    """
    segments = np.zeros(labels.shape, np.int64)
    for number in np.unique(labels).tolist():
        if CS34[number] not in COCO_NAMES:
            continue
        here = (labels == number).astype(np.uint8)
        count, parts = cv2.connectedComponents(here) if number in THINGS else (2, here)
        for part in range(1, count):
            inside = parts == part
            if inside.sum() >= _FEWEST_PIXELS:
                segments[inside] = number + 64 * part
    return np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=-1).astype(np.uint8)


def _annotations(out: Path, split: Split, stems: list[str]) -> dict[str, Any]:
    """COCO's panoptic json of the masks that were written."""
    images, annotations = [], []
    for stem in stems:
        path = out / "annotations" / f"panoptic_{split}2017" / f"{stem}.png"
        mask = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if mask is None:
            raise DataError(f"{path}: cannot be read; delete it and write the set again")
        identity = int(stem)
        images.append({"id": identity, "file_name": f"{stem}.jpg", "width": mask.shape[1], "height": mask.shape[0]})
        annotations.append(
            {"image_id": identity, "file_name": f"{stem}.png", "segments_info": _segments(np.asarray(mask, np.uint8))}
        )
    categories = [
        {"id": number, "name": name, "supercategory": "", "isthing": int(name in ("person", "car", "bus", "truck"))}
        for name, number in sorted(_COCO_IDS.items(), key=lambda item: item[1])
    ]
    return {
        "info": {"description": "demo city"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def _segments(mask: Image) -> list[Mapping[str, Any]]:
    ids = mask.astype(np.int64) @ [1, 256, 65536]
    found: list[Mapping[str, Any]] = []
    for segment, area in zip(*np.unique(ids[ids > 0], return_counts=True), strict=True):
        category = _COCO_IDS[COCO_NAMES[CS34[int(segment) % 64]]]
        found.append({"id": int(segment), "category_id": category, "area": int(area), "iscrowd": 0})
    return found


def _one_of_each(city: City, count: int, size: tuple[int, int]) -> Iterator[Shot]:
    """An image of each of as many places."""
    for place, spot in enumerate(spots_of(city, count)):
        yield from views_of(city, spot, place, 1, size)


def _shot(shot: Shot, place: int) -> Shot:
    return replace(shot, place=place, traffic_share=_SHARES[place // 4 % len(_SHARES)])  # every light with every share
