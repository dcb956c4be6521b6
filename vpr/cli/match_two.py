"""``vpr match-two``: are two pictures of one place?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr.cli.common import ConfigOption, SetOption, say, settings_of
from vpr.core import DataError, Image, LocalFeatures

if TYPE_CHECKING:
    from vpr.global_descriptors.patches import PatchFeatures
    from vpr.settings import Settings


def match_two(
    first: Annotated[Path, typer.Argument(help="A picture.")],
    second: Annotated[Path, typer.Argument(help="Another picture.")],
    out: Annotated[Path | None, typer.Option(help="Write a picture of the matches here.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Match two pictures: the score, how many matches one geometry explains, and a picture of them."""
    import cv2

    from vpr import pipeline
    from vpr.images import SUFFIXES
    from vpr.report.drawing import draw_matches

    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise DataError(f"{out}: not a kind of picture that can be written; use one of {', '.join(SUFFIXES)}")
    settings = settings_of(config, overrides)
    reranker = pipeline.build_reranker(settings)
    query, candidate = _features(first, settings), _features(second, settings)
    pair = reranker.pair(query, candidate)
    evidence = pair.evidence
    say(f"score     {reranker.score(pair):.3f} ({reranker.score_name})")
    say(f"points    {len(query)} and {len(candidate)}")
    say(f"matches   {evidence.matches}")
    say(f"inliers   {evidence.inliers}; as many unrelated matches give up to about {evidence.by_chance:.0f}")
    if out is None:
        return
    rows = pair.matches.pairs.numpy()
    picture = draw_matches(
        _picture(first, query),
        _picture(second, candidate),
        query.points.numpy()[rows[:, 0]],
        candidate.points.numpy()[rows[:, 1]],
        pair.verified.inliers,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out), picture[..., ::-1]):
        raise DataError(f"{out}: cannot be written")
    say(f"picture   {out}")


def _features(path: Path, settings: Settings) -> LocalFeatures | PatchFeatures:
    """What the second stage compares."""
    from vpr.global_descriptors import patch_netvlad
    from vpr.images import read_image
    from vpr.local_features import LOCAL_EXTRACTORS
    from vpr.runtime.device import device_of

    device = device_of(settings.machine.device)
    described = settings.global_descriptor
    if settings.rerank.method == "patch_netvlad" and isinstance(described, patch_netvlad.Settings):
        descriptor = patch_netvlad.build(described, device)
        image = read_image(path, descriptor.channels, settings.images.max_megapixels)
        return descriptor.describe_patches([descriptor.preprocess(image)])[0][1]
    chosen = settings.local_features
    extractor = LOCAL_EXTRACTORS[chosen.method].build(chosen, device)
    image = read_image(path, extractor.channels, settings.images.max_megapixels)
    return extractor.extract([extractor.preprocess(image)])[0]


def _picture(path: Path, features: LocalFeatures | PatchFeatures) -> Image:
    from vpr.images import read_image, resize

    return resize(read_image(path, "rgb"), features.image_size)
