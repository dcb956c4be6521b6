"""``vpr demo-city``: a data set without a download; ``vpr demo-places``, ``vpr demo-labels``: some to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vpr.cli.common import say

Width = Annotated[int, typer.Option(help="Width of the images.", min=32)]
Height = Annotated[int, typer.Option(help="Height of the images.", min=32)]
Workers = Annotated[int, typer.Option(help="Processes; 0 for one per core.", min=0)]


def demo_city(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write database/, queries/ and cameras.csv into.")],
    places: Annotated[int, typer.Option(help="Stops of the drive through the city.", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Another seed, another city.", min=0)] = 0,
    width: Width = 480,
    height: Height = 360,
    workers: Workers = 0,
    with_depth: Annotated[bool, typer.Option(help="Write the depth of every image too.")] = False,
    with_labels: Annotated[bool, typer.Option(help="Write a mask of Cityscapes ids of every image too.")] = False,
    traffic: Annotated[
        float, typer.Option(help="Share of every image that moving vehicles and people cover.", min=0, max=0.6)
    ] = 0.0,
) -> None:
    """Render a small city with known positions: a drive by day, queries at other hours and from other sides."""
    from vpr.demo_city import write_demo_city

    dataset = write_demo_city(
        out,
        places=places,
        seed=seed,
        size=(width, height),
        workers=workers or None,
        with_depth=with_depth,
        with_labels=with_labels,
        traffic_share=traffic,
    )
    say(f"{len(dataset.database)} database and {len(dataset.queries)} query images: {out}")
    say(f"vpr run --database {out / 'database'} --queries {out / 'queries'} --out {out / 'run'}")


def demo_places(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write the images and manifest.csv into.")],
    places: Annotated[int, typer.Option(help="Places, 35 m or a direction apart.", min=1)] = 400,
    views: Annotated[int, typer.Option(help="Images of each, at other hours and in other weathers.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="Another seed, another city.", min=0)] = 1,
    width: Width = 320,
    height: Height = 240,
    workers: Workers = 0,
) -> None:
    """Render places of a small city from near positions in many lights, to train a global descriptor with."""
    from vpr.demo_city.places import write_places
    from vpr.runtime.device import threads_of

    manifest = write_places(out, places, views, seed=seed, size=(width, height), workers=threads_of(workers))
    say(f"{places} places, {views} images each: {manifest}")
    say(f"vpr train --config train_global --set task.manifest={manifest} --out {out / 'run'}")


def demo_labels(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write the images and their labels into.")],
    layout: Annotated[
        Literal["cityscapes", "coco-panoptic", "coco-cs34", "kitti"],
        typer.Option(help="Files and folders as this set's."),
    ] = "cityscapes",
    cities: Annotated[int, typer.Option(help="Cities, each with streets of its own.", min=1)] = 4,
    held_out: Annotated[int, typer.Option(help="The last of them, which are the split val.", min=0)] = 1,
    images: Annotated[int, typer.Option(help="Images of each city.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Of the first city.", min=0)] = 1,
    width: Width = 320,
    height: Height = 240,
    workers: Workers = 0,
) -> None:
    """Render streets with the class of each pixel, with and without traffic, to train segmentation with."""
    from vpr.demo_city.labelled import write_labelled
    from vpr.runtime.device import threads_of

    counts = write_labelled(
        out,
        layout,
        cities=cities,
        held_out=held_out,
        images=images,
        seed=seed,
        size=(width, height),
        workers=threads_of(workers),
    )
    say(f"{counts['train']} images to learn from, {counts['val']} of other cities to validate with: {out}")
