"""What each pixel of an image of the city shows: Cityscapes ids, by the paint of its surface."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vpr.categories import CS34_ID
from vpr.core import Image
from vpr.demo_city.raster import NO_SURFACE, Owners
from vpr.demo_city.surfaces import Paint, Surfaces

_BY_KIND = {
    "front": "building",
    "side": "building",
    "awning": "building",
    "railing": "building",
    "blade_sign": "building",  # as in Cityscapes, where a shop's sign belongs to its house
    "hoarding": "fence",
    "road": "road",
    "zebra": "road",
    "crossing": "road",
    "under_car": "road",
    "pavement": "sidewalk",
    "kerb": "sidewalk",
    "yard": "ground",
    "leaves": "vegetation",
    "bark": "vegetation",
    "lantern": "pole",
    "traffic_sign": "traffic sign",
    "bin": "static",
    "car_side": "car",
    "car_front": "car",
    "car_back": "car",
    "car_top": "car",
    "car_glass": "car",
    "van_side": "truck",
    "van_end": "truck",
    "van_top": "truck",
    "bus_side": "bus",
    "bus_end": "bus",
    "bus_top": "bus",
    "person": "person",
}


def label_of(paint: Paint) -> int:
    """The Cityscapes id of a paint; plain stone belongs to the building whose style it has, plain metal is a post."""
    if paint.kind == "plain":
        return CS34_ID["building" if paint.style is not None else "pole"]
    return CS34_ID[_BY_KIND[paint.kind]]


def labels_of(owner: Owners, scene: Surfaces, paints: tuple[Paint, ...]) -> Image:
    """(H, W) uint8 Cityscapes ids of the surfaces that own the pixels; sky where there is none."""
    by_paint = np.array([label_of(paint) for paint in paints], np.uint8)
    by_surface: NDArray[np.uint8] = np.append(by_paint[scene.paint], np.uint8(CS34_ID["sky"]))
    return np.asarray(by_surface[np.where(owner == NO_SURFACE, len(scene), owner)], np.uint8)
