"""``vpr match-two``: do two images show the same place?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import SetOption, say
from vpr.cli.patchnetvlad import settings_in
from vpr.cli.patchnetvlad_files import DEFAULT_CONFIG, fetch_absent_weights, located
from vpr.core import ConfigError, Image

FLAGS = "Patch-NetVLAD's flags"  # its performance config is the default beside them
EXAMPLES = "example_images"
DRAWING = "patchMatchings.png"


def match_two(
    first: Annotated[Path | None, typer.Argument(help="An image.")] = None,
    second: Annotated[Path | None, typer.Argument(help="Another image.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Draw the matches into this image file: .png, .jpg, .pdf, .svg and others.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "--config_path",
            metavar="NAME|FILE",
            help="Settings: a TOML file, Patch-NetVLAD's .ini file, or the name of a config (`vpr config list`).",
        ),
    ] = None,
    overrides: SetOption = None,
    *,
    keypoints: Annotated[bool, typer.Option("--keypoints", help="Draw all keypoints, too.")] = False,
    first_im_path: Annotated[
        Path | None, typer.Option("--first_im_path", help="An image.", rich_help_panel=FLAGS)
    ] = None,
    second_im_path: Annotated[
        Path | None, typer.Option("--second_im_path", help="Another image.", rich_help_panel=FLAGS)
    ] = None,
    plot_save_path: Annotated[
        Path, typer.Option("--plot_save_path", help=f"Folder for {DRAWING}.", rich_help_panel=FLAGS)
    ] = Path("results"),
    nocuda: Annotated[bool, typer.Option("--nocuda", help="Use the CPU.", rich_help_panel=FLAGS)] = False,
) -> None:
    """Match two images: the score, the matches, how many of them are inliers, and a drawing of them.

    Inliers are coloured by confidence, rejected matches are grey. Where line segments are matched too, a second row of
    the drawing shows partners in one colour, and those that do not agree with the inliers in grey.
    """
    from vpr.build import build_pair_methods
    from vpr.report.compared import correspondences_of
    from vpr.report.match_images import MatchImage, require_suffix, write_match_image
    from vpr.rerank.lines import LinePair

    published = first is None and second is None
    if published:
        first, second, out = first_im_path, second_im_path, out or plot_save_path / DRAWING
    if first is None or second is None or ((first_im_path or second_im_path) and not published):
        raise ConfigError("give two images: `vpr match-two A B`, or --first_im_path A --second_im_path B")
    if published:
        first, second = (located(path, EXAMPLES) for path in (first, second))
    if out is not None:
        require_suffix(out)
    settings = settings_in(config, overrides, nocuda, default=DEFAULT_CONFIG if published else None)
    if published:
        fetch_absent_weights(settings)
    methods = build_pair_methods(settings, dense=True)
    reranker = methods.reranker
    compared = [methods.compared(path) for path in (first, second)]
    pair = reranker.pair(*compared)
    query, candidate = pair.matched(*compared)
    evidence = pair.evidence
    said = f"{evidence.inliers}; unrelated images give up to about {evidence.by_chance:.0f}"
    say(f"score     {reranker.score(pair):.3f} ({reranker.score_name})")
    say(f"keypoints {len(query)} and {len(candidate)}")
    say(f"matches   {evidence.matches}")
    say(f"inliers   {said}")
    if isinstance(pair, LinePair):
        say(f"lines     {int(pair.lines_agree.sum())} of {len(pair.lines)} agree")
    if out is None:
        return
    found = correspondences_of(pair, *compared, keypoints=keypoints)
    images = _image(first, query.image_size), _image(second, candidate.image_size)
    write_match_image(out, MatchImage(*images, found))
    say(f"matches drawn in {out}")


def _image(path: Path, size: tuple[int, int]) -> Image:
    from vpr.images import read_image, resize

    return resize(read_image(path, "rgb"), size)
