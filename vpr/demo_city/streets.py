"""The street plan: a slightly irregular grid, which of its streets are driven, and the outlines of its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vpr.core import Doubles

ROAD_HALF_M = 5.0  # from the middle of a street to the kerb
PARKED_M = 3.95  # from the middle of a street to the middle of a parked car
LANE_M = 1.5  # from the middle of a street to the middle of the lane that is driven

Node = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Street:
    """A straight piece of street between two crossings, in the direction of the drive if it is driven."""

    start: Doubles  # (2,) metres, on the middle line, as is end
    end: Doubles

    @property
    def length_m(self) -> float:
        return float(np.linalg.norm(self.end - self.start))

    @property
    def along(self) -> Doubles:
        """(2,) unit direction."""
        return (self.end - self.start) / self.length_m

    @property
    def heading_deg(self) -> float:
        """Clockwise from north."""
        return float(np.rad2deg(np.arctan2(*self.along)) % 360)

    def at(self, along_m: float, right_m: float) -> Doubles:
        """(2,) the point so far along the street and so far to the right of its middle line."""
        along = self.along
        return self.start + along_m * along + right_m * np.array([along[1], -along[0]])


@dataclass(frozen=True, eq=False)
class Plan:
    """Crossings and the streets between them."""

    nodes: Doubles  # (columns, rows, 2) metres; the outermost ring has no crossings, it only closes the blocks
    driven: tuple[Street, ...]  # in the order of the drive
    side_streets: tuple[Street, ...]  # never driven

    @property
    def streets(self) -> tuple[Street, ...]:
        return self.driven + self.side_streets


def lay_out(rng: np.random.Generator, drive_m: float) -> Plan:
    """A grid large enough for a drive of that length that leaves about a third of the streets out."""
    wanted = int(np.ceil(drive_m / 60)) + 1
    columns, rows = 2, 2
    while 0.67 * ((columns - 1) * rows + columns * (rows - 1)) < wanted:
        columns, rows = (columns + 1, rows) if columns == rows else (columns, rows + 1)
    nodes = np.stack(
        np.meshgrid(
            np.cumsum(rng.uniform(72, 96, columns + 2)), np.cumsum(rng.uniform(72, 96, rows + 2)), indexing="ij"
        ),
        axis=-1,
    )
    nodes += rng.uniform(-4, 4, nodes.shape)
    edges = _edges(columns, rows)
    route = _walk(rng, edges, wanted)
    driven = {frozenset(edge) for edge in route}
    others = [edge for edge in edges if frozenset(edge) not in driven]
    return Plan(nodes, *(tuple(Street(nodes[a], nodes[b]) for a, b in part) for part in (route, others)))


def _edges(columns: int, rows: int) -> list[tuple[Node, Node]]:
    east = [((i, j), (i + 1, j)) for i in range(1, columns) for j in range(1, rows + 1)]
    north = [((i, j), (i, j + 1)) for i in range(1, columns + 1) for j in range(1, rows)]
    return east + north


def _walk(rng: np.random.Generator, edges: list[tuple[Node, Node]], count: int) -> list[tuple[Node, Node]]:
    """Drive along ``count`` edges, each once; where the way ends, the drive goes on from a crossing it knows."""
    left = {frozenset(edge) for edge in edges}
    here = edges[int(rng.integers(len(edges)))][0]
    route: list[tuple[Node, Node]] = []
    while len(route) < count:
        ways = sorted(next(iter(edge - {here})) for edge in left if here in edge)
        if not ways:
            known = sorted({node for edge in route for node in edge if any(node in other for other in left)})
            here = known[int(rng.integers(len(known)))]
            continue
        there = ways[int(rng.integers(len(ways)))]
        left.remove(frozenset((here, there)))
        route.append((here, there))
        here = there
    return route


def block(nodes: Doubles, column: int, row: int) -> Doubles:
    """(4, 2) the crossings around a block, counter-clockwise from its south-west."""
    return np.array([nodes[column, row], nodes[column + 1, row], nodes[column + 1, row + 1], nodes[column, row + 1]])


def inset(outline: Doubles, distance_m: float) -> Doubles:
    """The (4, 2) counter-clockwise outline with every side moved inwards by so much."""
    along = np.roll(outline, -1, axis=0) - outline
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    inward = np.column_stack([-along[:, 1], along[:, 0]])
    level = (outline * inward).sum(axis=1) + distance_m  # inward . point = level on each moved side
    corners = [
        np.linalg.solve(np.array([inward[k - 1], inward[k]]), np.array([level[k - 1], level[k]])) for k in range(4)
    ]
    return np.array(corners)
