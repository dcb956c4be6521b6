"""``vpr report``: tables and page of a finished run, made again from its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import say
from vpr.cli.run import say_results


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a finished run.")],
    calibrate_on: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Another finished run: fit the probability that a first candidate is right there, try it here.",
        ),
    ] = None,
    failures: Annotated[int | None, typer.Option(help="Failures to show with images.", min=0)] = None,
) -> None:
    """Compute recall, statistics and the page of a run again, from the rows it left; no network is run.

    The tables come out as the run wrote them. Images are read from where they were; match lines are those the run
    kept for the images it showed.
    """
    from vpr.report.finished import calibrated, read_run
    from vpr.report.outputs import remake

    run = read_run(folder)
    if failures is not None:
        run = replace(run, failures=failures)
    if calibrate_on is not None:
        run = replace(run, calibration=calibrated(run, read_run(calibrate_on)))
    remake(folder, run)
    say_results(folder, run)
    for trial in run.calibration:
        say(
            f"Calibration of {trial.confidence}, fitted on {trial.fitted.queries} queries of {trial.fitted_on}: "
            f"error {trial.tried.calibration_error:.3f}, Brier {trial.tried.brier:.3f}"
        )
