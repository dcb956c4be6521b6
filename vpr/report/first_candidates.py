"""Drawings of queries beside their first candidates, each in a file of its own."""

from __future__ import annotations

from pathlib import Path

from vpr.core import NO_ROW
from vpr.report.gallery import Drawn, Pictures
from vpr.report.match_images import MatchImage, write_match_image
from vpr.report.outcomes import spread
from vpr.results import RunResult

FOLDER = "match_images"


def draw_first_candidates(folder: Path, report: RunResult, pictures: Pictures, correspondences: Drawn) -> list[Path]:
    """Draw the first candidates of the last stage, of ``report.match_images`` queries evenly spread over all.

    A query without a candidate, without matches, or of which an image cannot be read has no drawing. Returns the files.
    """
    ranking, dataset = list(report.stages.values())[-1], report.dataset
    drawn = []
    for query in spread(range(len(dataset.queries)), report.match_images):
        row = int(ranking.rows[query, 0]) if ranking.width else NO_ROW
        matches = None if row == NO_ROW else correspondences(query, row)
        images = None if matches is None else (pictures("query", query), pictures("database", row))
        if matches is None or images is None or images[0] is None or images[1] is None:
            continue
        counts = f"{len(matches.inliers)} matches, {int(matches.inliers.sum())} inliers"
        counts += f", score {ranking.scores[query, 0]:.4g}"
        names = f"{dataset.queries.names[query]} and {dataset.database.names[row]}"
        image = MatchImage(images[0], images[1], matches, (names, counts + _judgement(report, query, row)))
        path = folder / f"{query:06d}_{Path(dataset.queries.names[query]).stem}.{report.match_image_format}"
        write_match_image(path, image)
        drawn.append(path)
    return drawn


def _judgement(report: RunResult, query: int, row: int) -> str:
    positives = report.dataset.positives
    if positives is None or query in report.dataset.unknown:
        return ""
    return ", right" if row in positives[query] else ", wrong"
