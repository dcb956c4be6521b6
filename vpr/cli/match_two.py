"""``vpr match-two``: do two images show the same place?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import ConfigOption, SetOption, say, settings_of
from vpr.core import DataError, Image


def match_two(
    first: Annotated[Path, typer.Argument(help="An image.")],
    second: Annotated[Path, typer.Argument(help="Another image.")],
    out: Annotated[Path | None, typer.Option(help="Draw the matches into this image file.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Match two images: the score, the matches, how many of them are inliers, and a drawing of them."""
    import cv2

    from vpr.build import build_pair_methods
    from vpr.images import WRITTEN_SUFFIXES
    from vpr.report.drawing import draw_matches

    if out is not None and out.suffix.lower() not in WRITTEN_SUFFIXES:
        raise DataError(f"{out}: not an image format that can be written; use one of {', '.join(WRITTEN_SUFFIXES)}")
    settings = settings_of(config, overrides)
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
