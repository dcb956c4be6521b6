"""Drawings of matched pairs, from the files of their matches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vpr.core import ImageError
from vpr.exchange.match_npz import PairFile, read_pair
from vpr.exchange.pair_table import PairRow
from vpr.images import fitted_size, moved, read_image, resize
from vpr.report.drawing import Correspondences
from vpr.report.match_images import MatchImage, require_suffix, write_match_image
from vpr.runtime.progress import Progress

LONGEST_SIDE = 960  # pixels of a drawn image: wider drawings fit no screen


def require_extension(extension: str) -> None:
    """Raise ConfigError for a format that cannot be written."""
    require_suffix(Path(f"matches.{extension.removeprefix('.')}"))


def draw_pairs(root: Path, out: Path, rows: Sequence[PairRow], extension: str, *, keypoints: bool) -> list[Path]:
    """Draw every pair that was matched, beside the file of its matches; returns the drawings.

    ``root`` is the folder of the images, ``out`` that of the table whose rows are given.
    """
    drawn = []
    for row in Progress("draw", len(rows), "pair").over(rows):
        if row.problem:
            continue
        path = (out / row.file).with_suffix(f".{extension.removeprefix('.')}")
        try:
            paths = root / row.image0, root / row.image1
            image = drawing(paths, row, read_pair(out / row.file), keypoints=keypoints)
        except ImageError:  # readable when its features were made
            continue
        write_match_image(path, image)
        drawn.append(path)
    return drawn


def drawing(paths: tuple[Path, Path], row: PairRow, pair: PairFile, *, keypoints: bool = False) -> MatchImage:
    """Both images as they were matched, at most LONGEST_SIDE pixels each, with their matches. Raises ImageError."""
    images, points = [], []
    for path, turn, size, each in zip(paths, pair.turns, pair.sizes, (pair.keypoints0, pair.keypoints1), strict=True):
        shown = fitted_size(*size, longest=LONGEST_SIDE)
        images.append(resize(np.ascontiguousarray(np.rot90(read_image(path, "rgb"), turn)), shown))
        points.append(moved(each, size, shown))
    rows = pair.pairs()
    matches = Correspondences(
        points[0][rows[:, 0]],
        points[1][rows[:, 1]],
        pair.inliers[rows[:, 0]],
        pair.match_confidence[rows[:, 0]],
        *(points if keypoints else (None, None)),
    )
    counts = f"keypoints {row.keypoints0} and {row.keypoints1}, matches {row.matches}, inliers {row.inliers}"
    return MatchImage(images[0], images[1], matches, (f"{row.image0} and {row.image1}", counts))
