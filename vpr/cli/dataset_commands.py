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


@app.command("panoptic-to-cs34")
def panoptic_to_cs34(
    *,
    src: Annotated[Path, typer.Option(help="Folder of COCO's panoptic masks.")],
    ann: Annotated[Path, typer.Option(help="The panoptic json of these masks.")],
    dst: Annotated[Path, typer.Option(help="Folder for grey masks of Cityscapes ids.")],
    categories: Annotated[
        Path | None, typer.Option(help="A json list of categories with id and name, instead of those in --ann.")
    ] = None,
) -> None:
    """Turn COCO's panoptic masks into grey ones of Cityscapes' 34 ids. Masks that are there already stay."""
    from vpr.datasets.panoptic import read_panoptic, write_cs34

    written, found = write_cs34(read_panoptic(ann, categories), src, dst)
    say(f"{written} masks written, {found} were there: {dst}")


@app.command("cs34-categories")
def cs34_categories(
    *,
    dst: Annotated[Path, typer.Option(help="File to write, a json list of classes.")],
    classes: Annotated[int, typer.Option(help="34 of Cityscapes; or 4: static, flat, dynamic, unstable.")] = 34,
) -> None:
    """Write the classes of segmentation, for task.category_file and for `vpr evaluate segmentation`."""
    from vpr.categories import CITYSCAPES_4, CITYSCAPES_34
    from vpr.category_files import write_categories
    from vpr.core import ConfigError

    known = {34: CITYSCAPES_34, 4: CITYSCAPES_4}
    if classes not in known:
        raise ConfigError(f"--classes {classes}: expected 34 or 4")
    write_categories(dst, known[classes])
    say(f"{classes} classes: {dst}")
