"""``vpr match-pairs``: the matches of every pair of a list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vpr.cli.common import BadImageOption, ConfigOption, SetOption, say, settings_of, with_bad_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vpr.exchange.pair_table import PairRow


def match_pairs(
    pairs: Annotated[
        Path,
        typer.Argument(help="Text file, one pair per line: two image names, and quarter turns of both or nothing."),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for matches, pairs.csv, features and images.")],
    images: Annotated[Path | None, typer.Option(help="Folder that the names are relative to; the list's own.")] = None,
    form: Annotated[
        Literal["npz", "h5"],
        typer.Option(
            "--format", help="npz: a file for each pair, as SuperGlue has it. h5: features.h5 and matches.h5."
        ),
    ] = "npz",
    viz: Annotated[bool, typer.Option("--viz", help="Draw the matches of each pair, too.")] = False,
    viz_extension: Annotated[str, typer.Option(metavar="png|jpg|pdf|svg", help="Format of the drawings.")] = "png",
    show_keypoints: Annotated[bool, typer.Option("--show-keypoints", help="Draw all keypoints, too.")] = False,
    first: Annotated[int | None, typer.Option(help="Only the first pairs, this many.", min=1)] = None,
    on_bad_image: BadImageOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Match every pair of a list of images: keypoints, matches, confidences and inliers, and drawings of them.

    Keypoints are in pixels of the stored images. Started again, it makes only what is new or was made otherwise.
    """
    from vpr.datasets.image_pairs import read_image_pairs
    from vpr.pairs.drawing import draw_pairs, require_extension
    from vpr.pairs.exporting import export_pairs, require_exportable
    from vpr.pairs.matching import WORK
    from vpr.pairs.matching import match_pairs as match_all

    settings = settings_of(config, with_bad_images(overrides, on_bad_image))
    require_extension(viz_extension)
    listed = read_image_pairs(pairs, pairs.parent if images is None else images).first(first)
    if form == "h5":
        require_exportable(listed, settings)
    matched = match_all(listed, settings, out, out if form == "npz" else out / WORK)
    rows = matched.rows
    if form == "h5":
        export_pairs(matched.features, rows, out)
    if viz:
        draw_pairs(listed.images.root, out, rows, viz_extension, keypoints=show_keypoints)
    say_rows(rows)
    say(f"Matches:  {out}" if form == "npz" else f"Matches:  {out / 'matches.h5'}")
    say(f"Table:    {out / 'pairs.csv'}")


def say_rows(rows: Sequence[PairRow]) -> None:
    """How many pairs were matched, and how well."""
    matched = [row for row in rows if not row.problem]
    counts = sorted(row.inliers for row in matched)
    say(f"{len(matched)} of {len(rows)} pairs matched; median {counts[len(counts) // 2]} inliers, up to {counts[-1]}")
    failed = [row for row in rows if row.problem]
    if failed:
        say(f"Not read: {len(failed)} pairs; {failed[0].problem}")
