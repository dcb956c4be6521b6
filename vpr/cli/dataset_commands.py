"""``vpr datasets``: the conventions that can be read, and the catalogue of protocols."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import say
from vpr.core import DataError

MOST_NAMED = 10

app = typer.Typer(help="Data sets: known protocols, and the conventions that can be read.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Print every named protocol with its rule."""
    from vpr import datasets

    for name, record in datasets.PROTOCOLS.items():
        say(f"{name:24} {datasets.protocol_hash(record)}  {record.dataset}, {datasets.rule(record)}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A name from `vpr datasets list`.")]) -> None:
    """Print what a protocol asks for: images, rule, files, and how to obtain them."""
    from vpr import datasets

    say(datasets.describe(datasets.protocol(name)))


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A name from `vpr datasets list`.")],
    root: Annotated[Path, typer.Argument(help="The folder that holds the data set.")],
) -> None:
    """Look whether a data set on disk is the one that a protocol means: layout, counts, every file, frames, positives.

    Nothing is changed or downloaded. Ends with status 1 if anything is missing.
    """
    from vpr import datasets
    from vpr.datasets import ground_truth
    from vpr.datasets.frames import frames_of

    record = datasets.protocol(name)
    dataset = datasets.find(record, root)
    absent = [(images, datasets.missing_images(images)) for images in (dataset.database, dataset.queries)]
    for images, names in absent:
        for missing in names[:MOST_NAMED]:
            say(f"missing: {images.root / missing}")
        if len(names) > MOST_NAMED:
            say(f"and {len(names) - MOST_NAMED} more below {images.root}")
    judged = datasets.judge(dataset, record)
    say(ground_truth.check_text(ground_truth.check(judged)))
    count = sum(len(names) for _, names in absent)
    if count:
        raise DataError(f"{root}: {count} images of {name} are missing or empty")
    astray = frames_of(dataset, record.query_step).remarks if record.frames is not None else ()
    if astray:
        raise DataError(f"{root}: {'; '.join(astray)}")
    say(f"{root}: every image is there; judged by {judged.protocol}.")
    if None in (record.database, record.queries):
        say(f"How many images {name} has is not known in full, so the counts were not all compared.")


@app.command()
def readers() -> None:
    """Print every convention that `vpr run --reader NAME --source ...` reads, and what each needs."""
    from vpr import datasets

    for name, reader in datasets.READERS.items():
        parameters = inspect.signature(reader.read).parameters.values()
        sources = [f"{p.name}=..." if p.default is p.empty else f"[{p.name}={p.default}]" for p in parameters]
        say(f"{name}\n  {reader.layout}\n  --source {' '.join(sources)}\n")
