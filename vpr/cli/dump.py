"""``vpr dump``: features and true matches of a training set, in the layout of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import ConfigOption, SetOption, say, settings_of

app = typer.Typer(help="Write features and true matches of a training set.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Write features and true matches of a training set."""


@app.command("megadepth")
def megadepth(
    root: Annotated[Path, typer.Argument(help="MegaDepth: the folder with scene_info/*.npz.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the dump.")],
    scenes: Annotated[
        str,
        typer.Option(
            metavar="FILE|NAME",
            help="A list of scenes, one a line, or its name in ROOT or ROOT/scene_lists; all without.",
        ),
    ] = "",
    overlap: Annotated[
        tuple[float, float], typer.Option(help="Least and largest share of a view's points that the other shows.")
    ] = (0.1, 0.8),
    pairs: Annotated[int, typer.Option(help="Most pairs of a scene; of more, a random sample.", min=1)] = 1000,
    min_matches: Annotated[int, typer.Option(help="A pair with fewer matches is left out.", min=1)] = 32,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write keypoints, matches of pairs, and their numbers, as IMP's published training reads them. It continues.

    `vpr train matcher --dump FOLDER` learns from them, without the images.
    """
    from vpr.build import build_local
    from vpr.datasets.posed_views import read_megadepth
    from vpr.datasets.scene_lists import chosen_scenes
    from vpr.exchange.imp_dump import KINDS
    from vpr.training.dump import Dump, PairChoice
    from vpr.weights import features_of

    settings = settings_of(config, overrides)
    method = settings.local_features.method
    found = read_megadepth(root)
    chosen = chosen_scenes(scenes, root, [scene.name for scene in found])
    extractor = build_local(settings)
    made_by = features_of(settings.local_features, extractor.dim, extractor.weights)
    choice = PairChoice(overlap, pairs, min_matches)
    dump = Dump(root, out, extractor, made_by, KINDS.get(method, method), choice)
    counts = dump.write([scene for scene in found if scene.name in chosen])
    say(f"{sum(counts.values())} pairs of {len(counts)} scenes: {out}")
