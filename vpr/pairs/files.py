"""What was found between two images, as the file of a pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from vpr.core import Doubles
from vpr.exchange.match_npz import PairFile, dense
from vpr.exchange.models import in_other_pixels, scaling
from vpr.images import moved
from vpr.rerank import Pair

Sizes = tuple[tuple[int, int], tuple[int, int]]  # width, height of both images


def pair_file(
    query: Any,
    candidate: Any,
    found: Pair,
    *,
    sizes: Sizes,
    geometry: str,
    score: float,
    turns: tuple[int, int] = (0, 0),
    origin: str = "",
) -> PairFile:
    """Features of both images and what matched, with pixels of images of these sizes; see PairFile."""
    seen = query.image_size, candidate.image_size
    keypoints = [
        moved(each.keypoints.numpy(), each.image_size, size)
        for each, size in zip((query, candidate), sizes, strict=True)
    ]
    rows, scores = found.matches.pairs.numpy(), found.matches.scores.numpy()
    best = np.argsort(scores, kind="stable")  # the last of one keypoint's is kept
    count = len(keypoints[0])
    return PairFile(
        keypoints0=keypoints[0],
        keypoints1=keypoints[1],
        matches=dense(rows[best], rows[best, 1], count, -1),
        match_confidence=dense(rows[best], scores[best], count, 0),
        inliers=dense(rows[best], found.verified.inliers[best], count, False),
        model=_moved_model(found, geometry, seen, sizes),
        geometry=geometry,
        score=score,
        turns=turns,
        sizes=sizes,
        origin=origin,
    )


def _moved_model(found: Pair, geometry: str, seen: Sizes, sizes: Sizes) -> Doubles:
    if found.verified.model is None:
        return np.zeros((0, 0))
    return in_other_pixels(
        found.verified.model, geometry, *(scaling(old, new) for old, new in zip(seen, sizes, strict=True))
    )
