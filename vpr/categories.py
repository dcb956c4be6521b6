"""Classes of semantic segmentation: Cityscapes' 34, and the coarser sets made of them.

Label masks hold the ids of Cityscapes' 34 labels (Cordts et al., CVPR 2016) wherever they come from: its own files,
COCO's panoptic ones by the names of their categories, KITTI's, or the demo city's. Every other set of classes is a
table from these ids to its own, so that masks are converted once, where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import ConfigError, Image

IGNORED = 255  # in a mask: no class is known

Bools = NDArray[np.bool_]

CS34 = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
CS34_ID = {name: number for number, name in enumerate(CS34)}
THINGS = frozenset(range(CS34_ID["person"], len(CS34)))  # ids of what is counted one by one

_CS34_COLOURS = (
    (0, 0, 0), (20, 20, 20), (40, 40, 40), (60, 60, 60), (90, 90, 60), (111, 74, 0), (81, 0, 81), (128, 64, 128),
    (244, 35, 232), (250, 170, 160), (230, 150, 140), (70, 70, 70), (102, 102, 156), (190, 153, 153), (180, 165, 180),
    (150, 100, 100), (150, 120, 90), (153, 153, 153), (120, 120, 120), (250, 170, 30), (220, 220, 0), (107, 142, 35),
    (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 0, 90),
    (0, 0, 110), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


@dataclass(frozen=True)
class Category:
    """One class, and the Cityscapes ids that belong to it."""

    name: str
    colour: tuple[int, int, int]  # RGB
    cs34: tuple[int, ...]


@dataclass(frozen=True)
class Categories:
    """A set of classes; the class of row i has the id i."""

    name: str
    classes: tuple[Category, ...]

    def __post_init__(self) -> None:
        ids = [number for each in self.classes for number in each.cs34]
        if not self.classes or len(self.classes) > IGNORED:
            raise ConfigError(f"classes {self.name!r}: from 1 to {IGNORED} of them, not {len(self.classes)}")
        if len(set(ids)) < len(ids) or any(not 0 <= number < len(CS34) for number in ids):
            raise ConfigError(
                f"classes {self.name!r}: a Cityscapes id (0 to {len(CS34) - 1}) belongs to one class at most, "
                f"got {sorted(ids)}"
            )
        if len(set(self.names)) < len(self.classes):
            raise ConfigError(f"classes {self.name!r}: two have the same name: {', '.join(self.names)}")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.classes)

    def ids_of(self, names: Sequence[str]) -> tuple[int, ...]:
        """Ids of classes by name. Raises ConfigError for an unknown one."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ConfigError(f"unknown class {unknown[0]!r} of {self.name}; known: {', '.join(self.names)}")
        return tuple(self.names.index(name) for name in names)

    def of(self, labels: Image) -> Image:
        """(H, W) uint8 ids of these classes from a mask of Cityscapes ids; IGNORED for what belongs to none."""
        table = np.full(256, IGNORED, np.uint8)
        for number, each in enumerate(self.classes):
            table[list(each.cs34)] = number
        return np.asarray(table[labels], np.uint8)

    def coloured(self, ids: Image) -> Image:
        """(H, W, 3) RGB of a mask of these classes; what is ignored is black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = [each.colour for each in self.classes]
        return np.asarray(table[ids], np.uint8)


def _group(name: str, colour: tuple[int, int, int], *members: str) -> Category:
    return Category(name, colour, tuple(CS34_ID[member] for member in members))


CITYSCAPES_34 = Categories(
    "cs34",
    tuple(
        Category(name, colour, (number,)) for number, (name, colour) in enumerate(zip(CS34, _CS34_COLOURS, strict=True))
    ),
)
# The four classes of the segmentation fork of pytorch-superpoint: what stands, what one drives on, what moves by
# itself, and what moves in the wind or tells nothing.
CITYSCAPES_4 = Categories(
    "cs4",
    (
        Category("static", (70, 70, 70), tuple(range(11, 21))),
        Category("flat", (128, 64, 128), (*range(7, 11), 22)),
        Category("dynamic", (0, 0, 142), tuple(range(24, 34))),
        Category("unstable", (107, 142, 35), (*range(7), 21, 23)),
    ),
)
# What place recognition asks: which keypoints may be trusted at another time.
STREET = Categories(
    "street",
    (
        _group("road", (128, 64, 128), "ground", "road", "sidewalk", "parking", "rail track", "terrain"),
        _group("building", (70, 70, 70), "building", "wall", "fence", "guard rail", "bridge", "tunnel"),
        _group("vegetation", (107, 142, 35), "vegetation"),
        _group("vehicle", (0, 0, 142), "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
        _group("person", (220, 20, 60), "person", "rider"),
        _group("sky", (70, 130, 180), "sky"),
        _group("sign", (220, 220, 0), "pole", "polegroup", "traffic light", "traffic sign"),
    ),
)
CATEGORIES = {each.name: each for each in (CITYSCAPES_34, CITYSCAPES_4, STREET)}


def categories_named(name: str) -> Categories:
    """A set of classes that comes with vpr. Raises ConfigError for an unknown one."""
    if name not in CATEGORIES:
        raise ConfigError(f"unknown classes {name!r}; known: {', '.join(CATEGORIES)}")
    return CATEGORIES[name]
