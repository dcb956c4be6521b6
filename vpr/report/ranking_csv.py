"""ranking.csv: a ranking as a table, one row per query and rank, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from vpr.core import Dataset, Ranking
from vpr.report.predictions import prediction_rows
from vpr.runtime.files import write_atomically

FILE_NAME = "ranking.csv"
COLUMNS = (
    *("query", "rank", "candidate", "score", "similarity", "matches", "inliers", "distance_m"),
    *("latitude", "longitude", "east_m", "north_m", "zone", "correct"),
)


def write_ranking_csv(path: Path, dataset: Dataset, ranking: Ranking) -> None:
    """Write the columns COLUMNS of every query and rank; a cell whose value is not known is empty."""
    write_atomically(path, ranking_csv(dataset, ranking))


def ranking_csv(dataset: Dataset, ranking: Ranking) -> Iterator[str]:
    """The lines; see write_ranking_csv."""
    line = io.StringIO()
    writer = csv.DictWriter(line, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in prediction_rows(dataset, ranking):
        yield line.getvalue()
        line.seek(0)
        line.truncate()
        correct = row["correct"]
        writer.writerow({**row, "correct": "" if correct is None else str(correct).lower()})
    yield line.getvalue()
