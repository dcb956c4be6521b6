"""Where the positions of images come from: a csv file, their names, EXIF, a kapture tree, or nowhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from vpr.core import ConfigError, DataError, usable_name
from vpr.datasets import utm_names
from vpr.datasets.folders import folder_and_names
from vpr.datasets.kapture_tree import read_kapture
from vpr.datasets.placed import PlacedImage, by_exif, by_names, of_image_set
from vpr.datasets.placed_csv import by_csv

logger = logging.getLogger(__name__)

POSITIONS = ("auto", "names", "exif", "kapture", "none")


def read_images(images: Path, positions: str) -> tuple[Path, list[PlacedImage]]:
    """The folder to which names are relative, and the images in it with what is known of each.

    ``images`` is a folder, one image, or with "kapture" a kapture tree. ``positions`` is the path of a csv file, or
    "names" (@utm_east@utm_north@...@.jpg), "exif", "kapture", "none", or "auto": names where they have positions, else
    EXIF where an image has one, else none. Raises DataError for what cannot be read.
    """
    if positions == "kapture":
        tree = read_kapture(images)
        return tree.root, of_image_set(tree)
    root, names = folder_and_names(images)
    if positions in POSITIONS:
        return root, _of_names(root, names, positions)
    path = Path(positions)
    if path.suffix or path.exists():
        return root, by_csv(root, names, path)
    raise ConfigError(f"positions {positions!r}: give a csv file, or one of {', '.join(POSITIONS)}")


def _of_names(root: Path, names: Sequence[str], positions: str) -> list[PlacedImage]:
    if positions == "names" or (positions == "auto" and any(map(utm_names.has_position, names))):
        return by_names(root, names)
    if positions == "exif":
        return by_exif(root, names)
    if positions == "auto":
        try:
            return by_exif(root, names)
        except DataError:
            logger.warning(
                "%s: no positions, neither in names nor in EXIF; answers will name images alone (--positions)", root
            )
    return [PlacedImage(usable_name(name)) for name in names]
