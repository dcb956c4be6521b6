"""Signs that a data set is not what it was meant to be: positions, positives or queries that make a recall worthless.

Nothing is refused here: a small test set may look like any of these on purpose.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vpr.core import Dataset, Doubles, ImageSet, Rows
from vpr.datasets import utm_names

WARNINGS = "warnings"  # fact about a run
NAMED = 3  # rows that a warning names
_FAR_M = 10_000.0  # a set that reaches as far from 0, 0 does not begin there
_UTM_EAST_M = (100_000.0, 900_000.0)  # of every point of a zone
_SAMPLE = 4096  # bytes at the beginning and the end of a file, compared before the whole

_log = logging.getLogger(__name__)


def warn(dataset: Dataset) -> list[str]:
    """Log the warnings about a data set that is to be run, one line each, and return them.

    They are those of ``warnings_of``, and images that are not on disk.
    """
    found = [
        *missing(dataset.database, "database images"),
        *missing(dataset.queries, "queries"),
        *warnings_of(dataset),
    ]
    for text in found:
        _log.warning("%s: %s", dataset.name, text)
    return found


def with_warnings(facts: Mapping[str, str], warnings: Sequence[str]) -> dict[str, str]:
    """The facts of a run with what is suspicious about its data set, so that it stands beside the recall."""
    return {**facts, **({WARNINGS: "; ".join(warnings)} if warnings else {})}


def warnings_of(dataset: Dataset) -> list[str]:
    """Returns a sentence on each suspicious finding, with the number of rows and the first of them by name.

    Degrees taken as metres, rows at 0, 0, exchanged coordinates, all database images positives of all queries, queries
    that are database images.
    """
    found: list[str] = []
    for images, role in ((dataset.database, "database images"), (dataset.queries, "queries")):
        if images.positions is not None and len(images):
            found += _positions(images, images.positions, role)
    pairs = sum(len(rows) for rows in dataset.positives or ())
    judged = len(dataset.queries) - len(dataset.unknown)
    if pairs and pairs == len(dataset.database) * judged and len(dataset.database) > 1:
        found.append(
            f"all {len(dataset.database)} database images are positives of all {judged} queries, so "
            "every ranking has a recall of 100 %; check the positions and the radius"
        )
    same = queries_in_database(dataset)
    if same:
        texts = (f"{dataset.queries.names[query]} is {dataset.database.names[row]}" for query, row in same[:NAMED])
        found.append(
            f"{len(same)} of {len(dataset.queries)} queries are database images (same file or same content), so each "
            f"finds itself: {', '.join(texts)}{_more(len(same))}; recall says nothing about them"
        )
    return found


def missing(images: ImageSet, role: str) -> list[str]:
    """That images, or the folder that their names are relative to, are not on disk; empty if all are."""
    if not images.root.exists():
        return [f"{images.root}: no such folder, so none of {len(images)} {role} can be read"]
    absent = [row for row in range(len(images)) if not images.path(row).exists()]
    if not absent:
        return []
    return [
        f"{len(absent)} of {len(images)} {role} are not in {images.root}: {_named(images, np.array(absent))}"
        + ("; is it the folder that the names are relative to?" if len(absent) == len(images) else "")
    ]


def queries_in_database(dataset: Dataset) -> list[tuple[int, int]]:
    """Query row and database row of every query that is a database image: the same file, or one of equal content.

    Files are read only where their sizes are equal, and as a whole only where their ends are equal too.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    sizes = [_size(dataset.queries.path(row)) for row in range(len(dataset.queries))]
    wanted = set(sizes) - {0}
    for row in range(len(dataset.database)):
        size = _size(dataset.database.path(row))
        if size in wanted:
            by_size[size].append(row)
    samples: dict[int, dict[bytes, list[int]]] = {}
    found = []
    for query, size in enumerate(sizes):
        if size not in by_size:
            continue
        path = dataset.queries.path(query)
        if size not in samples:
            samples[size] = _by_sample(dataset.database, by_size[size], size)
        rows = samples[size].get(_sample(path, size), [])
        match = next((row for row in rows if _equal(path, dataset.database.path(row))), None)
        if match is not None:
            found.append((query, match))
    return found


def _positions(images: ImageSet, positions: Doubles, role: str) -> Iterator[str]:
    if _like_degrees(images, positions):
        first = ", ".join(f"{value:g}" for value in positions[0])
        yield (
            f"the positions of {len(images)} {role} look like degrees but are read as metres (row 0, "
            f"{images.names[0]}: {first}); give UTM metres, or latitude and longitude to `vpr gt make`"
        )
        return
    zero = np.flatnonzero((positions == 0).all(axis=1))
    if len(zero) and np.abs(positions).max() > _FAR_M:
        yield f"{len(zero)} of {len(images)} {role} lie at 0, 0, as missing positions do: {_named(images, zero)}"
    east, north = positions.T
    low, high = _UTM_EAST_M
    if east.min() > 1_000_000 and east.max() < 10_000_000 and low < north.min() and north.max() < high:
        yield (
            f"east and north of {len(images)} {role} look exchanged (row 0, {images.names[0]}: {east[0]:g}, "
            f"{north[0]:g}); east comes first, and is between 100,000 and 900,000 m in every UTM zone"
        )
    exchanged = np.flatnonzero([_exchanged_degrees(name) for name in images.names])
    if len(exchanged):
        yield (
            f"latitude and longitude look exchanged in the names of {len(exchanged)} of {len(images)} {role} (a "
            f"latitude beyond 90 degrees): {_named(images, exchanged)}"
        )


def _like_degrees(images: ImageSet, positions: Doubles) -> bool:
    """Whether all positions lie in the range of degrees, and far from where a local frame in metres begins.

    Positions in file names need no such distance if they have four decimals: metres are never written so finely.
    """
    size = np.abs(positions)
    if (size > 180).any() or ((size > 90).any(axis=0)).all() or (positions == positions.round()).all():
        return False
    spread = float(np.linalg.norm(positions.std(axis=0)))
    distance = float(np.linalg.norm(positions.mean(axis=0)))
    fine = float((np.abs(positions - positions.round(3)) > 1e-9).mean())
    in_names = utm_names.has_position(images.names[0])
    return (distance > 10 * spread and distance > 1 and len(images) > 1) or (in_names and fine > 0.5)


def _exchanged_degrees(name: str) -> bool:
    """Whether the latitude that a name of the full form gives is beyond 90 degrees, and its longitude is not."""
    fields = name.rpartition("/")[2].split("@")
    try:
        return not fields[0] and abs(float(fields[5])) > 90 >= abs(float(fields[6]))
    except (IndexError, ValueError):
        return False


def _size(path: Path) -> int:
    """Size of a regular file in bytes; 0 for anything else."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except (OSError, ValueError):
        return 0


def _by_sample(images: ImageSet, rows: Sequence[int], size: int) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = defaultdict(list)
    for row in rows:
        found[_sample(images.path(row), size)].append(row)
    return found


def _sample(path: Path, size: int) -> bytes:
    """Digest of the beginning and the end of a file; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_SAMPLE)
            file.seek(max(0, size - _SAMPLE))
            return hashlib.blake2b(head + file.read(_SAMPLE), digest_size=16).digest()
    except OSError:
        return b""


def _equal(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other) or one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def _named(images: ImageSet, rows: Rows) -> str:
    return ", ".join(f"row {row} {images.names[row]}" for row in rows[:NAMED].tolist()) + _more(len(rows))


def _more(count: int) -> str:
    return f" and {count - NAMED} more" if count > NAMED else ""
