"""Frames of a video as images, with time and, where a GPX track or the container has it, position. By PyAV."""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vpr.core import ConfigError, DataError, Image
from vpr.runtime.files import write_atomically

logger = logging.getLogger(__name__)

FORMATS = ("jpg", "png")
QUALITY = 95  # of a JPEG
LARGEST_GPX = 256 << 20  # bytes
_ISO6709 = re.compile(r"([+-]\d+(?:\.\d+)?)([+-]\d+(?:\.\d+)?)")


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video."""

    number: int  # counted from 0
    seconds: float  # from the start of the video
    image: Image  # (H, W, 3) RGB, upright


@dataclass(frozen=True, eq=False)
class Track:
    """Where somebody was, when."""

    times: np.ndarray[Any, np.dtype[np.float64]]  # (N,) seconds since 1970, rising
    degrees: np.ndarray[Any, np.dtype[np.float64]]  # (N, 2) latitude, longitude

    def at(self, time: float) -> tuple[float, float] | None:
        """Latitude and longitude between two points of the track; None before its start and after its end."""
        if not self.times[0] <= time <= self.times[-1]:
            return None
        latitude, longitude = (float(np.interp(time, self.times, self.degrees[:, axis])) for axis in (0, 1))
        return latitude, longitude


def read_frames(path: Path, every: int) -> Iterator[Frame]:
    """Every so many frames of a video, the first included. Raises DataError for a file that is no video."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            start = stream.start_time or 0
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    seconds = 0.0 if frame.pts is None else float((frame.pts - start) * stream.time_base)
                    turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                    yield Frame(number, seconds, np.ascontiguousarray(turned))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a video: {error}") from None


def read_beginning(path: Path) -> tuple[float | None, tuple[float, float] | None]:
    """When the video began, in seconds since 1970, and where, as its container says; None where it does not."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            metadata = dict(container.metadata)
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a video: {error}") from None
    place = metadata.get("com.apple.quicktime.location.ISO6709") or metadata.get("location") or ""
    found = _ISO6709.match(place)
    degrees = (float(found[1]), float(found[2])) if found else None
    return _seconds(metadata.get("com.apple.quicktime.creationdate") or metadata.get("creation_time") or ""), degrees


def read_gpx(path: Path) -> Track:
    """The track of a GPX file. Raises DataError for anything else, or a track without times."""
    try:
        if path.stat().st_size > LARGEST_GPX:
            raise DataError(f"{path}: larger than {LARGEST_GPX >> 20} MB; cut the track")
        text = path.read_text(encoding="utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:  # GPX has none; entities can grow without end
            raise DataError(f"{path}: declares a document type, which GPX has not; export the track again")
        points = [_point(point) for point in Xml.fromstring(text).iter() if point.tag.rpartition("}")[2] == "trkpt"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, Xml.ParseError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a readable GPX file: {error}") from None
    timed = sorted({time: degrees for time, degrees in points if time is not None}.items())
    if not timed:
        raise DataError(f"{path}: holds no track points with a time")
    return Track(np.array([time for time, _ in timed]), np.array([degrees for _, degrees in timed]))


def write_frames(
    path: Path, out: Path, every: int, form: str = "jpg", *, track: Track | None = None, start: float | None = None
) -> list[str]:
    """Write every so many frames into a folder, with ``points.csv`` (name, time, latitude, longitude); returns names.

    ``start`` is when the video began, in seconds since 1970; by default what its container says. Positions are those of
    the track at the time of a frame; without one, the container's position for all. Raises ConfigError for arguments
    that make no sense, DataError for a file that is no video.
    """
    if form not in FORMATS or every < 1:
        raise ConfigError(
            f"format {form!r}, every {every}: frames are written as {' or '.join(FORMATS)}, every 1 or more"
        )
    began, place = read_beginning(path)
    start = began if start is None else start
    if track is not None and start is None:
        raise DataError(f"{path}: does not say when it began, so the track does not say where it was; give the start")
    out.mkdir(parents=True, exist_ok=True)
    names, lines = [], ["name,time,latitude,longitude\n"]
    for frame in read_frames(path, every):
        name = f"{path.stem}_{frame.number:07d}.{form}"
        options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if form == "jpg" else []
        _, data = cv2.imencode(f".{form}", frame.image[..., ::-1], options)
        write_atomically(out / name, data.tobytes())
        time = None if start is None else start + frame.seconds
        degrees = track.at(time) if track is not None and time is not None else place
        said = datetime.fromtimestamp(time, UTC).isoformat() if time is not None else ""
        lines.append(f'"{name}",{said},{degrees[0]:.7f},{degrees[1]:.7f}\n' if degrees else f'"{name}",{said},,\n')
        names.append(name)
    write_atomically(out / "points.csv", lines)
    return names


def _point(point: Xml.Element) -> tuple[float | None, tuple[float, float]]:
    time = next((child.text or "" for child in point if child.tag.rpartition("}")[2] == "time"), "")
    return _seconds(time), (float(point.attrib["lat"]), float(point.attrib["lon"]))


def _seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigError('reading videos needs PyAV: pip install "vpr[video]"') from None
    return av
