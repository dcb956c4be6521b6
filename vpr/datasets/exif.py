"""Where, when and in which direction a photograph was taken, as its EXIF data say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GPS, _EXIF = 0x8825, 0x8769  # directories
_LATITUDE, _LONGITUDE, _DIRECTION = (1, 2), (3, 4), 17  # of the GPS directory; reference and value
_TAKEN, _OFFSET, _CHANGED = 0x9003, 0x9011, 0x0132


@dataclass(frozen=True)
class Exif:
    """What is known; nothing where the file has no such data."""

    degrees: tuple[float, float] | None = None  # latitude, longitude
    heading: float | None = None  # degrees clockwise from north, in [0, 360)
    time: str = ""  # 2024:01:31 23:59:59, with an offset from UTC where the camera wrote one


def read_exif(path: Path) -> Exif:
    """The EXIF data of an image file, which is not decoded; damaged data say nothing."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            data = image.getexif()
            gps, taken = data.get_ifd(_GPS), data.get_ifd(_EXIF)
            changed = data.get(_CHANGED, "")
    except Exception:  # damaged files raise what they like; that they cannot be read is said elsewhere
        return Exif()
    degrees = _angle(gps, _LATITUDE, "S", 90), _angle(gps, _LONGITUDE, "W", 180)
    heading = _number(gps.get(_DIRECTION))
    time = f"{taken.get(_TAKEN) or changed}{taken.get(_OFFSET) or ''}".replace("\x00", "").strip()
    return Exif(
        None if None in degrees or degrees == (0, 0) else (degrees[0] or 0.0, degrees[1] or 0.0),  # 0, 0 is no fix
        None if heading is None else heading % 360,
        time,
    )


def _angle(gps: Mapping[int, Any], tags: tuple[int, int], negative: str, most: float) -> float | None:
    """Degrees of a triple of degrees, minutes and seconds."""
    try:
        parts = [_number(part) for part in gps[tags[1]]]
        degrees, minutes, seconds = [0.0 if part is None else part for part in (*parts, 0.0, 0.0)][:3]
    except (KeyError, TypeError):
        return None
    if not parts or parts[0] is None:
        return None
    angle = degrees + minutes / 60 + seconds / 3600
    angle = -angle if str(gps.get(tags[0], "")).strip("\x00 ").upper() == negative else angle
    return angle if abs(angle) <= most else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None
