"""``vpr export``: features, matches and rankings in the files of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vpr.cli.common import say

app = typer.Typer(help="Write features, matches or rankings in the files of other programs.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="File to write.")]
Hloc = Annotated[Literal["hloc"], typer.Option("--format", help="The only one: HDF5 as hloc reads and writes it.")]


@app.command()
def features(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, of match-pairs, or of feature-extract.")],
    *,
    out: Out,
    kind: Annotated[Literal["local", "global"], typer.Option(help="Local features or global descriptors.")] = "local",
    form: Hloc = "hloc",
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if they were moved.")] = None,
) -> None:
    """Local features (keypoints in pixels of the stored images) or global descriptors, one group for each image.

    Of a run, images have the names of its pairs_hloc.txt.
    """
    from vpr.pairs.exporting import export_descriptors, export_features

    count = export_features(folder, out, images) if kind == "local" else export_descriptors(folder, out, images)
    say(f"Features of {count} images: {out}")


@app.command()
def matches(
    folder: Annotated[Path, typer.Argument(help="Folder that `vpr match-pairs` wrote.")],
    *,
    out: Out,
    form: Hloc = "hloc",
) -> None:
    """Matches and their confidences, one group for each pair."""
    from vpr.pairs.exporting import export_matches

    say(f"Matches of {export_matches(folder, out)} pairs: {out}")


@app.command()
def colmap(
    folder: Annotated[Path, typer.Argument(help="Folder that `vpr match-pairs` wrote.")],
    *,
    out: Out,
    shared_cameras: Annotated[
        bool, typer.Option("--shared-cameras", help="One camera for all images of one size, not one for each image.")
    ] = False,
) -> None:
    """A COLMAP database: cameras, images, keypoints, matches and two-view geometries."""
    from vpr.pairs.exporting import export_colmap

    say(f"Database of {export_colmap(folder, out, shared_cameras=shared_cameras)} images: {out}")


@app.command("msls-challenge")
def msls_challenge(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    *,
    out: Out,
    k: Annotated[int, typer.Option(help="Candidates of each query.", min=1)] = 25,
) -> None:
    """Predictions as the MSLS challenge takes them: on each line a query's key and the keys of its candidates."""
    from vpr.report.finished import read_run
    from vpr.report.msls_challenge import write_msls_challenge

    run = read_run(folder)
    write_msls_challenge(out, run.dataset, list(run.stages.values())[-1], k)
    say(f"Predictions of {len(run.dataset.queries)} queries: {out}")
