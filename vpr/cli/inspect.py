"""``vpr inspect``: a page to look at one finished run, or two side by side, item by item."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr.cli.common import say
from vpr.cli.compare import short_names

if TYPE_CHECKING:
    from vpr.inspection.items import InspectedRun

PAGE = "inspect.html"


def inspect(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Output folder of vpr run or vpr evaluate.")],
    run_b: Annotated[
        Path | None, typer.Argument(metavar="[RUN_B]", help="Output folder of another, on the same data.")
    ] = None,
    *,
    items: Annotated[int, typer.Option(help="Pairs or queries whose matches are in the page.", min=0)] = 30,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help=f"The page; RUN_A/{PAGE} by default.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Open the page in the browser.")] = False,
) -> None:
    """Make a page with a scatter of two metrics over all pairs or queries, and the matches of the one that is chosen.

    With two runs, both methods stand side by side. The page is one file that needs no network. Matches are computed
    again by the settings of each run, for half of the items where the runs differ most, or the run is wrong, and for
    others evenly spread.
    """
    from vpr.inspection.page import write_page

    folders = [run_a] if run_b is None else [run_a, run_b]
    runs = [_opened(folder) for folder in folders]
    titles = [run_a.absolute().name] if run_b is None else list(short_names(run_a, run_b))
    path = out or run_a / PAGE
    write_page(path, runs, titles, items)
    say(f"Page: {path}")
    if show:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())


def _opened(folder: Path) -> InspectedRun:
    """The run of a folder; its kind is told by its files."""
    from vpr.geometry_benchmark import SUMMARY
    from vpr.inspection.benchmarked import InspectedBenchmark
    from vpr.inspection.queries import InspectedQueries

    return InspectedBenchmark(folder) if (folder / SUMMARY).exists() else InspectedQueries(folder)
