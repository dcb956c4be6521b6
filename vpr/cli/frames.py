"""``vpr frames``: images out of a video, with time and position."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import say


def frames(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Any format that FFmpeg reads.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the images and points.csv.")],
    every: Annotated[int, typer.Option(metavar="N", help="One image for every N frames.", min=1)] = 60,
    form: Annotated[str, typer.Option("--format", help="jpg or png.")] = "jpg",
    gpx: Annotated[Path | None, typer.Option(help="A GPX track that was recorded beside the video.")] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When the video began, if its container does not say: 2024-05-01T10:00Z"),
    ] = None,
) -> None:
    """Write frames of a video as images, and points.csv with their times and positions for `vpr map --positions`."""
    from vpr.datasets.placed import parse_time
    from vpr.video import read_gpx, write_frames

    track = None if gpx is None else read_gpx(gpx)
    began = None if start is None else parse_time(start, "--start")
    names = write_frames(video, out, every, form, track=track, start=began)
    say(f"{len(names)} images: {out}")
    say(f"vpr map create CITY --images {out} --positions {out / 'points.csv'}")
