"""Segmentation measured on labelled images: by a head, or by masks that another program predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vpr.categories import Categories
from vpr.core import DataError, Doubles, Image
from vpr.datasets.labelled import LabelledImages, read_cs34
from vpr.evaluation.segmentation import Confusion, confusion
from vpr.images import read_image, resize
from vpr.local_features.segmentation import Segmenter
from vpr.report.drawing import jpeg_bytes
from vpr.report.tables import aligned
from vpr.runtime.files import write_atomically, write_json
from vpr.runtime.progress import Progress

PICTURE_WIDTH = 480  # of each of the three parts of a picture
QUALITY = 90

Predict = Callable[[int], Image]  # from the row of an image to (H, W) ids of classes, at any size


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """Counts over all images, and the files that say so."""

    total: Confusion
    categories: Categories
    images: int

    def as_json(self) -> dict[str, Any]:
        total = self.total
        return {
            "images": self.images,
            "classes": self.categories.name,
            "mean_iou": round(total.mean_iou, 6),
            "pixel_accuracy": round(total.pixel_accuracy, 6),
            "iou": _by_class(self.categories, total.iou),
            "class_accuracy": _by_class(self.categories, total.class_accuracy),
        }

    def table(self) -> str:
        """Measures as lines of text; "-" for a class that does not occur."""
        shown = [["class", "IoU", "accuracy", "pixels"]]
        pixels = self.total.counts.sum(axis=1)
        measures = zip(self.categories.names, self.total.iou, self.total.class_accuracy, pixels, strict=True)
        shown += [[name, _percent(iou), _percent(found), f"{count:,}"] for name, iou, found, count in measures]
        rows = aligned(shown)
        mean = f"mean IoU {100 * self.total.mean_iou:.1f} %, pixel accuracy {100 * self.total.pixel_accuracy:.1f} %"
        return "\n".join([*rows, f"{mean}, {self.images} images"])


def by_head(images: LabelledImages, segmenter: Segmenter) -> Predict:
    """Predictions of a head."""
    return lambda row: segmenter.of_image(read_image(images.image(row), "rgb"))


def by_files(images: LabelledImages, folder: Path, categories: Categories) -> Predict:
    """Masks of Cityscapes ids that another program predicted, named as the images are, with .png."""

    def predict(row: int) -> Image:
        path = (folder / images.names[row]).with_suffix(".png")
        if not path.is_file():
            raise DataError(f"{path}: no such file, the prediction for {images.names[row]}")
        return categories.of(read_cs34(path))

    return predict


def evaluate_segmentation(
    images: LabelledImages, predict: Predict, categories: Categories, out: Path, *, pictures: int = 6
) -> SegmentationResult:
    """Measure every image at the size of its labels; summary.json and .md, confusion.csv and pictures go to ``out``.

    Raises ImageError or DataError at the first image that cannot be used.
    """
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    total = Confusion.none(len(categories))
    drawn = set(np.linspace(0, len(images) - 1, min(pictures, len(images))).astype(int).tolist())
    for row in Progress("segmentation", len(images), "image").over(range(len(images))):
        truth = categories.of(images.mask(row))
        found = predict(row)
        size = (truth.shape[1], truth.shape[0])
        found = np.asarray(cv2.resize(found, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
        total += confusion(truth, found, len(categories))
        if row in drawn:
            parts = (categories.coloured(each) for each in (truth, found))
            picture = beside(read_image(images.image(row), "rgb"), *parts)
            write_atomically(out / "pictures" / f"{row:05d}.jpg", jpeg_bytes(picture, QUALITY))
    result = SegmentationResult(total, categories, len(images))
    write_json(out / "summary.json", result.as_json())
    write_atomically(out / "summary.md", f"```\n{result.table()}\n```\n")
    counts = zip(categories.names, total.counts.tolist(), strict=True)
    lines = [",".join(map(str, (name, *row))) for name, row in counts]
    write_atomically(out / "confusion.csv", "\n".join([",".join(("truth", *categories.names, "none")), *lines]) + "\n")
    return result


def beside(*parts: Image) -> Image:
    """The parts beside each other, each PICTURE_WIDTH wide."""
    height = max(1, round(PICTURE_WIDTH * parts[0].shape[0] / parts[0].shape[1]))
    return np.hstack([resize(part, (PICTURE_WIDTH, height)) for part in parts])


def _by_class(categories: Categories, values: Doubles) -> dict[str, float | None]:
    pairs: Sequence[tuple[str, float]] = list(zip(categories.names, values.tolist(), strict=True))
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in pairs}


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "-"
