"""``vpr demo-city``: a data set without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import say


def demo_city(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write database/, queries/ and cameras.csv into.")],
    places: Annotated[int, typer.Option(help="Stops of the drive through the city.", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Another seed, another city.", min=0)] = 0,
    width: Annotated[int, typer.Option(help="Width of the pictures.", min=32)] = 480,
    height: Annotated[int, typer.Option(help="Height of the pictures.", min=32)] = 360,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one per core.", min=0)] = 0,
    with_depth: Annotated[bool, typer.Option(help="Write the depth of every picture too.")] = False,
) -> None:
    """Render a small city with known positions: a drive by day, queries at other hours and from other sides."""
    from vpr.datasets.demo_city import write_demo_city

    dataset = write_demo_city(
        out, places=places, seed=seed, size=(width, height), workers=workers or None, with_depth=with_depth
    )
    say(f"{len(dataset.database)} database and {len(dataset.queries)} query pictures: {out}")
    say(f"vpr run --database {out / 'database'} --queries {out / 'queries'} --out {out / 'run'}")
