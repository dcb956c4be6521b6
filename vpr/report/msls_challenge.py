"""The predictions file of the MSLS challenge (Warburg et al., CVPR 2020; mapillary_sls, evaluate.py).

A line is a query's key and the keys of its candidates, best first, between spaces; a key is a file name without its
suffix. Lines that begin with # are comments. All lines have equally many candidates, and every query has a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vpr.core import NO_ROW, DataError, Dataset, ImageSet, Ranking
from vpr.runtime.files import require_file, write_atomically

HEADER = "# query key and keys of the predicted images, best first\n"


def write_msls_challenge(path: Path, dataset: Dataset, ranking: Ranking, k: int = 25) -> None:
    """Write the first ``k`` candidates of every query; a query without as many is filled up with other images.

    Raises DataError for images whose keys are not unique or hold spaces or commas.
    """
    queries, database = _keys(dataset.queries), _keys(dataset.database)
    k = min(k, len(database))
    lines = (
        f"{query} {' '.join(database[row] for row in _filled(rows, k))}\n"
        for query, rows in zip(queries, ranking.rows.tolist(), strict=True)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, HEADER + "".join(lines))


def read_msls_challenge(path: Path) -> dict[str, list[str]]:
    """Keys of the candidates of each query. Raises DataError, with the line, for what the challenge does not take."""
    try:
        lines = require_file(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a predictions file of MSLS: {error}") from None
    found: dict[str, list[str]] = {}
    widths: set[int] = set()
    for number, line in enumerate(lines, 1):
        query, *candidates = line.partition("#")[0].split() or [""]
        if not query:
            continue
        if query in found or len(set(candidates)) < len(candidates):
            raise DataError(f"{path}, line {number}: {query!r} has two lines, or a candidate twice")
        found[query] = candidates
        widths.add(len(candidates))
        if len(widths) > 1 or 0 in widths:
            raise DataError(
                f"{path}, line {number}: {len(candidates)} candidates; all lines need as many, at least one"
            )
    if not found:
        raise DataError(f"{path}: holds no predictions")
    return found


def _filled(rows: Sequence[int], k: int) -> list[int]:
    """Exactly k candidates: those of the ranking, then database images in their order."""
    kept = [row for row in rows if row != NO_ROW][:k]
    known, others = set(kept), iter(range(k + len(kept)))
    while len(kept) < k:
        row = next(others)
        if row not in known:
            kept.append(row)
    return kept


def _keys(images: ImageSet) -> list[str]:
    keys: dict[str, str] = {}
    for name in images.names:
        key = PurePosixPath(name).stem
        if key in keys:
            raise DataError(
                f"{images.root}: {keys[key]!r} and {name!r} have one key, {key!r}; the MSLS challenge needs file names "
                "that are unique"
            )
        if any(mark.isspace() or mark in ",#" for mark in key):
            raise DataError(f"{images.root}: {name!r} holds a space, comma or #, which a key of MSLS cannot")
        keys[key] = name
    return list(keys)
