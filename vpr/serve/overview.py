"""The images of a map as GeoJSON (RFC 7946) within a box; where there are many, their numbers on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vpr.core import ConfigError, Doubles
from vpr.maps import Map
from vpr.maps.export import feature
from vpr.maps.manifest import WITHIN, Manifest

Box = tuple[float, float, float, float]  # west, south, east, north in degrees
WORLD = "-180,-90,180,90"
_SMALLEST_CELL = 1e-7  # degrees


def parse_box(text: str) -> Box:
    """The box that a text names; raises ConfigError for anything else. West is more than east across 180 degrees."""
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        west = south = east = north = math.nan
    if not (-90 <= south <= north <= 90 and abs(west) <= 180 and abs(east) <= 180):
        raise ConfigError(f"bbox = {text[:80]!r}: give west,south,east,north in degrees, as 13.1,55.6,13.3,55.8")
    return west, south, east, north


def overview(held: Map, box: Box, limit: int) -> dict[str, Any]:
    """A FeatureCollection of at most ``limit`` features: the images in the box, or else clusters with their counts."""
    west, south, east, north = box
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    boxes = [(south, north, *span) for span in spans]
    with held.reading() as (manifest, _):
        count, span_degrees = manifest.spread(boxes)
        if count > limit:
            features = clusters(manifest, boxes, span_degrees, limit)
        else:
            parts = [manifest.places(WITHIN, each, boxed=True) for each in boxes]
            places = np.concatenate([_inside(part, box, span) for part, span in zip(parts, spans, strict=True)])
            numbers = ", ".join(str(int(number)) for number in np.unique(places[:, 0]))
            features = [feature(image) for image in manifest.images(f"images.id IN ({numbers})")]
    return {"type": "FeatureCollection", "features": features}


def clusters(manifest: Manifest, boxes: Sequence[Box], span: float, limit: int) -> list[dict[str, Any]]:
    """Features of at most ``limit`` cells of a grid with the mean of the places in each, and how many they are.

    Boxes are south, north, west, east; ``span`` is the extent of their images in degrees. The grid has cells of
    360 / 2^n degrees from the south pole and 180 degrees west on, so that it does not move with the box. A cell of one
    image names its id; ``limit`` is 4 or more.
    """
    side = math.isqrt(limit) - 1
    cell = 360 / 2 ** math.floor(math.log2(360 * side / max(_SMALLEST_CELL, span)))
    return [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [longitude, latitude]},
            "properties": {"cluster": True, "count": int(count)} if count > 1 else {"id": int(number)},
        }
        for each in boxes
        for number, count, latitude, longitude in manifest.cells(each, cell).tolist()
    ]


def _inside(places: Doubles, box: Box, span: tuple[float, float]) -> Doubles:
    """The places in the box; the R*Tree rounds to a metre and gives some beyond it."""
    latitude, longitude = places[:, 3], places[:, 4]
    kept = (latitude >= box[1]) & (latitude <= box[3]) & (longitude >= span[0]) & (longitude <= span[1])
    return places[kept]
