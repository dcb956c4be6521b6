"""Masks: the pixels of an image that may give features.

What stands at the same pixels in every image (a bonnet, a frame, a timestamp, dirt on the lens) says nothing of the
place, but would match in all of them. White pixels of a mask count, black ones (below 128) do not.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpr.categories import STREET
from vpr.config import MethodSettings
from vpr.core import ConfigError, DataError, Floats, Image, ImageError, ImageSet, LocalFeatures
from vpr.datasets.labelled import read_cs34
from vpr.features.contents import NO_CONTENT, Contents, digest_of_file
from vpr.images import read_image, resize
from vpr.local_features.dropping import Selection, by_files
from vpr.local_features.settings import LocalFeatureSettings

logger = logging.getLogger(__name__)

AUTO = "auto"  # instead of a path: what is constant over the database's images
SAMPLE = 200  # images in which constant regions are sought
WIDTH = 320  # of the images in which they are sought
LEAST_VARIATION = 6.0  # grey levels of standard deviation over the images, below which a pixel is constant
LEAST_AREA = 0.002  # of a constant region, as a fraction of the image
MOST_CONSTANT = 0.6  # of the image; a camera that does not move sees more
MARGIN = 5  # pixels of WIDTH around constant regions, whose edges are constant too
FEWEST = 8  # images that can show what is constant

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of an image set, each brought to the size of its image.

    ``folder`` holds a mask for each image, under the image's name with .png after it or instead of its suffix, in the
    same subfolders; an image without one counts as a whole. ``common`` (H, W) uint8 is for all images instead.
    """

    folder: Path | None = None
    common: Image | None = None
    labels: LabelMasks | None = None  # which keypoints are kept by the class of what they lie on

    def of(self, images: ImageSet, row: int) -> Image | None:
        """(H, W) uint8, at its own size; None where the whole image counts. Raises ImageError."""
        path = self._path(images, row)
        return self.common if path is None else read_image(path, "grey")

    def keyed(self, images: ImageSet, contents: Contents) -> Contents:
        """Content keys that are of the image and its mask."""
        keys = [
            _joined(key, self._key(images, row)) if key != NO_CONTENT else key for row, key in enumerate(contents.keys)
        ]
        return replace(contents, keys=tuple(keys))

    def _key(self, images: ImageSet, row: int) -> str:
        path, labels = self._path(images, row), None if self.labels is None else self.labels.path(images, row)
        of_labels = "" if labels is None else digest_of_file(labels)
        if path is not None:
            return digest_of_file(path) + of_labels
        return ("" if self.common is None else hashlib.sha256(_bytes(self.common)).hexdigest()) + of_labels

    def _path(self, images: ImageSet, row: int) -> Path | None:
        return None if self.folder is None else mask_path(self.folder, images, row)


@dataclass(frozen=True, eq=False)
class LabelMasks:
    """A folder of masks of Cityscapes ids, named as those of Masks are, and which keypoints are kept by them."""

    folder: Path
    selection: Selection

    def path(self, images: ImageSet, row: int) -> Path | None:
        return mask_path(self.folder, images, row)

    def of(self, images: ImageSet, row: int) -> Image | None:
        """(H, W) uint8 classes of STREET, at their own size; None where there is no mask. Raises DataError."""
        path = self.path(images, row)
        return None if path is None else STREET.of(read_cs34(path))

    def kept(self, item: Any, classes: Image | None) -> Any:
        """Local features that are kept; anything else as it is."""
        if not isinstance(item, LocalFeatures):
            return item
        return self.selection.of(item, None if classes is None else torch.from_numpy(classes))


def mask_path(folder: Path, images: ImageSet, row: int) -> Path | None:
    """The file of an image's mask in a folder; None if there is none."""
    name = images.names[row]
    for within in (name, f"{images.root.name}/{name}"):
        for path in (folder / f"{within}.png", (folder / within).with_suffix(".png")):
            if path.is_file():
                return path
    return None


def read_masks(chosen: str, database: ImageSet, local: MethodSettings | None = None) -> Masks | None:
    """Masks by a setting: "" for none, "auto" for the regions that are constant over a database, or a path.

    ``local`` are the settings of local features, which may name a folder of label masks. Raises ConfigError for a path
    that is not there or classes that are not known, and ImageError for a file that is no image.
    """
    masks, labels = _read_masks(chosen, database), label_masks(local)
    if labels is None:
        return masks
    if not any(labels.path(database, row) for row in range(len(database))):
        raise DataError(
            f"local_features.segmentation = {str(labels.folder)!r}: holds no mask of any of {len(database)} images, "
            f"for instance {database.names[0]}.png"
        )
    return replace(masks or Masks(), labels=labels)


def label_masks(local: MethodSettings | None) -> LabelMasks | None:
    """The label masks that settings of local features name; None if they name none."""
    if not isinstance(local, LocalFeatureSettings) or not by_files(local):
        return None
    selection = Selection(STREET.ids_of(local.drop), local.drop_weight, int(getattr(local, "max_keypoints", 0)))
    return LabelMasks(Path(local.segmentation), selection)


def _read_masks(chosen: str, database: ImageSet) -> Masks | None:
    if not chosen:
        return None
    if chosen == AUTO:
        common = constant_regions(database)
        return None if common is None else Masks(common=common)
    path = Path(chosen)
    if path.is_dir():
        return Masks(folder=path)
    if not path.exists():
        raise ConfigError(
            f"images.masks = {chosen!r}: no such file or folder; give an image for all, a folder with one mask "
            f"for each image, or {AUTO!r}"
        )
    return Masks(common=read_image(path, "grey"))


def constant_regions(images: ImageSet) -> Image | None:
    """A mask (H, W) uint8 of what is the same in all images; None where nothing is.

    Looked for in at most SAMPLE images, spread over the set. Raises DataError where most of the image is constant, as
    of a camera that does not move.
    """
    rows = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).round().astype(np.int64))
    seen = list(_small(images, rows))
    if len(seen) < FEWEST:
        logger.info("masks: fewer than %d images, so nothing is known to be constant", FEWEST)
        return None
    constant = _constant(np.stack(seen))
    share = float(constant.mean())
    if share > MOST_CONSTANT:
        raise DataError(
            f"{images.root}: {share:.0%} of the image hardly changes from image to image, as of a camera that does not "
            "move; give masks of your own, or none"
        )
    logger.info("masks: %.1f %% of the image is constant over %d images and ignored", 100 * share, len(seen))
    return np.where(constant, np.uint8(0), np.uint8(255)) if constant.any() else None


def covered(image: Image, mask: Image) -> Image:
    """The image with the mean colour of what counts in place of what does not; wholly masked, it is black."""
    counts = at_size(mask, image.shape[1], image.shape[0])
    mean = image[counts].mean(axis=0) if counts.any() else np.zeros(image.shape[2:])
    filled = image.copy()
    filled[~counts] = np.asarray(np.round(mean), np.uint8)
    return filled


def kept(item: Any, mask: Image) -> Any:
    """Local features without the keypoints on masked pixels; anything else as it is."""
    if not isinstance(item, LocalFeatures) or not len(item):
        return item
    return item.part(points_that_count(item.keypoints, torch.from_numpy(at_size(mask, *item.image_size))))


def points_that_count(keypoints: Tensor, counts: Tensor) -> Tensor:
    """(N,) bool of (N, 2) points in pixels, by the pixels (H, W) bool that count."""
    height, width = counts.shape
    x, y = keypoints.round().long().unbind(1)
    return counts[y.clamp(0, height - 1), x.clamp(0, width - 1)]


def at_size(mask: Image, width: int, height: int) -> Bools:
    """(height, width) pixels that count."""
    counts: Bools = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) >= 128
    return counts


def _small(images: ImageSet, rows: NDArray[np.int64]) -> Iterator[Floats]:
    """Grey images (H, WIDTH) of one size, slightly blurred; those that cannot be read are left out."""
    height = 0
    for row in rows.tolist():
        try:
            image = read_image(images.path(row), "grey")
        except ImageError:
            continue
        height = height or max(1, round(WIDTH * image.shape[0] / image.shape[1]))
        yield cv2.GaussianBlur(resize(image, (WIDTH, height)), (0, 0), 1.0).astype(np.float32)


def _constant(images: Floats) -> Bools:
    """(H, W) of images (N, H, W): regions that vary little, large enough, with a margin."""
    steady = (images.std(axis=0) < LEAST_VARIATION).astype(np.uint8)
    steady = cv2.morphologyEx(steady, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, labels, about, _ = cv2.connectedComponentsWithStats(steady, connectivity=4)
    large = [each for each in range(1, count) if about[each, cv2.CC_STAT_AREA] >= LEAST_AREA * steady.size]
    regions = np.isin(labels, large).astype(np.uint8)
    grown: Bools = cv2.dilate(regions, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)).astype(np.bool_)
    return grown


def _joined(key: str, of_mask: str) -> str:
    return hashlib.blake2b(f"{key}+{of_mask}".encode(), digest_size=16).hexdigest() if of_mask else key


def _bytes(mask: Image) -> bytes:
    return repr(mask.shape).encode() + mask.tobytes()
