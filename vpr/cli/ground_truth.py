"""``vpr gt``: make a ground truth from a table of positions, and look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import RadiusOption, say
from vpr.core import ConfigError

app = typer.Typer(help="Ground truth: make one from positions, or check one.", no_args_is_help=True)


@app.command()
def make(
    table: Annotated[
        Path, typer.Argument(help="csv with a column role (database or query) and lat,lon or UTM columns.")
    ],
    out: Annotated[Path, typer.Option(help="The npz to write; image lists are written beside it.")],
    radius_m: RadiusOption = 25.0,
) -> None:
    """Write a ground-truth npz, and the image lists that belong to it, from a csv of positions."""
    from vpr.datasets import ground_truth, points

    found = points.make_from_csv(table, out, radius_m)
    zone = f", zone {found.zone}" if found.zone else ""
    say(f"{len(found.utm_database)} database images, {len(found.utm_queries)} queries{zone}: {out}")
    say(ground_truth.check_text(ground_truth.check(ground_truth.dataset_of_npz(out))))


@app.command()
def check(
    npz: Annotated[Path | None, typer.Argument(help="A ground-truth npz.")] = None,
    database: Annotated[Path | None, typer.Option(help="Instead of an npz: a folder of images to search.")] = None,
    queries: Annotated[Path | None, typer.Option(help="And a folder of images to place.")] = None,
    radius_m: Annotated[float | None, typer.Option(help="Another radius in metres.", min=0)] = None,
) -> None:
    """Print counts, queries without a positive, and how far the nearest database images are."""
    from vpr import datasets
    from vpr.datasets import ground_truth

    if npz is not None:
        dataset = ground_truth.dataset_of_npz(npz, radius_m)
    elif database is not None and queries is not None:
        dataset = datasets.read_pair(database, queries, 25.0 if radius_m is None else radius_m)
    else:
        raise ConfigError("give the npz of a ground truth, or --database and --queries")
    say(ground_truth.check_text(ground_truth.check(dataset)))
