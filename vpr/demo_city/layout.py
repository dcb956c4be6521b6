"""The city as a whole, built from a number of places and a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vpr.core import ConfigError, Doubles
from vpr.demo_city import buildings, furniture, streets
from vpr.demo_city.buildings import UP
from vpr.demo_city.streets import PARKED_M, ROAD_HALF_M, Plan
from vpr.demo_city.surfaces import Builder, Paint, Style, Surfaces
from vpr.demo_city.traffic import Mover, movers

PLACE_M = 10.0  # length of street that one place stands for
ZONE = (54, "N")  # UTM zone number and letter of all positions
ORIGIN = (386_000.0, 3_949_000.0)  # UTM east, north of the world's origin

_STYLES = 10
_PIECE_M = 8.0  # length of a piece of road or pavement with a texture of its own
_KERB_M = 0.13


@dataclass(frozen=True, eq=False)
class City:
    """All that stands still, and where cars may park; metres from ``ORIGIN``, east, north, up."""

    places: int
    seed: int
    plan: Plan
    surfaces: Surfaces
    cars: tuple[Surfaces, ...]  # one model per colour, at the origin, nose to the north
    movers: tuple[Mover, ...]  # models of what moves, the cars among them
    paints: tuple[Paint, ...]
    lamps: Doubles  # (L, 3) points that shine at night
    parking: Doubles  # (S, 3) east, north, heading in radians clockwise from north


def build_city(places: int, seed: int) -> City:
    """A city with a drive of ``places`` times ten metres. Raises ConfigError for no place or a negative seed."""
    if places < 1 or seed < 0:
        raise ConfigError(f"a demo city needs at least 1 place and a seed from 0 on, not {places} and {seed}")
    rng = np.random.default_rng([seed, 1])
    plan = streets.lay_out(rng, places * PLACE_M)
    styles = buildings.invent_styles(rng, _STYLES)
    builder = Builder()
    _add_roads(rng, builder, plan)
    lamps = _add_blocks(rng, builder, plan, styles)
    for near, far in _ways_out(plan.nodes):
        buildings.add_building(builder, buildings.closing_lot(rng, near, far, styles))
    cars = furniture.car_models(builder)
    models = movers(builder, cars)
    return City(
        places, seed, plan, builder.finish(), cars, models, tuple(builder.paints), np.array(lamps), _parking(plan)
    )


def _cells(nodes: Doubles) -> Iterator[tuple[int, int]]:
    columns, rows = nodes.shape[:2]
    return ((i, j) for i in range(columns - 1) for j in range(rows - 1))


def _ways_out(nodes: Doubles) -> list[tuple[Doubles, Doubles]]:
    """The outermost crossings, each with a point of the ring behind it."""
    columns, rows = nodes.shape[:2]
    east = [(nodes[i, j], nodes[k, j]) for j in range(1, rows - 1) for i, k in ((1, 0), (columns - 2, columns - 1))]
    north = [(nodes[i, j], nodes[i, k]) for i in range(1, columns - 1) for j, k in ((1, 0), (rows - 2, rows - 1))]
    return east + north


def _add_roads(rng: np.random.Generator, builder: Builder, plan: Plan) -> None:
    """Asphalt between the kerbs of the blocks: pieces of street, and a sheet at each crossing."""
    nodes = plan.nodes
    columns, rows = nodes.shape[:2]
    kerbs = {cell: streets.inset(streets.block(nodes, *cell), ROAD_HALF_M) for cell in _cells(nodes)}
    for i in range(columns - 1):
        for j in range(1, rows - 1):
            _add_road(rng, builder, kerbs[i, j - 1][[3, 2]], kerbs[i, j][[0, 1]])
    for i in range(1, columns - 1):
        for j in range(rows - 1):
            _add_road(rng, builder, kerbs[i, j][[0, 3]], kerbs[i - 1, j][[1, 2]])
    for i in range(1, columns - 1):
        for j in range(1, rows - 1):
            corners = [kerbs[i - 1, j - 1][2], kerbs[i, j - 1][3], kerbs[i, j][0], kerbs[i - 1, j][1]]
            _add_flat(rng, builder, np.array(corners), "crossing", np.array([0.0, 1.0]))


def _add_road(rng: np.random.Generator, builder: Builder, right: Doubles, left: Doubles) -> None:
    """A street between two kerbs, each (2, 2) from its start to its end, with zebras at both ends."""
    along = (right[1] - right[0]) / np.linalg.norm(right[1] - right[0])
    steps = np.linspace(0, 1, max(3, round(float(np.linalg.norm(right[1] - right[0])) / _PIECE_M)) + 1)[:, None]
    rights, lefts = right[0] + steps * (right[1] - right[0]), left[0] + steps * (left[1] - left[0])
    for k in range(len(steps) - 1):
        kind = "zebra" if k in (0, len(steps) - 2) else "road"
        _add_flat(rng, builder, np.array([lefts[k], rights[k], rights[k + 1], lefts[k + 1]]), kind, along)


def _add_flat(
    rng: np.random.Generator,
    builder: Builder,
    outline: Doubles,
    kind: str,
    along: Doubles,
    *,
    height: float = 0.0,
    texels: float = 32.0,
) -> None:
    """A level quadrilateral with the columns of its texture ``along`` (2,), painted like no other."""
    aside = np.array([-along[1], along[0]])
    u, v = outline @ aside, outline @ along
    anchor = np.append(u.min() * aside + v.min() * along, height)
    size = (round(float(np.ptp(u)), 3), round(float(np.ptp(v)), 3))
    paint = Paint(kind, int(rng.integers(1 << 30)), size, texels)
    corners = np.column_stack([outline, np.full(4, height)])
    builder.add(corners, paint, anchor, np.append(aside, 0.0), np.append(along, 0.0))


def _add_blocks(rng: np.random.Generator, builder: Builder, plan: Plan, styles: list[Style]) -> list[Doubles]:
    """Pavements, buildings and what stands on the pavement; returns the points that shine."""
    lamps: list[Doubles] = []
    for cell in _cells(plan.nodes):
        outline = streets.block(plan.nodes, *cell)
        pavement = rng.uniform(2.4, 3.4)
        kerb, line = streets.inset(outline, ROAD_HALF_M), streets.inset(outline, ROAD_HALF_M + pavement)
        _add_flat(rng, builder, line, "yard", np.array([0.0, 1.0]), texels=10.0)
        lots, gaps = buildings.divide(rng, line, styles)
        for lot in lots:
            buildings.add_building(builder, lot)
        for gap in gaps:
            _add_gap(rng, builder, gap)
        for side in range(4):
            after = (side + 1) % 4
            _add_pavement(rng, builder, kerb[[side, after]], line[[side, after]])
            lamps += _furnish(rng, builder, kerb[[side, after]])
    return lamps


def _add_gap(rng: np.random.Generator, builder: Builder, gap: Doubles) -> None:
    """A hoarding before an empty lot with a tree on it."""
    width = float(np.linalg.norm(gap[1] - gap[0]))
    across = np.append((gap[1] - gap[0]) / width, 0.0)
    height = float(rng.uniform(1.8, 2.4))
    paint = Paint("hoarding", int(rng.integers(1 << 30)), (round(width, 3), round(height, 3)), 50.0)
    builder.panel(np.append(gap[0], height), across, -UP, paint, strip_m=4.0)
    furniture.add_tree(rng, builder, np.append(gap.mean(0), 0.0) + 4 * np.cross(UP, across))


def _add_pavement(rng: np.random.Generator, builder: Builder, kerb: Doubles, line: Doubles) -> None:
    """Slabs between the (2, 2) kerb and the building line, and the kerb's face."""
    length = float(np.linalg.norm(kerb[1] - kerb[0]))
    along = (kerb[1] - kerb[0]) / length
    steps = np.linspace(0, 1, max(1, round(length / _PIECE_M)) + 1)[:, None]
    outer, inner = kerb[0] + steps * (kerb[1] - kerb[0]), line[0] + steps * (line[1] - line[0])
    for k in range(len(steps) - 1):
        corners = np.array([outer[k], outer[k + 1], inner[k + 1], inner[k]])
        _add_flat(rng, builder, corners, "pavement", along, height=_KERB_M)
        face = Paint(
            "kerb", int(rng.integers(24)), (round(float(np.linalg.norm(outer[k + 1] - outer[k])), 3), _KERB_M), 40.0
        )
        builder.panel(np.append(outer[k], _KERB_M), np.append(along, 0.0), -UP, face, reach=90.0)


def _furnish(rng: np.random.Generator, builder: Builder, kerb: Doubles) -> list[Doubles]:
    """Trees, lamps, signs and bins along one side of a block; returns where its lamps shine."""
    length = float(np.linalg.norm(kerb[1] - kerb[0]))
    along = np.append((kerb[1] - kerb[0]) / length, 0.0)
    to_street = np.cross(along, UP)
    start = np.append(kerb[0], _KERB_M) - 0.5 * to_street
    lamps = [
        furniture.add_lamp(rng, builder, start + along_m * along, to_street)
        for along_m in np.arange(rng.uniform(6, 20), length - 4, 29.0)
    ]
    leafy = rng.random() < 0.55
    along_m = rng.uniform(4, 12)
    while along_m < length - 3:
        kind = rng.random()
        spot = start + along_m * along - rng.uniform(0, 0.3) * to_street
        if leafy and kind < 0.6:
            furniture.add_tree(rng, builder, spot)
        elif kind < 0.3:
            furniture.add_bin(rng, builder, spot, along)
        elif kind < 0.5:
            furniture.add_sign(rng, builder, spot, to_street * rng.choice([-1, 1]))
        along_m += rng.uniform(5, 12)
    return lamps


def _parking(plan: Plan) -> Doubles:
    """A place for a car every 6.4 m on both sides of each street, away from the crossings."""
    spots = []
    for street in plan.streets:
        for side in (1, -1):
            for along_m in np.arange(15.0, street.length_m - 14.0, 6.4):
                east, north = street.at(along_m, side * PARKED_M)
                spots.append([east, north, np.deg2rad(street.heading_deg + (0 if side > 0 else 180))])
    return np.array(spots)
