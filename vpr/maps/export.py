"""A map as other programs read it: a csv file, GeoJSON, or a kapture tree."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vpr.core import ConfigError, DataError
from vpr.datasets.placed import Position
from vpr.maps.manifest import StoredImage
from vpr.runtime.files import write_atomically

_FIELDS = ("latitude", "longitude", "utm_east", "utm_north", "utm_zone", "heading", "time", "group")
_SENSORS = """# kapture format: 1.1
# sensor_device_id, name, sensor_type, [sensor_params]+
{cameras}gps, gps, gnss, EPSG:4326
"""


def export(images: Iterable[StoredImage], out: Path, form: str) -> int:
    """Write the images in a form of ``FORMS``; returns how many. Raises ConfigError for another form.

    "csv", "places" and "geojson" are files, "kapture" is a folder that must not exist. The first two are csv files that
    ``vpr map add --positions`` reads.
    """
    if form not in FORMS:
        raise ConfigError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    chosen = list(images)
    out.parent.mkdir(parents=True, exist_ok=True)
    FORMS[form](chosen, out)
    return len(chosen)


def time_text(seconds: float | None) -> str:
    """ISO 8601 in UTC; "" where the time is unknown."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def location_text(position: Position | None) -> str:
    """Latitude and longitude as "55.7, 13.2"; "" where they are unknown."""
    degrees = None if position is None else position.degrees
    return "" if degrees is None else f"{degrees[0]!r}, {degrees[1]!r}"


def feature(image: StoredImage) -> dict[str, Any]:
    """An image as a GeoJSON feature (RFC 7946); without a geometry where its latitude is unknown."""
    degrees = None if image.position is None else image.position.degrees
    properties = {"id": image.id, "name": image.name, **_row(image), **dict(image.columns)}
    return {
        "type": "Feature",
        "id": image.id,
        "geometry": None if degrees is None else {"type": "Point", "coordinates": [degrees[1], degrees[0]]},
        "properties": {key: value for key, value in properties.items() if value != ""},
    }


def _write_csv(images: Sequence[StoredImage], out: Path) -> None:
    known = {"name", *_FIELDS}
    free = sorted({column for image in images for column in image.columns} - known)
    write_atomically(out, _lines(images, ["name", *_FIELDS, *free]))


def _write_places(images: Sequence[StoredImage], out: Path) -> None:
    """The place database of SuperGlue-for-VPR, without its column of absolute paths."""
    rows = [[image.name, location_text(image.position), time_text(image.time)] for image in images]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("file_name", "location", "date_taken"), *rows])
    write_atomically(out, buffer.getvalue())


def _lines(images: Iterable[StoredImage], columns: Sequence[str]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for image in images:
        writer.writerow({**dict(image.columns), "name": image.name, **_row(image)})
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _row(image: StoredImage) -> dict[str, Any]:
    place = image.position
    values = (None,) * 5 if place is None else tuple(vars(place).values())
    said = (*values, image.heading, time_text(image.time), image.group)
    return {name: "" if value is None else value for name, value in zip(_FIELDS, said, strict=True)}


def _write_geojson(images: Sequence[StoredImage], out: Path) -> None:
    def pieces() -> Iterator[str]:
        yield '{"type": "FeatureCollection", "features": [\n'
        for place, image in enumerate(images):
            yield (",\n" if place else "") + json.dumps(feature(image), ensure_ascii=False, allow_nan=False)
        yield "\n]}\n"

    write_atomically(out, pieces())


def _write_kapture(images: Sequence[StoredImage], out: Path) -> None:
    """A kapture 1.1 tree without the images: records of one camera per size, and GNSS; a time step per image."""
    if out.exists():
        raise DataError(f"{out}: exists; a kapture tree is written to a new folder")
    bad = next((image.name for image in images if "," in image.name), None)
    if bad is not None:
        raise DataError(f"{bad!r}: kapture's lists separate fields by commas, so names have none; rename the image")
    sensors = out / "sensors"
    sensors.mkdir(parents=True)
    camera = "camera, camera, camera, UNKNOWN_CAMERA, 0, 0\n"
    (sensors / "records_data").mkdir()
    write_atomically(sensors / "sensors.txt", _SENSORS.format(cameras=camera))
    head = "# kapture format: 1.1\n# timestamp, device_id, "
    records = [f"{image.id}, camera, {image.name}\n" for image in images]
    write_atomically(sensors / "records_camera.txt", [f"{head}image_path\n", *records])
    fixes = []
    for image in images:
        degrees = None if image.position is None else image.position.degrees
        if degrees is not None:
            time = 0 if image.time is None else int(image.time)
            fixes.append(f"{image.id}, gps, {degrees[1]!r}, {degrees[0]!r}, 0.0, {time}, 0.0\n")
    write_atomically(sensors / "records_gnss.txt", [f"{head}x, y, z, utc, dop\n", *fixes])


FORMS: Mapping[str, Callable[[Sequence[StoredImage], Path], None]] = {
    "csv": _write_csv,
    "places": _write_places,
    "geojson": _write_geojson,
    "kapture": _write_kapture,
}
