"""Surfaces of the city: flat quadrilaterals, each with a piece of a texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles, Rows

# By kind of paint; thin and flat things cast none, and a spray of leaves is smaller than its card.
_SHADE = dict.fromkeys(
    (
        "front",
        "side",
        "hoarding",
        "awning",
        "bark",
        "car_side",
        "car_top",
        "van_side",
        "van_top",
        "bus_side",
        "bus_top",
    ),
    1.0,
) | {"leaves": 0.75, "person": 0.6}


@dataclass(frozen=True)
class Style:
    """The look that buildings share: many buildings of a city have the same style, so that places alias."""

    material: str  # one of canvas.MATERIALS
    wall: tuple[int, int, int]  # RGB, as are trim and frame
    trim: tuple[int, int, int]
    frame: tuple[int, int, int]
    ground_floor: str  # "shop", "house" or "garage"
    ground_m: float  # height of the ground floor
    floor_m: float  # height of every floor above
    bay_m: float  # from window to window
    window_m: tuple[float, float]  # width, height
    panes: tuple[int, int]  # panes across and down a window
    arched: bool
    cornice_m: float  # how far the cornice stands out; 0 for none
    balconies: bool
    seed: int


@dataclass(frozen=True)
class Paint:
    """Description of one texture; equal paints give equal textures."""

    kind: str  # a key of textures.PAINTERS
    seed: int
    size_m: tuple[float, float]  # width, height
    texels_per_m: float
    cutout: bool = False  # the fourth channel says what is there; otherwise it says what glows at night
    style: Style | None = None
    floors: int = 0


@dataclass(frozen=True, eq=False)
class Surfaces:
    """N parallelograms or other convex quadrilaterals; row i of every array is surface i. Metres, world frame."""

    corners: Doubles  # (N, 4, 3) in order around the surface
    anchor: Doubles  # (N, 3) the point of the plane that is the texture's top-left corner
    across: Doubles  # (N, 3) unit direction of the texture's rows
    down: Doubles  # (N, 3) unit direction of the texture's columns
    normal: Doubles  # (N, 3) unit direction that light is reckoned with; towards the viewer if seen from one side
    paint: Rows  # (N,) row of the city's paints
    reach: Doubles  # (N,) metres beyond which the surface is left out
    both_sides: NDArray[np.bool_]  # (N,) whether it is also seen from behind
    shade: Doubles  # (N,) how much of its width and height casts a shadow; 0 for none

    def __len__(self) -> int:
        return len(self.corners)

    def take(self, rows: Rows) -> Surfaces:
        return Surfaces(*(getattr(self, item.name)[rows] for item in fields(self)))

    def moved(self, rotation: Doubles, shift: Doubles) -> Surfaces:
        """Turned by a (3, 3) rotation and then moved by (3,) metres."""
        return replace(
            self,
            corners=self.corners @ rotation.T + shift,
            anchor=self.anchor @ rotation.T + shift,
            across=self.across @ rotation.T,
            down=self.down @ rotation.T,
            normal=self.normal @ rotation.T,
        )


def join(parts: Sequence[Surfaces]) -> Surfaces:
    """All the surfaces of the parts, in order."""
    return Surfaces(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Surfaces)))


@dataclass
class Builder:
    """Gathers surfaces and paints one by one."""

    rows: list[tuple[Doubles, Doubles, Doubles, Doubles, Doubles | None, int, float, bool]] = field(
        default_factory=list
    )
    paints: dict[Paint, int] = field(default_factory=dict)

    def add(
        self,
        corners: Doubles,
        paint: Paint,
        anchor: Doubles,
        across: Doubles,
        down: Doubles,
        *,
        reach: float = np.inf,
        both_sides: bool = False,
        normal: Doubles | None = None,
    ) -> None:
        """Add one quadrilateral, (4, 3) corners; seen from the side where ``across`` points right, ``down`` down."""
        row = self.paints.setdefault(paint, len(self.paints))
        self.rows.append((corners, anchor, across, down, normal, row, reach, both_sides))

    def panel(
        self,
        top_left: Doubles,
        across: Doubles,
        down: Doubles,
        paint: Paint,
        *,
        reach: float = np.inf,
        both_sides: bool = False,
        normal: Doubles | None = None,
        strip_m: float = np.inf,
    ) -> None:
        """Add a rectangle of the paint's size, in upright strips no wider than ``strip_m``.

        A strip has one sharpness of texture, so that narrow ones follow a wall that leads away from the viewer.
        """
        width, height = paint.size_m
        count = max(1, int(np.ceil(width / strip_m)))
        drop = height * down
        for k in range(count):
            start, end = top_left + k * width / count * across, top_left + (k + 1) * width / count * across
            corners = np.array([start, end, end + drop, start + drop])
            self.add(corners, paint, top_left, across, down, reach=reach, both_sides=both_sides, normal=normal)

    def box(
        self, corner: Doubles, across: Doubles, inward: Doubles, size_m: Doubles, paint: Paint, *, reach: float
    ) -> None:
        """Add the five sides of a box that a viewer before it can see, all but the back.

        ``corner`` is the top-left front corner, ``size_m`` (3,) width, depth and height.
        """
        width, depth, height = size_m
        down = np.array([0.0, 0.0, -1.0])
        right, low = corner + width * across, corner + height * down
        back = corner + depth * inward

        def side(start: Doubles, along: Doubles, drop: Doubles, length: float, fall: float) -> None:
            self.panel(start, along, drop, replace(paint, size_m=(round(length, 3), round(fall, 3))), reach=reach)

        side(corner, across, down, width, height)
        side(back, -inward, down, depth, height)
        side(right, inward, down, depth, height)
        side(back, across, -inward, width, depth)
        side(low, across, inward, width, depth)

    def finish(self) -> Surfaces:
        """The surfaces gathered so far; there must be at least one."""
        corners, anchor, across, down, normal, paint, reach, both = zip(*self.rows, strict=True)
        shades = np.array([_SHADE.get(paint.kind, 0.0) for paint in self.paints])
        facing = np.cross(down, across)
        return Surfaces(
            np.array(corners),
            np.array(anchor),
            np.array(across),
            np.array(down),
            np.array([facing[k] if given is None else given for k, given in enumerate(normal)]),
            np.array(paint, np.int64),
            np.array(reach),
            np.array(both),
            shades[np.array(paint, np.int64)],
        )
