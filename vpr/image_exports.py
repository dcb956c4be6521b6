"""Features of the images of a folder, and of pairs with a known homography, as npz files.

Of a folder each image NAME has NAME.npz, in the same subfolders:

| key | value |
| --- | --- |
| keypoints | (N, 2) float32 x, y in pixels of the stored image |
| scores, descriptors | (N,) and (N, D) float32 |
| size | (2,) width, height of the stored image |
| segmentation, classes | with a head: (h, w) uint8 ids, of the whole image, and their names |

Of pairs the keys are those of pytorch-superpoint: image, warped_image (H, W) uint8, prob and warped_prob (N, 3) x, y
and score, desc and warped_desc (N, D), homography (3, 3) from the first to the second, matches (M, 4) x, y in the first
and x, y in the second, mscores (M,); with a head segmentation, warped_segmentation and classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vpr.config import fingerprint
from vpr.core import DataError, Floats, Image, ImageError, LocalExtractor, LocalFeatures, Matcher
from vpr.datasets.folders import list_images
from vpr.datasets.homography_pairs import HomographyPair
from vpr.features.single import features_of_image
from vpr.geometry.homography import warp
from vpr.images import MAX_MEGAPIXELS, as_image, read_image
from vpr.local_features.segmentation import Segmenter
from vpr.report.drawing import Correspondences, draw_matches, jpeg_bytes
from vpr.runtime.files import claim, write_atomically, write_npz
from vpr.runtime.progress import Progress

MADE_BY = "made_by.json"
QUALITY = 90
INLIER_PX = 3.0  # from where the homography sends a keypoint, to be drawn as right
SHADE = 0.5  # of the colours of classes over an image

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Exporter:
    """What is exported of each image."""

    extractor: LocalExtractor
    segmenter: Segmenter | None = None
    pictures: bool = False  # also NAME.jpg with the keypoints, and with the classes
    max_megapixels: float = MAX_MEGAPIXELS

    def features(self, image: Image) -> LocalFeatures:
        """Local features of a decoded RGB image, with keypoints in its pixels."""
        return features_of_image(self.extractor, image)

    def classes(self, image: Image) -> Image | None:
        if self.segmenter is None:
            return None
        return self.segmenter.of_image(image)

    def names(self) -> dict[str, Any]:
        return {} if self.segmenter is None else {"classes": np.array(self.segmenter.categories.names)}

    def drawn(self, image: Image, features: LocalFeatures, classes: Image | None) -> Image:
        """The image with its classes in colour and its keypoints in green."""
        picture = image.copy()
        if classes is not None and self.segmenter is not None:
            colours = cv2.resize(
                self.segmenter.categories.coloured(classes), features.image_size, interpolation=cv2.INTER_NEAREST
            )
            picture = np.asarray(np.rint((1 - SHADE) * picture + SHADE * colours), np.uint8)
        for x, y in np.rint(features.keypoints.numpy()).astype(int).tolist():
            cv2.circle(picture, (x, y), 2, (0, 220, 0), -1, cv2.LINE_AA)
        return picture


def export_images(folder: Path, out: Path, exporter: Exporter, made_by: Any) -> tuple[int, int]:
    """Export every image of a folder; returns how many, and how many cannot be read. A killed export continues.

    Raises DataError if ``out`` holds what other settings made, or if no image can be read.
    """
    claim(out, MADE_BY, {"made by": fingerprint({"parts": made_by})})
    names = list_images(folder)
    bad = 0
    for name in Progress("export", len(names), "image").over(names):
        target = out / f"{name}.npz"
        if target.exists():
            continue
        try:
            image = read_image(folder / name, "rgb", exporter.max_megapixels)
        except ImageError as error:
            logger.warning("skipped: %s", error)
            bad += 1
            continue
        found, classes = exporter.features(image), exporter.classes(image)
        if exporter.pictures:
            write_image(out / f"{name}.jpg", exporter.drawn(image, found, classes))
        arrays: dict[str, Any] = {
            "keypoints": found.keypoints.numpy(),
            "scores": found.scores.numpy(),
            "descriptors": found.descriptors.numpy(),
            "size": np.array(found.image_size),
        }
        write_npz(target, arrays | ({} if classes is None else {"segmentation": classes, **exporter.names()}))
    if bad == len(names):
        raise DataError(f"{folder}: not one of {len(names)} images can be read")
    return len(names) - bad, bad


def export_pairs(pairs: Sequence[HomographyPair], out: Path, exporter: Exporter, matcher: Matcher, made_by: Any) -> int:
    """Export every pair with its matches; returns how many. A killed export continues.

    Raises ImageError at the first image that cannot be read, DataError if ``out`` holds what other settings made.
    """
    claim(out, MADE_BY, {"made by": fingerprint({"parts": made_by})})
    for pair in Progress("export", len(pairs), "pair").over(pairs):
        target = out / f"{pair.name.replace(' ', '_')}.npz"
        if not target.exists():
            arrays, picture = _pair(pair, exporter, matcher)
            if exporter.pictures:
                write_image(target.with_suffix(".jpg"), picture)
            write_npz(target, arrays)
    return len(pairs)


def write_image(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, jpeg_bytes(image, QUALITY))


def _pair(pair: HomographyPair, exporter: Exporter, matcher: Matcher) -> tuple[dict[str, Any], Image]:
    images = [read_image(path, "rgb", exporter.max_megapixels) for path in (pair.first, pair.second)]
    found = [exporter.features(image) for image in images]
    matches = matcher.match(found[0], [found[1]])[0]
    rows = matches.pairs.numpy()
    ends = [each.keypoints.numpy()[rows[:, side]] for side, each in enumerate(found)]
    arrays: dict[str, Any] = {
        "homography": pair.homography,
        "matches": np.hstack(ends),
        "mscores": matches.scores.numpy(),
    }
    for prefix, image, features in zip(("", "warped_"), images, found, strict=True):
        classes = exporter.classes(image)
        arrays |= {
            f"{prefix}image": as_image(image, "grey"),
            f"{prefix}prob": _scored(features),
            f"{prefix}desc": features.descriptors.numpy(),
        }
        arrays |= {} if classes is None else {f"{prefix}segmentation": classes, **exporter.names()}
    away = np.linalg.norm(warp(ends[0].astype(np.float64), pair.homography) - ends[1], axis=1)
    drawn = Correspondences(ends[0], ends[1], away <= INLIER_PX, matches.scores.numpy())
    return arrays, draw_matches(images[0], images[1], drawn)


def _scored(features: LocalFeatures) -> NDArray[np.float32]:
    """(N, 3) x, y, score."""
    scored: Floats = np.column_stack([features.keypoints.numpy(), features.scores.numpy()]).astype(np.float32)
    return scored
