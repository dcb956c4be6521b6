"""From a paint to its texture at every fineness."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from vpr.core import Image
from vpr.demo_city import facades, ground, moving_props, props
from vpr.demo_city.surfaces import Paint

PAINTERS: dict[str, Callable[[Paint], Image]] = {
    "front": facades.paint_front,
    "side": facades.paint_side,
    "hoarding": facades.paint_hoarding,
    "road": ground.paint_road,
    "zebra": ground.paint_zebra,
    "crossing": ground.paint_crossing,
    "pavement": ground.paint_pavement,
    "yard": ground.paint_yard,
    "leaves": props.paint_leaves,
    "bark": props.paint_bark,
    "plain": props.paint_plain,
    "kerb": props.paint_kerb,
    "lantern": props.paint_lantern,
    "awning": props.paint_awning,
    "railing": props.paint_railing,
    "blade_sign": props.paint_blade_sign,
    "traffic_sign": props.paint_traffic_sign,
    "bin": props.paint_bin,
    "car_side": props.paint_car_side,
    "car_front": props.paint_car_front,
    "car_back": props.paint_car_back,
    "car_top": props.paint_car_top,
    "car_glass": props.paint_car_glass,
    "under_car": props.paint_under_car,
    "van_side": moving_props.paint_van_side,
    "van_end": moving_props.paint_end,
    "van_top": moving_props.paint_top,
    "bus_side": moving_props.paint_bus_side,
    "bus_end": moving_props.paint_end,
    "bus_top": moving_props.paint_top,
    "person": moving_props.paint_person,
}


class Texture:
    """One painted texture and its reductions by powers of two, across and down separately.

    A wall seen from the side is short across and full height down; halving the two apart keeps its lettering.
    """

    def __init__(self, finest: Image) -> None:
        self._levels = {(0, 0): finest}
        height, width = finest.shape[:2]
        self.most = (max(0, int(np.log2(width))), max(0, int(np.log2(height))))

    def level(self, across: int, down: int) -> Image:
        """The texture halved that many times across and down."""
        if (across, down) not in self._levels:
            height, width = self._levels[0, 0].shape[:2]
            size = (max(1, width >> across), max(1, height >> down))
            reduced = cv2.resize(self._levels[0, 0], size, interpolation=cv2.INTER_AREA)
            self._levels[across, down] = np.asarray(reduced, np.uint8)
        return self._levels[across, down]


@lru_cache(maxsize=400)
def texture(paint: Paint) -> Texture:
    """Paint it, or find it painted: a street's facades are painted once for the images that see them."""
    return Texture(PAINTERS[paint.kind](paint))
