"""``vpr datasets``: the conventions that can be read, and the catalogue of protocols."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from vpr.cli.common import say

app = typer.Typer(help="Data sets: known protocols, and the conventions that can be read.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Print every named protocol with its rule."""
    from vpr import datasets

    for name, record in datasets.PROTOCOLS.items():
        say(f"{name:24} {record.dataset}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A name from `vpr datasets list`.")]) -> None:
    """Print what a protocol asks for: images, rule, files, and how to obtain them."""
    from vpr import datasets

    say(datasets.describe(datasets.protocol(name)))


@app.command()
def readers() -> None:
    """Print every convention that `vpr run --reader NAME --source ...` reads, and what each needs."""
    from vpr import datasets

    for name, reader in datasets.READERS.items():
        parameters = inspect.signature(reader.read).parameters.values()
        sources = [f"{p.name}=..." if p.default is p.empty else f"[{p.name}={p.default}]" for p in parameters]
        say(f"{name}\n  {reader.layout}\n  --source {' '.join(sources)}\n")
