"""Shortlists that another program made: which database images are candidates of each query, best first.

| format | a line |
| --- | --- |
| kapture 1.1, Patch-NetVLAD | ``query, candidate[, score]``; lines that begin with # are comments |
| hloc | ``query candidate`` |
| .npy | Patch-NetVLAD's ``pred_input_path``: for each query a row of database rows; -1 for none |
| csv with a header | columns ``query``, ``candidate`` and, if known, ``score`` or ``rank`` |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vpr.core import NO_ROW, DataError, Dataset, Doubles, Floats, Ranking, Rows
from vpr.datasets.listed_names import NameFinder
from vpr.datasets.tables import Table, finite, read_table
from vpr.runtime.files import require_file

SHOWN = 3  # lines or names that an error lists
LARGEST = float(np.finfo(np.float32).max)  # of a score


class _Line(NamedTuple):
    number: int  # in the file, from 1
    query: str
    candidate: str
    order: float | None  # higher is better; None where the file has neither score nor rank


@dataclass(frozen=True, eq=False)
class GivenShortlist:
    """A shortlist read from a file."""

    ranking: Ranking
    scored: bool  # whether the file has scores; else a candidate's score is minus its place, from 0
    without: tuple[int, ...]  # rows of the queries that the file does not name

    def warnings(self, dataset: Dataset) -> list[str]:
        """A sentence about queries without candidates, if there are any."""
        if not self.without:
            return []
        shown = [dataset.queries.names[row] for row in self.without[:SHOWN]]
        names = ", ".join([*shown, "..."] if len(self.without) > SHOWN else shown)
        count = f"{len(self.without)} of {len(dataset.queries)} queries"
        return [f"the shortlist has no candidate for {count} ({names}); they count as misses"]


def read_shortlist(path: Path, dataset: Dataset) -> GivenShortlist:
    """The shortlist of each query of the data set; see the module's text for the formats.

    Names are as the data set has them, or have folders in front: those of the images' root, or an absolute path.
    Candidates are sorted by score or rank where the file has them, and ties keep the order of the lines.
    Raises DataError, with the lines, for names that the data set does not have, for a candidate listed twice, and for
    anything that is not a shortlist.
    """
    if path.suffix == ".npy":
        rows = _read_rows(path, dataset)
        without = np.flatnonzero((rows == NO_ROW).all(axis=1))
        return GivenShortlist(Ranking(rows, _by_place(rows)), False, tuple(without.tolist()))
    lines, scored = _read(path)
    queries = _rows(path, lines, [line.query for line in lines], NameFinder(dataset.queries), "query")
    candidates = _rows(path, lines, [line.candidate for line in lines], NameFinder(dataset.database), "database image")
    _refuse_repeated(path, lines, queries, candidates)
    order = np.array([0.0 if line.order is None else line.order for line in lines])
    rows, scores = _tables(len(dataset.queries), queries, candidates, order)
    if not scored:
        scores = _by_place(rows)
    without = np.flatnonzero(np.bincount(queries, minlength=len(dataset.queries)) == 0)
    return GivenShortlist(Ranking(rows, scores), scored, tuple(without.tolist()))


def _by_place(rows: Rows) -> Floats:
    """Scores where none are given: minus the place of each candidate."""
    return np.where(rows == NO_ROW, -np.inf, -np.arange(rows.shape[1])).astype(np.float32)


def _read_rows(path: Path, dataset: Dataset) -> Rows:
    """(Q, K) database rows; raises DataError unless each is one of the database, and no query has one twice."""
    try:
        found: Any = np.load(require_file(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such shortlist") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy file: {error}") from None
    queries, images = len(dataset.queries), len(dataset.database)
    fits = getattr(found, "ndim", 0) == 2 and len(found) == queries and 0 < found.shape[1]
    if not fits or found.dtype.kind not in "iu":
        raise DataError(f"{path}: {found.dtype} of shape {found.shape}; expected database rows, one line per query")
    rows = np.asarray(found[:, :images], dtype=np.int64)
    for query, line in enumerate(rows):
        known = line[line != NO_ROW]
        repeated = len(np.unique(known)) < len(known)
        if repeated or ((known < 0) | (known >= images)).any() or (line[: len(known)] == NO_ROW).any():
            raise DataError(
                f"{path}, row {query}: expected distinct database rows from 0 to {images - 1}, with -1 at the end only"
            )
    return rows


def _tables(count: int, queries: Rows, candidates: Rows, order: Doubles) -> tuple[Rows, Floats]:
    """(Q, K) rows and scores, K the longest shortlist."""
    best = np.lexsort((np.arange(len(queries)), -order, queries))
    queries, candidates, order = queries[best], candidates[best], order[best]
    counts = np.bincount(queries, minlength=count)
    place = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (count, int(counts.max(initial=0)))
    rows, scores = np.full(shape, NO_ROW, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
    rows[queries, place], scores[queries, place] = candidates, order.clip(-LARGEST, LARGEST)
    return rows, scores


def _read(path: Path) -> tuple[list[_Line], bool]:
    """The lines, and whether they have scores."""
    try:
        text = require_file(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such shortlist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable shortlist: {error}") from None
    content = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    content = [(number, line) for number, line in content if line and not line.startswith("#")]
    if not content:
        raise DataError(f"{path}: lists no pair; expected a query and a candidate on every line")
    if _is_header(content[0][1]):
        return _read_csv(path)
    lines = list(_read_pairs(path, content))
    scored = [line.order is not None for line in lines]
    if any(scored) and not all(scored):
        number = lines[scored.index(not scored[0])].number
        raise DataError(f"{path}, line {number}: some lines have a score and some have none; give all or none")
    return lines, all(scored)


def _is_header(line: str) -> bool:
    words = [word.strip().strip('"').lower() for word in line.replace(";", ",").replace("\t", ",").split(",")]
    return "query" in words and "candidate" in words


def _read_pairs(path: Path, content: Sequence[tuple[int, str]]) -> Iterator[_Line]:
    """Kapture's and Patch-NetVLAD's lines, with commas, or hloc's, with a space."""
    commas = any("," in line for _, line in content)
    for number, line in content:
        fields = [field.strip() for field in line.split(",")] if commas else line.split()
        if len(fields) not in ((2, 3) if commas else (2,)) or not all(fields[:2]):
            wanted = "query, candidate[, score] between commas" if commas else "two names with a space between them"
            raise DataError(f"{path}, line {number}: {len(fields)} fields; expected {wanted}")
        score = finite(fields[2], f"{path}, line {number}, score") if len(fields) == 3 and fields[2] else None
        yield _Line(number, fields[0], fields[1], score)


def _read_csv(path: Path) -> tuple[list[_Line], bool]:
    table = read_table(path)
    table = replace(table, columns=tuple(name.lower() for name in table.columns))
    if not len(table):
        raise DataError(f"{path}: lists no pair, only a header")
    scores = table.numbers("score") if "score" in table.columns else None
    ranks = table.numbers("rank") if "rank" in table.columns else None
    pairs = table.lines, table.column("query"), table.column("candidate")
    if scores is not None and ranks is not None:
        _refuse_rising(table, ranks, scores)
    order = scores if scores is not None else None if ranks is None else -ranks
    orders = [None] * len(table) if order is None else order.tolist()
    return [_Line(*fields) for fields in zip(*pairs, orders, strict=True)], scores is not None


def _refuse_rising(table: Table, ranks: Doubles, scores: Doubles) -> None:
    """Raise DataError if a worse rank has a higher score, as distances have."""
    names = table.column("query")
    queries = np.unique(np.array(names), return_inverse=True)[1]
    best = np.lexsort((ranks, queries))
    rises = (np.diff(scores[best]) > 0) & (np.diff(queries[best]) == 0)
    if rises.any():
        row = int(best[int(np.argmax(rises)) + 1])
        raise DataError(
            f"{table.path}, line {table.lines[row]}: the score rises with the rank; a higher score is better, so give "
            "distances a minus sign"
        )


def _rows(path: Path, lines: Sequence[_Line], names: Sequence[str], finder: NameFinder, what: str) -> Rows:
    rows = np.array(finder.rows(names), dtype=np.int64)
    unknown = np.flatnonzero(rows == NO_ROW).tolist()
    if unknown:
        listed = ", ".join(f"line {lines[i].number}: {names[i]!r}" for i in unknown[:SHOWN])
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise DataError(
            f"{path}, {listed}{more}: not a {what} of this data set; correct the names, or give the folders or lists "
            "that the shortlist was made with"
        )
    return rows


def _refuse_repeated(path: Path, lines: Sequence[_Line], queries: Rows, candidates: Rows) -> None:
    first: dict[tuple[int, int], int] = {}
    for line, pair in zip(lines, zip(queries.tolist(), candidates.tolist(), strict=True), strict=True):
        if pair in first:
            raise DataError(
                f"{path}, line {line.number}: {line.candidate!r} is a candidate of {line.query!r} on line "
                f"{first[pair]} too; list every candidate of a query once"
            )
        first[pair] = line.number
