"""Frames of videos, with time and position."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vpr.core import ConfigError, DataError
from vpr.datasets.placed_csv import by_csv
from vpr.video import read_frames, read_gpx, write_frames

av = pytest.importorskip("av")

GPX = """<?xml version="1.0"?><gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>
<trkpt lat="55.0" lon="13.0"><time>2024-05-01T10:00:00Z</time></trkpt>
<trkpt lat="55.1" lon="13.2"><time>2024-05-01T10:00:10Z</time></trkpt></trkseg></trk></gpx>"""


def video(path: Path, frames: int = 20, rate: int = 2, **metadata: str) -> Path:
    """Each frame is of another brightness."""
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            image = np.full((48, 64, 3), 10 * number + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_every_so_many_frames_with_their_times(tmp_path: Path) -> None:
    found = list(read_frames(video(tmp_path / "drive.mp4"), 6))
    assert [frame.number for frame in found] == [0, 6, 12, 18]
    assert [frame.seconds for frame in found] == pytest.approx([0, 3, 6, 9])
    for frame in found:
        assert frame.image.shape == (48, 64, 3) and abs(float(frame.image.mean()) - (10 * frame.number + 20)) < 4


@pytest.mark.parametrize("form", ["jpg", "png"])
def test_frames_have_the_positions_of_a_track(tmp_path: Path, form: str) -> None:
    (tmp_path / "track.gpx").write_text(GPX)
    path = video(tmp_path / "drive.mp4", frames=24)
    out = tmp_path / "frames"
    names = write_frames(path, out, 10, form, track=read_gpx(tmp_path / "track.gpx"), start=1714557600.0)
    images = by_csv(out, names, out / "points.csv")
    assert [image.name for image in images] == [f"drive_{number:07d}.{form}" for number in (0, 10, 20)]
    assert [image.time for image in images] == pytest.approx([1714557600, 1714557605, 1714557610])
    degrees = [image.position.degrees for image in images if image.position is not None]
    assert np.array(degrees) == pytest.approx(np.array([(55.0, 13.0), (55.05, 13.1), (55.1, 13.2)]))
    assert cv2.imread(str(out / names[0])).shape == (48, 64, 3)


def test_the_container_says_where_and_when(tmp_path: Path) -> None:
    path = video(tmp_path / "drive.mp4", location="+55.7000+013.2000/", creation_time="2024-05-01T10:00:00.000000Z")
    write_frames(path, tmp_path / "out", 100)
    assert (tmp_path / "out" / "points.csv").read_text().splitlines()[1] == (
        '"drive_0000000.jpg",2024-05-01T10:00:00+00:00,55.7000000,13.2000000'
    )


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"x\.mp4: cannot be read as a video"):
        list(read_frames(tmp_path / "x.mp4", 1))
    with pytest.raises(DataError, match="cannot be read"):
        write_frames(tmp_path / "missing.mp4", tmp_path / "out", 1)
    path = video(tmp_path / "drive.mp4", frames=2)
    with pytest.raises(ConfigError, match="jpg or png"):
        write_frames(path, tmp_path / "out", 1, "bmp")
    (tmp_path / "track.gpx").write_text(GPX)
    with pytest.raises(DataError, match="give the start"):
        write_frames(path, tmp_path / "out", 1, track=read_gpx(tmp_path / "track.gpx"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<gpx", "not a readable GPX file"),
        ("<gpx></gpx>", "no track points with a time"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><gpx>&a;</gpx>', "document type"),
        ('<gpx><trkpt lat="north" lon="1"/></gpx>', "not a readable GPX file"),
    ],
)
def test_what_is_no_track_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "track.gpx").write_text(text)
    with pytest.raises(DataError, match=said):
        read_gpx(tmp_path / "track.gpx")
