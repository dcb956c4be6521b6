"""``vpr match-two``: do two images show the same place?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import SetOption, say
from vpr.cli.patchnetvlad import settings_in
from vpr.cli.patchnetvlad_files import DEFAULT_CONFIG, fetch_absent_weights, located
from vpr.core import ConfigError, DataError, Image

FLAGS = "Patch-NetVLAD's flags"  # its performance config is the default beside them
EXAMPLES = "example_images"
DRAWING = "patchMatchings.png"


def match_two(
    first: Annotated[Path | None, typer.Argument(help="An image.")] = None,
    second: Annotated[Path | None, typer.Argument(help="Another image.")] = None,
    out: Annotated[Path | None, typer.Option(help="Draw the matches into this image file.")] = None,
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
    """Match two images: the score, the matches, how many of them are inliers, and a drawing of them."""
    import cv2

    from vpr.build import build_pair_methods
    from vpr.images import WRITTEN_SUFFIXES
    from vpr.report.drawing import draw_matches

    published = first is None and second is None
    if published:
        first, second, out = first_im_path, second_im_path, out or plot_save_path / DRAWING
    if first is None or second is None or ((first_im_path or second_im_path) and not published):
        raise ConfigError("give two images: `vpr match-two A B`, or --first_im_path A --second_im_path B")
    if published:
        first, second = (located(path, EXAMPLES) for path in (first, second))
    if out is not None and out.suffix.lower() not in WRITTEN_SUFFIXES:
        raise DataError(f"{out}: not an image format that can be written; use one of {', '.join(WRITTEN_SUFFIXES)}")
    settings = settings_in(config, overrides, nocuda, default=DEFAULT_CONFIG if published else None)
    if published:
        fetch_absent_weights(settings)
    methods = build_pair_methods(settings)
    reranker = methods.reranker
    query, candidate = (methods.extractor.single(path).rerank_features for path in (first, second))
    pair = reranker.pair(query, candidate)
    evidence = pair.evidence
    say(f"score     {reranker.score(pair):.3f} ({reranker.score_name})")
    say(f"keypoints {len(query)} and {len(candidate)}")
    say(f"matches   {evidence.matches}")
    say(f"inliers   {evidence.inliers}; unrelated images give up to about {evidence.by_chance:.0f}")
    if out is None:
        return
    rows = pair.matches.pairs.numpy()
    drawn = draw_matches(
        _image(first, query.image_size),
        _image(second, candidate.image_size),
        query.keypoints.numpy()[rows[:, 0]],
        candidate.keypoints.numpy()[rows[:, 1]],
        pair.verified.inliers,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out), drawn[..., ::-1]):
        raise DataError(f"{out}: cannot be written")
    say(f"matches drawn in {out}")


def _image(path: Path, size: tuple[int, int]) -> Image:
    from vpr.images import read_image, resize

    return resize(read_image(path, "rgb"), size)
