"""Pairs files of other systems: one line per query and candidate, best first, pads left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from vpr.core import NO_ROW, DataError, Dataset, Ranking, usable_name
from vpr.runtime.files import write_atomically

PairFormat = Literal["patchnetvlad", "kapture", "hloc"]


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


def patchnetvlad_pairs(dataset: Dataset, ranking: Ranking, root: str | None = None) -> str:
    """Byte for byte what Patch-NetVLAD's feature_match.py writes (commit 39ab4e4).

    ``root`` is its --dataset_root_dir, put before every name; without it each side's own folder is.
    Raises DataError for a name that the format cannot hold.
    """
    _require(dataset, "patchnetvlad")
    queries, database = (
        [os.path.join(str(images.root) if root is None else root, name) for name in images.names]
        for images in (dataset.queries, dataset.database)
    )
    lines = [f"{query}, {candidate}" for query, candidate, _ in _pairs(queries, database, ranking)]
    return "\n".join(["# kapture format: 1.0", "# query_image, map_image", *lines]) + "\n"


def kapture_pairs(dataset: Dataset, ranking: Ranking) -> str:
    """Kapture 1.1's pairs file: names relative to the records' folder, and the score, higher is better.

    Raises DataError for a name that the format cannot hold.
    """
    _require(dataset, "kapture")
    lines = [f"{query}, {candidate}, {score}" for query, candidate, score in _pairs(*_plain_names(dataset), ranking)]
    return "\n".join(["# kapture format: 1.1", "# query_image, map_image, score", *lines]) + "\n"


def hloc_pairs(dataset: Dataset, ranking: Ranking) -> str:
    """Hloc's retrieval pairs: names separated by a space, no header, no newline at the end.

    Raises DataError for a name that the format cannot hold.
    """
    _require(dataset, "hloc")
    return "\n".join(f"{query} {candidate}" for query, candidate, _ in _pairs(*_plain_names(dataset), ranking))


def _pairs(queries: Sequence[str], database: Sequence[str], ranking: Ranking) -> Iterator[tuple[str, str, str]]:
    """Query, candidate, and the score in the fewest digits that give the same float32 back."""
    for query, rows, scores in zip(queries, ranking.rows, ranking.scores, strict=True):
        for row, score in zip(rows.tolist(), scores.astype(str).tolist(), strict=True):
            if row != NO_ROW:
                yield query, database[row], score


def _plain_names(dataset: Dataset) -> tuple[list[str], list[str]]:
    """Names as these formats key their images: without the ``./`` that image lists put before them."""
    return [usable_name(name) for name in dataset.queries.names], [usable_name(n) for n in dataset.database.names]


def _require(dataset: Dataset, pair_format: PairFormat) -> None:
    for images in (dataset.queries, dataset.database):
        reason = unrepresentable(images.names, pair_format)
        if reason:
            raise DataError(f"{dataset.name}: {reason}")


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
