"""``vpr compare``: two finished runs over the same queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr.cli.common import say
from vpr.core import ConfigError

if TYPE_CHECKING:
    from vpr.core import Ranking
    from vpr.results import RunResult


def compare(
    folder_a: Annotated[Path, typer.Argument(metavar="DIR_A", help="Output folder of a finished run: before.")],
    folder_b: Annotated[Path, typer.Argument(metavar="DIR_B", help="Output folder of another: after.")],
    stage: Annotated[
        str, typer.Option(metavar="first|last", help="Compare the shortlists, or what came out in the end.")
    ] = "last",
    most: Annotated[int, typer.Option(help="Queries named of each kind.", min=0)] = 20,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every query that changed, one JSON object per line.")
    ] = None,
) -> None:
    """Say what changed from one run to another, query by query, and whether it may be chance.

    Runs of different protocols, queries, databases or ground truths are refused: their recalls do not compare.
    """
    from vpr.evaluation.paired import compare_runs
    from vpr.report.differences import comparison_text, difference_lines, settings_that_differ
    from vpr.report.finished import read_run
    from vpr.runtime.files import write_atomically

    one, other = read_run(folder_a), read_run(folder_b)
    ks = sorted({*one.recall_at} & {*other.recall_at})
    if not ks:
        raise ConfigError(f"{folder_a} and {folder_b} have no recall@k in common; set evaluation.recall_at alike")
    comparison = compare_runs(one.dataset, _ranking(one, stage), other.dataset, _ranking(other, stage), ks)
    settings = settings_that_differ(one.settings_toml, other.settings_toml)
    say(comparison_text(comparison, short_names(folder_a, folder_b), settings, most).rstrip())
    if out is not None:
        write_atomically(out, "".join(line + "\n" for line in difference_lines(comparison)))


def _ranking(run: RunResult, stage: str) -> Ranking:
    if stage not in ("first", "last"):
        raise ConfigError(f"--stage {stage!r}: give first (the shortlist) or last (the predictions)")
    return list(run.stages.values())[0 if stage == "first" else -1]


def short_names(one: Path, other: Path) -> tuple[str, str]:
    """Column titles: the last part of each path that tells the two apart."""
    pairs = zip(reversed(one.absolute().parts), reversed(other.absolute().parts), strict=False)
    return next(((a, b) for a, b in pairs if a != b), ("before", "after"))
