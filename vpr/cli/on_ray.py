"""Options of the commands whose work a Ray cluster may do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from vpr.runtime.units import Workers

HERE = "auto"
_ADDRESS = re.compile(r"auto|\S*://\S*|\S+:\d+")
_PANEL = "On a Ray cluster (docs/cluster.md)"

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[HOST:PORT]",
        rich_help_panel=_PANEL,
        help="Let the machines of a Ray cluster do the work; the result is the same. Without an address, the cluster "
        "that this machine belongs to, or else all cores of this machine.",
    ),
]
StagingOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|URL",
        rich_help_panel=_PANEL,
        help="Where workers leave their results until they are stored: a folder that all machines share, or a URL as "
        "s3://bucket/staging. By default a folder in what is written.",
    ),
]
WorkerCpusOption = Annotated[
    int, typer.Option(rich_help_panel=_PANEL, min=1, help="Processors of each worker, which decode its images.")
]
WorkerGpusOption = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_PANEL,
        min=0,
        help="GPUs of each worker; 0.5 lets two share one. By default 1 where the cluster has any.",
    ),
]


class RayCommand(TyperCommand):
    """Lets --ray stand without an address, before any other word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: list[str] = []
        for place, argument in enumerate(args):
            given.append(argument)
            if argument == "--ray" and not _ADDRESS.fullmatch(args[place + 1] if place + 1 < len(args) else ""):
                given.append(HERE)
        return super().parse_args(ctx, given)


@contextmanager
def ray_workers(
    address: str | None, staging: str | None, cpus: int, gpus: float | None, folder: Path
) -> Iterator[Workers | None]:
    """The workers of the options, for a command that writes to ``folder``; None without --ray."""
    if address is None:
        yield None
        return
    from vpr.cluster import RayOptions, on_ray

    with on_ray(RayOptions(address, staging, cpus, gpus), folder) as workers:
        yield workers
