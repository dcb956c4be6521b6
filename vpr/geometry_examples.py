"""Drawings of some pairs of a geometry benchmark: correct matches by confidence, wrong ones grey."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vpr.core import ImageError
from vpr.images import read_image, resize
from vpr.report.drawing import Correspondences
from vpr.report.match_images import MatchImage, write_match_image
from vpr.report.outcomes import spread

if TYPE_CHECKING:
    from vpr.geometry.rows import Row
    from vpr.geometry.views import MatchedViews

FOLDER = "examples"


@dataclass(frozen=True)
class Examples:
    """How many pairs are drawn, and how."""

    count: int = 6
    extension: str = "jpg"
    keypoints: bool = False


def draw_examples(
    out: Path, pairs: Sequence[Any], rows: Sequence[Row], matched: Callable[[Any], MatchedViews], how: Examples
) -> list[Path]:
    """Draw pairs evenly spread from the most correct matches to the fewest, into a folder of ``out``.

    Drawings of an earlier run are deleted. ``matched`` matches a pair again. Returns the files.
    """
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    order = sorted(range(len(rows)), key=lambda i: -int(str(rows[i]["correct_matches"])))
    drawn = []
    for place, i in enumerate(spread(order, how.count), 1):
        try:
            found = matched(pairs[i])
            image = _drawing(pairs[i], found, how.keypoints)
        except ImageError:  # its row says so
            continue
        names = f"{pairs[i].first.stem}_{pairs[i].second.stem}"
        path = out / FOLDER / f"{place:02d}_{names}.{how.extension.removeprefix('.')}"
        write_match_image(path, image)
        drawn.append(path)
    return drawn


def _drawing(pair: Any, found: MatchedViews, keypoints: bool) -> MatchImage:
    views = found.first, found.second
    images = [
        resize(read_image(path, "rgb"), view.size) for path, view in zip((pair.first, pair.second), views, strict=True)
    ]
    shown = (found.first.points, found.second.points) if keypoints else (None, None)
    matches = Correspondences(*found.points, found.correct, found.scores.astype(np.float32), *shown)
    counts = f"{len(found.pairs)} matches, {int(found.correct.sum())} correct by the known geometry"
    return MatchImage(images[0], images[1], matches, (pair.name, counts), "correct matches by confidence")
