"""Small maps, and methods that take no time, for the tests of maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import textured, write_picture

from vpr.maps import Map
from vpr.settings import configured

# Without weights: the codec of local features is fitted on the map.
SMALL: dict[str, Any] = {
    "local_features": {"method": "rootsift", "max_keypoints": 200},
    "global_descriptor": {"method": "thumbnail", "width": 32, "height": 16},
    "rerank": {"k": 5},
    "machine": {"device": "cpu", "threads": 1},
}
LATITUDE, LONGITUDE = 55.7, 13.2


def write_images(folder: Path, places: range) -> Path:
    """One view of each place."""
    for place in places:
        write_picture(folder / f"{place:03d}.png", view(place))
    return folder


def view(place: int, shift: int = 0) -> np.ndarray[Any, Any]:
    return textured(place, 140, 180)[shift : 120 + shift, shift : 160 + shift]


def write_positions(path: Path, places: range) -> Path:
    """Places 100 m apart on a meridian, one an hour, with a camera."""
    lines = ["name,latitude,longitude,heading,time,group,camera,speed"]
    for place in places:
        camera = "left" if place % 2 else "right"
        lines.append(
            f"{place:03d}.png,{LATITUDE + 0.0009 * place},{LONGITUDE},{10 * place},2024-05-01T{place % 24:02d}:00:00Z,"
            f"drive{place // 4},{camera},{place * 1.5}"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def small_map(tmp_path: Path, count: int = 6, **settings: Any) -> Map:
    """A map of ``count`` places."""
    images = write_images(tmp_path / "images", range(count))
    positions = write_positions(tmp_path / "points.csv", range(count))
    return Map.create(tmp_path / "city", images, positions, config=None, **{**SMALL, **settings})


def empty_map(folder: Path) -> Map:
    return Map.begin(folder, configured(None, SMALL))
