"""Pairs files of other systems: one line per query and candidate, best first, pads left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from vpr.core import NO_ROW, DataError, Dataset, Ranking, usable_name
from vpr.runtime.files import write_atomically

PairFormat = Literal["patchnetvlad", "kapture", "hloc"]

_KAPTURE = ("sensors", "records_data")


def unrepresentable(names: Iterable[str], pair_format: PairFormat) -> str | None:
    """Why the format cannot hold these names, as a sentence about the first that it cannot hold; None if it can."""
    obstacle = _OBSTACLES[pair_format]
    for name in names:
        reason = obstacle(name)
        if reason:
            return f"image name {name!r} {reason} in a {pair_format} pairs file; rename the image or leave the file out"
    return None


def write_patchnetvlad(path: Path, dataset: Dataset, ranking: Ranking, root: str | None = None) -> None:
    """Patch-NetVLAD's ``<stage>_predictions.txt``; see patchnetvlad_pairs."""
    write_atomically(path, patchnetvlad_pairs(dataset, ranking, root))


def write_kapture(path: Path, dataset: Dataset, ranking: Ranking) -> None:
    """Kapture's pairs file with scores; see kapture_pairs."""
    write_atomically(path, kapture_pairs(dataset, ranking))


def write_hloc(path: Path, dataset: Dataset, ranking: Ranking) -> None:
    """The pairs list of hloc; see hloc_pairs."""
    write_atomically(path, hloc_pairs(dataset, ranking))


def patchnetvlad_pairs(dataset: Dataset, ranking: Ranking, root: str | None = None) -> Iterator[str]:
    """Byte for byte what Patch-NetVLAD's feature_match.py writes (commit 39ab4e4), line by line.

    ``root`` is its --dataset_root_dir, put before every name; without it each side's own folder is.
    Raises DataError for a name that the format cannot hold.
    """
    _require(dataset.name, (*dataset.queries.names, *dataset.database.names), "patchnetvlad")
    queries, database = (
        [os.path.join(str(images.root) if root is None else root, name) for name in images.names]
        for images in (dataset.queries, dataset.database)
    )
    header = "# kapture format: 1.0\n# query_image, map_image\n"
    return chain([header], (f"{query}, {candidate}\n" for query, candidate, _ in _pairs(queries, database, ranking)))


def kapture_pairs(dataset: Dataset, ranking: Ranking) -> Iterator[str]:
    """Kapture 1.1's pairs file, line by line: names as ``names_in_pairs`` gives them; a higher score is better.

    Raises DataError for a name that the format cannot hold.
    """
    queries, database = names_in_pairs(dataset)
    _require(dataset.name, (*queries, *database), "kapture")
    header = "# kapture format: 1.1\n# query_image, map_image, score\n"
    return chain([header], (", ".join(fields) + "\n" for fields in _pairs(queries, database, ranking)))


def hloc_pairs(dataset: Dataset, ranking: Ranking) -> Iterator[str]:
    """Hloc's retrieval pairs, line by line: names separated by a space, no header, no newline at the end.

    Names are as ``names_in_pairs`` gives them. Raises DataError for a name that the format cannot hold.
    """
    queries, database = names_in_pairs(dataset)
    _require(dataset.name, (*queries, *database), "hloc")
    lines = (f"{query} {candidate}" for query, candidate, _ in _pairs(queries, database, ranking))
    return (f"\n{line}" if number else line for number, line in enumerate(lines))


def names_in_pairs(dataset: Dataset) -> tuple[list[str], list[str]]:
    """Names of queries and of database images that tell the two apart, without the ``./`` of image lists.

    Where queries and database lie in different folders, names are relative to the folder above both: ``queries/1.jpg``
    and ``database/1.jpg``. Names in kapture trees are relative to ``sensors/records_data``, as kapture has them.
    """
    roots = [os.path.abspath(images.root) for images in (dataset.queries, dataset.database)]
    prefixes = ["", ""]
    if roots[0] != roots[1] and not all(Path(root).parts[-2:] == _KAPTURE for root in roots):
        try:
            above = os.path.commonpath(roots)
            prefixes = [Path(os.path.relpath(root, above)).as_posix() for root in roots]
        except ValueError:  # on two drives
            prefixes = ["queries", "database"]
    queries, database = (
        [usable_name(f"{prefix}/{name}" if prefix else name) for name in images.names]
        for prefix, images in zip(prefixes, (dataset.queries, dataset.database), strict=True)
    )
    return queries, database


def _pairs(queries: Sequence[str], database: Sequence[str], ranking: Ranking) -> Iterator[tuple[str, str, str]]:
    """Query, candidate, and the score in the fewest digits that give the same float32 back."""
    for query, rows, scores in zip(queries, ranking.rows, ranking.scores, strict=True):
        for row, score in zip(rows.tolist(), scores.astype(str).tolist(), strict=True):
            if row != NO_ROW:
                yield query, database[row], score


def _require(dataset: str, names: Iterable[str], pair_format: PairFormat) -> None:
    reason = unrepresentable(names, pair_format)
    if reason:
        raise DataError(f"{dataset}: {reason}")


def _obstacle_in_columns(name: str) -> str | None:
    if "," in name:
        return "holds a comma, which separates the columns"
    if name.startswith("#"):
        return "begins with #, which marks a comment"
    if name != name.strip():
        return "begins or ends with a space, which readers strip"
    return None


def _obstacle_between_spaces(name: str) -> str | None:
    return "holds a space, which separates the names" if any(map(str.isspace, name)) else None


_OBSTACLES: Mapping[PairFormat, Callable[[str], str | None]] = {
    "patchnetvlad": _obstacle_in_columns,
    "kapture": _obstacle_in_columns,
    "hloc": _obstacle_between_spaces,
}
