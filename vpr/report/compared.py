"""What the re-ranker found between two images, as it is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from vpr.report.drawing import Correspondences, MatchedSegments
from vpr.rerank import Pair
from vpr.rerank.lines import LinePair


def correspondences_of(pair: Pair, query: Any, candidate: Any, *, keypoints: bool) -> Correspondences:
    """Matches of a pair, and its matched segments where it has them; ``keypoints``: with all keypoints.

    ``query`` and ``candidate`` are what was compared.
    """
    features, rows = pair.matched(query, candidate), pair.matches.pairs.numpy()
    points = [each.keypoints.numpy() for each in features]
    segments = None
    if isinstance(pair, LinePair):
        segments = MatchedSegments(pair.lines.ends0.numpy(), pair.lines.ends1.numpy(), pair.lines_agree)
    return Correspondences(
        points[0][rows[:, 0]],
        points[1][rows[:, 1]],
        np.asarray(pair.verified.inliers, np.bool_),
        pair.matches.scores.numpy(),
        points[0] if keypoints else None,
        points[1] if keypoints else None,
        segments,
    )
