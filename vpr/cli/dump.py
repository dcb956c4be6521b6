"""``vpr dump``: features and true matches of a training set, in the layout of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import ConfigOption, SetOption, say, settings_of
from vpr.core import ConfigError

app = typer.Typer(help="Write features and true matches of a training set.", no_args_is_help=True)
KINDS = {"superpoint": "spp", "rootsift": "sift"}


@app.callback()
def _group() -> None:
    """Write features and true matches of a training set."""


@app.command("megadepth")
def megadepth(
    root: Annotated[Path, typer.Argument(help="MegaDepth: the folder with scene_info/*.npz.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the dump.")],
    scenes: Annotated[
        Path | None, typer.Option(help="A text file with the names of the scenes, one a line; all by default.")
    ] = None,
    overlap: Annotated[
        tuple[float, float], typer.Option(help="Least and largest share of a view's points that the other shows.")
    ] = (0.1, 0.8),
    pairs: Annotated[int, typer.Option(help="Most pairs of a scene; of more, a random sample.", min=1)] = 1000,
    min_matches: Annotated[int, typer.Option(help="A pair with fewer matches is left out.", min=1)] = 32,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write what IMP's published training reads: keypoints, matches of pairs, and their numbers. It continues."""
    from vpr.build import build_local
    from vpr.datasets.posed_views import read_megadepth
    from vpr.training.dump import Dump, PairChoice

    settings = settings_of(config, overrides)
    method = settings.local_features.method
    if method not in KINDS:
        raise ConfigError(
            f"local_features.method = {method!r}: the layout knows {', '.join(KINDS)}; --set local_features.method=..."
        )
    found = read_megadepth(root)
    if scenes is not None:
        wanted = scenes.read_text(encoding="utf-8").split()
        missing = sorted(set(wanted) - {scene.name for scene in found})
        if missing:
            raise ConfigError(f"{scenes}: {root / 'scene_info'} has no scene {', '.join(missing[:5])}")
        found = [scene for scene in found if scene.name in wanted]
    dump = Dump(root, out, build_local(settings), KINDS[method], PairChoice(overlap, pairs, min_matches))
    counts = dump.write(found)
    say(f"{sum(counts.values())} pairs of {len(counts)} scenes: {out}")
