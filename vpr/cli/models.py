"""``vpr models``: weights: list the published ones, fetch them, tell what a file is, average them, export them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vpr.cli.common import say

if TYPE_CHECKING:
    from vpr.weights.manifest import Entry
    from vpr.weights.recognition import Recognised

app = typer.Typer(
    help="Weights: list the published ones, fetch them, tell what a file is, export it.", no_args_is_help=True
)


@app.command("list")
def list_() -> None:
    """Print every published file by its name: the methods that take it, its licence, and where it was found."""
    from vpr.weights.finding import locate
    from vpr.weights.manifest import read_manifest

    for entry in read_manifest().values():
        place = locate(entry)
        found = f"{place.path} ({place.kind})" if place else f"- (package {entry.package})" if entry.package else "-"
        say(f"{entry.name:30} {', '.join(entry.loads) or '(none yet)':23} {entry.licence:33} {found}")


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(help="Names from `vpr models list`.", metavar="NAME...")]) -> None:
    """Download published weights, after printing their licences; an interrupted download is continued."""
    from vpr.weights.manifest import entry_of, read_manifest

    manifest = read_manifest()
    for entry in [entry_of(name, manifest) for name in names]:
        say(f"{entry.name}: {fetch_absent(entry)}")


def fetch_absent(entry: Entry) -> Path:
    """A published file on this machine; it is downloaded, after its licence is printed, if it is not there."""
    from vpr.weights import download
    from vpr.weights.finding import locate

    place = locate(entry)
    if place is not None:
        return place.path
    say(entry.terms)
    return download.fetch(entry)


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="A file of weights, or a name from `vpr models list`.")],
) -> None:
    """Tell what a file of weights is, whatever it is wrapped in, without running code in it.

    The status is 1 if it cannot be read safely, is of no known kind, or lacks tensors of its kind. A kind may be known
    that no method of vpr loads.
    """
    from vpr.weights.checkpoint import WeightsError, read_checkpoint, some
    from vpr.weights.finding import find, known_as
    from vpr.weights.recognition import recognise
    from vpr.weights.record import record_of

    found = find(file)
    state = read_checkpoint(found.path)
    say(f"file       {found.path}")
    say(f"sha256     {found.sha256}")
    say(f"known as   {', '.join(known_as(found.sha256)) or 'no published or recorded file has this hash'}")
    say(f"tensors    {len(state)}, with {sum(tensor.numel() for tensor in state.values()):,} parameters")
    recognised = recognise(state)
    if recognised is None:
        raise WeightsError(f"{found.path}: weights of no known kind; {some('they have', state.keys())}")
    _describe(recognised)
    record = record_of(file) or record_of(str(found.path))
    if record is not None and record.trained_for is not None:
        wanted = record.trained_for
        say(f"trained for {' '.join(filter(None, (wanted.method, wanted.weights)))}, descriptors of {wanted.dim}")
    if record is not None and record.recipe:
        say(f"recipe     {', '.join(f'{key} = {value}' for key, value in record.recipe.items())}")
    if recognised.missing:
        raise WeightsError(f"{found.path}: lacks tensors that {recognised.layout.name} needs")


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="A file of weights, or a name from `vpr models list`.")],
    out: Annotated[Path, typer.Option(help="The file to write: .pth, or .safetensors.")],
    layout: Annotated[Literal["official"], typer.Option(help="official: names of tensors as published.")] = "official",
) -> None:
    """Write weights as the published code loads them: their names as published, all values in float32.

    The file carries the recipe of the weights, so that they give the same results as before.
    """
    import io
    from collections import OrderedDict

    import torch
    from safetensors.torch import save

    from vpr.runtime.files import write_atomically
    from vpr.weights.checkpoint import WeightsError, read_checkpoint
    from vpr.weights.finding import find
    from vpr.weights.record import Record, other_metadata, record_of

    if out.suffix not in (".pth", ".safetensors"):
        raise WeightsError(f"{out}: give a name that ends with .pth or .safetensors")
    found = find(file)
    state = OrderedDict(
        (key, (value.float() if value.is_floating_point() else value).contiguous())
        for key, value in read_checkpoint(found.path).items()
    )
    metadata = (record_of(file) or Record()).as_metadata(other_metadata(found.path))
    if out.suffix == ".pth":
        vars(state)["_metadata"] = metadata  # as a state_dict keeps the versions of its modules
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(out, content.getvalue())
    else:
        write_atomically(out, save(state, metadata))
    say(f"{len(state)} tensors: {out}")


@app.command()
def average(
    files: Annotated[list[Path], typer.Argument(help="Weights of one training, such as OUT/weights-*.safetensors.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
) -> None:
    """Write the mean of several weights of one training (`--set train.keep_every=1000` keeps them).

    The recipe, and the local features that the weights are for, are those of the first file.
    """
    from safetensors.torch import save

    from vpr.runtime.files import write_atomically
    from vpr.weights.averaging import average_weights
    from vpr.weights.checkpoint import WeightsError
    from vpr.weights.record import Record, other_metadata, record_of

    if out.suffix != ".safetensors":
        raise WeightsError(f"{out}: give a name that ends with .safetensors")
    state = average_weights(files)
    metadata = (record_of(str(files[0])) or Record()).as_metadata(other_metadata(files[0]))
    write_atomically(out, save(state, metadata))
    say(f"{len(files)} weights, {len(state)} tensors: {out}")


def _describe(found: Recognised) -> None:
    from vpr.weights.checkpoint import some

    layout = found.layout
    say(f"kind       {found.kind}")
    nothing = "known, not loadable yet: no method of vpr takes such weights"
    say(f"loads as   {' or '.join(layout.loads) or nothing}")
    say(f"sizes      {', '.join(f'{name} {size}' for name, size in found.sizes.items()) or 'not known'}")
    if not layout.keys:
        return
    said = [some(what, names) for what, names in (("missing", found.missing), ("not used", found.unused))]
    say(f"keys       {'; '.join(filter(None, said)) or 'all there, none too many'}")
