"""predictions.jsonl: one JSON object per query and rank, with all that is known of the candidate."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vpr.core import NO_ROW, DataError, Dataset, Doubles, Evidence, Floats, Ranking, Rows
from vpr.datasets.zones import in_own_region, to_latlon
from vpr.evaluation.distance import distances_m
from vpr.runtime.files import write_atomically

_UNKNOWN = {"similarity": np.nan, "matches": -1, "inliers": -1}  # what Evidence holds where a line lacks the key


def write_predictions(path: Path, dataset: Dataset, ranking: Ranking) -> None:
    """Write predictions.jsonl; see prediction_lines."""
    write_atomically(path, (line + "\n" for line in prediction_lines(dataset, ranking)))


def prediction_lines(dataset: Dataset, ranking: Ranking) -> Iterator[str]:
    """One JSON object per query and rank; see prediction_rows."""
    encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder per line
    return map(encode, prediction_rows(dataset, ranking))


def prediction_rows(dataset: Dataset, ranking: Ranking) -> Iterator[dict[str, Any]]:
    """What is known of each query and rank; pads are left out, and so are keys whose value is not known.

    query, rank (from 1), candidate, score, similarity, matches, inliers, distance_m, position of the candidate (east_m,
    north_m, zone, latitude, longitude), correct (null where it is not known) and, on the first line of a query,
    elapsed_ms. Scores have the fewest digits that give the same float32 back.
    """
    database = dataset.database
    places = None if database.positions is None else in_own_region(database.positions).round(3)
    degrees = database_degrees(dataset)
    unknown = set(dataset.unknown)
    for query, name in enumerate(dataset.queries.names):
        rows = ranking.rows[query]
        columns = _evidence_columns(ranking, query)
        columns["score"] = _shortest(ranking.scores[query])
        metres = distances_m(dataset, rows[None], np.array([query]))
        if metres is not None:
            columns["distance_m"] = metres[0].round(3).tolist()
        judged = dataset.positives is not None and query not in unknown
        correct = np.isin(rows, dataset.positives[query]) if judged and dataset.positives else None
        for place, row in enumerate(rows.tolist()):
            if row == NO_ROW:
                break
            line: dict[str, Any] = {"query": name, "rank": place + 1, "candidate": database.names[row]}
            for key in ("score", *_UNKNOWN, "distance_m"):
                if key in columns and columns[key][place] is not None:
                    line[key] = columns[key][place]
            if places is not None:
                line["east_m"], line["north_m"] = places[row].tolist()
            if degrees is not None:
                line["zone"] = database.zone
                line["latitude"], line["longitude"] = degrees[row].tolist()
            line["correct"] = None if correct is None else bool(correct[place])
            if place == 0 and ranking.evidence is not None and math.isfinite(ranking.evidence.elapsed_s[query]):
                line["elapsed_ms"] = round(1000 * float(ranking.evidence.elapsed_s[query]), 3)
            yield line


def database_degrees(dataset: Dataset) -> Doubles | None:
    """(N, 2) latitude and longitude of the database images; None where positions or their zone are not known."""
    positions, zone = dataset.database.positions, dataset.database.zone
    if positions is None or zone is None:
        return None
    degrees = to_latlon(positions, zone).round(7)  # 1 cm
    return degrees if (np.abs(degrees) <= (90, 180)).all() else None


def read_predictions(path: Path, dataset: Dataset, width: int = 0) -> Ranking:
    """Read predictions.jsonl back, at least ``width`` places wide, with evidence if the file holds any.

    Raises DataError, with the line, for anything but predictions of these queries over this database.
    """
    table, elapsed_s = _read_table(path, dataset)
    query, place, row = table[:, :3].astype(np.int64).T
    if len(table) and not 0 <= place.min() <= place.max() < len(dataset.database):
        raise DataError(f"{path}: rank {place.max() + 1} in a database of {len(dataset.database)} images")
    shape = (len(dataset.queries), max(width, int(place.max(initial=-1)) + 1))

    def spread(values: Doubles | Rows, fill: float) -> Doubles:
        cells = np.full(shape, fill)
        cells[query, place] = values
        return cells

    rows = spread(row, NO_ROW).astype(np.int64)
    gaps = (rows[:, :-1] == NO_ROW) & (rows[:, 1:] != NO_ROW)
    if gaps.any() or np.count_nonzero(rows != NO_ROW) != len(table):
        raise DataError(f"{path}: the ranks of a query are not 1, 2, 3, ... once each; a line is missing or repeated")
    evidence = Evidence(
        spread(table[:, 4], np.nan).astype(np.float32),
        spread(table[:, 5], -1).astype(np.int32),
        spread(table[:, 6], -1).astype(np.int32),
        elapsed_s,
    )
    known = np.isfinite(table[:, 4]).any() or (table[:, 5:] >= 0).any() or np.isfinite(elapsed_s).any()
    try:
        return Ranking(rows, spread(table[:, 3], -np.inf).astype(np.float32), evidence if known else None)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _read_table(path: Path, dataset: Dataset) -> tuple[Doubles, Doubles]:
    """(L, 7) query row, place, database row, score, similarity, matches, inliers of every line; (Q,) seconds."""
    query_rows = {name: row for row, name in enumerate(dataset.queries.names)}
    database_rows = {name: row for row, name in enumerate(dataset.database.names)}
    table = array("d")  # a list of lists would take several times the memory
    elapsed_s = np.full(len(dataset.queries), np.nan)
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                query = query_rows[line["query"]]
                known = [query, int(line["rank"]) - 1, database_rows[line["candidate"]], float(line["score"])]
                table.extend([*known, *(float(line.get(key, unknown)) for key, unknown in _UNKNOWN.items())])
                if "elapsed_ms" in line:
                    elapsed_s[query] = float(line["elapsed_ms"]) / 1000
            except KeyError as error:
                raise DataError(
                    f"{path}, line {number}: {error} is neither given nor an image of {dataset.name}; "
                    "read the file with the data set it was made with"
                ) from None
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                raise DataError(f"{path}, line {number}: not a line of predictions.jsonl: {error}") from None
    return np.array(table).reshape(-1, 4 + len(_UNKNOWN)), elapsed_s


def _evidence_columns(ranking: Ranking, query: int) -> dict[str, list[Any]]:
    if ranking.evidence is None:
        return {}
    known = _shortest(ranking.evidence.similarity[query])
    return {
        "similarity": [value if math.isfinite(value) else None for value in known],
        "matches": [value if value >= 0 else None for value in ranking.evidence.matches[query].tolist()],
        "inliers": [value if value >= 0 else None for value in ranking.evidence.inliers[query].tolist()],
    }


def _shortest(values: Floats) -> list[float]:
    """Doubles that print in the fewest digits from which the same float32 is read."""
    return [float(text) for text in values.astype(str).tolist()]
