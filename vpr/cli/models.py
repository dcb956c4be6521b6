"""``vpr models``: weights: list the published ones, fetch them, tell what a file is, and write it for other code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vpr.cli.common import say

if TYPE_CHECKING:
    from vpr.weights.recognition import Recognised

app = typer.Typer(
    help="Weights: list the published ones, fetch them, tell what a file is, export it.", no_args_is_help=True
)


@app.command("list")
def list_() -> None:
    """Print every published file by its name: the methods that take it, its licence, and where it lies, if it does."""
    from vpr.weights.finding import locate
    from vpr.weights.manifest import read_manifest

    for entry in read_manifest().values():
        say(f"{entry.name:30} {', '.join(entry.loads):23} {entry.licence:33} {locate(entry) or '-'}")


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(help="Names from `vpr models list`.", metavar="NAME...")]) -> None:
    """Download published weights, after printing their licences; an interrupted download is continued."""
    from vpr.weights import download
    from vpr.weights.finding import locate
    from vpr.weights.manifest import entry_of, read_manifest

    manifest = read_manifest()
    for entry in [entry_of(name, manifest) for name in names]:
        found = locate(entry)
        if found is None:
            say(entry.terms)
            found = download.fetch(entry)
        say(f"{entry.name}: {found}")


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="A file of weights, or a name from `vpr models list`.")],
) -> None:
    """Tell what a file of weights is, whatever it is wrapped in, without running code in it.

    The status is 1 if it cannot be read safely, is of no known kind, or lacks tensors of its kind.
    """
    from vpr.weights.checkpoint import WeightsError, read_checkpoint, some
    from vpr.weights.finding import find, known_as
    from vpr.weights.recognition import recognise

    found = find(file)
    state = read_checkpoint(found.path)
    say(f"file       {found.path}")
    say(f"sha256     {found.sha256}")
    say(f"known as   {', '.join(known_as(found.sha256)) or 'no published or recorded file has this hash'}")
    say(f"tensors    {len(state)}, with {sum(tensor.numel() for tensor in state.values()):,} numbers")
    recognised = recognise(state)
    if recognised is None:
        raise WeightsError(f"{found.path}: weights of no known kind; {some('they have', state.keys())}")
    _describe(recognised)
    if recognised.missing:
        raise WeightsError(f"{found.path}: lacks tensors that {recognised.layout.name} needs")


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="A file of weights, or a name from `vpr models list`.")],
    out: Annotated[Path, typer.Option(help="The file to write: .pth, or .safetensors.")],
    layout: Annotated[Literal["official"], typer.Option(help="official: names of tensors as published.")] = "official",
) -> None:
    """Write weights as the published code loads them: their names as published, all numbers in float32."""
    import io

    import torch
    from safetensors.torch import save

    from vpr.runtime.files import write_atomically
    from vpr.weights.checkpoint import WeightsError, read_checkpoint
    from vpr.weights.finding import find

    if out.suffix not in (".pth", ".safetensors"):
        raise WeightsError(f"{out}: give a name that ends with .pth or .safetensors")
    state = {
        key: (value.float() if value.is_floating_point() else value).contiguous()
        for key, value in read_checkpoint(find(file).path).items()
    }
    if out.suffix == ".pth":
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(out, content.getvalue())
    else:
        write_atomically(out, save(state))
    say(f"{len(state)} tensors: {out}")


def _describe(found: Recognised) -> None:
    from vpr.weights.checkpoint import some

    layout = found.layout
    say(f"kind       {layout.name}")
    say(f"loads as   {' or '.join(layout.loads) or 'nothing: no method of vpr takes such weights'}")
    say(f"sizes      {', '.join(f'{name} {size}' for name, size in found.sizes.items()) or 'not known'}")
    if not layout.keys:
        return
    said = [some(what, names) for what, names in (("missing", found.missing), ("not used", found.unused))]
    say(f"keys       {'; '.join(filter(None, said)) or 'all there, none too many'}")
