"""Which database images are positives of a query: within a radius in metres, and the npz files that say so."""

from __future__ import annotations

import io
import logging
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Dataset, Doubles, ImageSet
from vpr.datasets.plausibility import warnings_of
from vpr.positives import positives_within, require_radius
from vpr.runtime.files import require_file, write_atomically

HISTOGRAM_EDGES_M = (0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 1000.0, math.inf)

MOST_BYTES = 1 << 30  # of positions: 67 million images

_log = logging.getLogger(__name__)


def answerable_only(dataset: Dataset) -> Dataset:
    """The data set without the queries that have no positives, or of which they are not known."""
    if dataset.positives is None:
        raise DataError(f"{dataset.name}: no ground truth, so it is not known which queries have positives")
    keep = [row for row, rows in enumerate(dataset.positives) if len(rows)]
    positives = tuple(dataset.positives[row] for row in keep)
    protocol = f"{dataset.protocol}, queries without positives left out"
    return Dataset(dataset.name, protocol, dataset.database, dataset.queries.part(keep), positives)


def read_npz(path: Path) -> tuple[Doubles, Doubles, float]:
    """Read Patch-NetVLAD's ground truth: (Q, 2) and (N, 2) metres of queries and database, and the radius in metres."""
    try:
        with (
            require_file(path).open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):  # closed even where load fails
            _require_size(path, archive)
            arrays = {key: archive[key] for key in ("utmQ", "utmDb", "posDistThr")}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; make one with `vpr gt make points.csv --out {path}`") from None
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; a ground truth file holds utmQ, utmDb and posDistThr") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable npz file: {error}") from None
    radius = arrays["posDistThr"]
    if radius.size != 1 or radius.dtype.kind not in "iuf" or not (0 <= radius.item() < math.inf):
        raise DataError(f"{path}: posDistThr is {radius!r}; expected one radius in metres")
    return _utm(path, "utmQ", arrays["utmQ"]), _utm(path, "utmDb", arrays["utmDb"]), float(radius.item())


def _require_size(path: Path, archive: Any) -> None:
    """Raise DataError if the arrays unpack to more than ``MOST_BYTES``, by the sizes that the zip file declares."""
    size = sum(entry.file_size for entry in archive.zip.infolist())
    if size > MOST_BYTES:
        raise DataError(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB that unpack to {size / 1e6:.0f} MB; "
            f"a ground truth has at most {MOST_BYTES / 1e6:.0f} MB"
        )


def write_npz(path: Path, utm_queries: Doubles, utm_database: Doubles, radius_m: float) -> None:
    """Write Patch-NetVLAD's ground truth; the radius is an integer in the file where it is a whole number."""
    require_radius(radius_m)
    for key, positions in (("utmQ", utm_queries), ("utmDb", utm_database)):
        _utm(path, key, positions)
    whole = int(radius_m) if float(radius_m).is_integer() else float(radius_m)
    buffer = io.BytesIO()
    np.savez(buffer, utmQ=utm_queries, utmDb=utm_database, posDistThr=np.array(whole))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def dataset_of_npz(path: Path, radius_m: float | None = None) -> Dataset:
    """The data set that a ground truth file describes, with row numbers for names: enough to check it."""
    utm_queries, utm_database, stored_m = read_npz(path)
    radius_m = stored_m if radius_m is None else radius_m
    database = ImageSet(path.parent, tuple(f"database/{row}" for row in range(len(utm_database))), utm_database)
    queries = ImageSet(path.parent, tuple(f"query/{row}" for row in range(len(utm_queries))), utm_queries)
    return Dataset(
        path.stem, f"within {radius_m:g} m", database, queries, positives_within(queries, database, radius_m)
    )


@dataclass(frozen=True, eq=False)
class GroundTruthCheck:
    """Figures to check before trusting a ground truth."""

    name: str
    protocol: str
    database: int  # number of images
    queries: int  # number of images
    zone: str | None
    unanswerable: tuple[str, ...] | None  # names of the queries without positives; None without ground truth
    unknown: tuple[str, ...]  # names of the queries whose positives are not known, though those of others are
    positives_per_query: tuple[int, float, int] | None  # smallest, median, largest; None without ground truth
    nearest: tuple[int, ...] | None  # queries by distance to the nearest database image; None without positions
    warnings: tuple[str, ...] = ()  # see vpr.datasets.plausibility


def check(dataset: Dataset) -> GroundTruthCheck:
    spread = unanswerable = None
    if dataset.positives is not None:
        known = np.setdiff1d(np.arange(len(dataset.queries)), np.array(dataset.unknown, dtype=np.int64))
        counts = np.array([len(dataset.positives[row]) for row in known], dtype=np.int64)
        unanswerable = tuple(dataset.queries.names[row] for row in known[counts == 0])
        spread = (int(counts.min()), float(np.median(counts)), int(counts.max())) if len(counts) else (0, 0.0, 0)
    return GroundTruthCheck(
        name=dataset.name,
        protocol=dataset.protocol,
        database=len(dataset.database),
        queries=len(dataset.queries),
        zone=dataset.database.zone,
        unanswerable=unanswerable,
        unknown=tuple(dataset.queries.names[row] for row in dataset.unknown),
        positives_per_query=spread,
        nearest=_nearest_histogram(dataset),
        warnings=tuple(warnings_of(dataset)),
    )


def check_text(result: GroundTruthCheck) -> str:
    """The check as lines for a terminal."""
    lines = [
        f"{result.name}: {result.database} database images, {result.queries} queries",
        f"rule: {result.protocol}",
        f"UTM zone: {result.zone or 'unknown'}",
    ]
    if result.unanswerable is None or result.positives_per_query is None:
        lines.append("no ground truth")
    else:
        lines.append(f"queries without positives: {len(result.unanswerable)}{_some(result.unanswerable)}")
        if result.unknown:
            lines.append(f"queries whose positives are not known: {len(result.unknown)}{_some(result.unknown)}")
        least, median, most = result.positives_per_query
        lines.append(f"positives per query: {least} to {most}, median {median:g}")
    if result.nearest is None:
        lines.append("no positions")
    else:
        lines.append("distance from a query to its nearest database image:")
        lines += [f"  {_span(bin_):>12}  {count}" for bin_, count in enumerate(result.nearest)]
    lines += [f"warning: {text}" for text in result.warnings]
    return "\n".join(lines)


def _some(names: tuple[str, ...], most: int = 3) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"


def _span(bin_: int) -> str:
    low, high = HISTOGRAM_EDGES_M[bin_ : bin_ + 2]
    return f"over {low:g} m" if high == math.inf else f"{low:g} to {high:g} m"


def _nearest_histogram(dataset: Dataset) -> tuple[int, ...] | None:
    from scipy.spatial import cKDTree

    if dataset.database.positions is None or dataset.queries.positions is None or not len(dataset.database):
        return None
    distances: NDArray[np.float64] = cKDTree(dataset.database.positions).query(dataset.queries.positions)[0]
    bins = np.searchsorted(HISTOGRAM_EDGES_M[1:-1], distances, side="left")  # an edge belongs to the nearer bin
    return tuple(np.bincount(bins, minlength=len(HISTOGRAM_EDGES_M) - 1).tolist())


def _utm(path: Path, key: str, positions: NDArray[np.generic]) -> Doubles:
    if positions.ndim != 2 or positions.shape[1] != 2 or positions.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: {key} is {positions.dtype} of shape {positions.shape}; expected (N, 2) numbers, east and north"
        )
    utm = positions.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(utm).all(axis=1))
    if len(bad):
        raise DataError(f"{path}: row {bad[0]} of {key} is not a finite position ({len(bad)} such rows)")
    if positions.dtype.itemsize < 8 and positions.dtype.kind == "f" and len(utm) and np.abs(utm).max() > 100_000:
        _log.warning("%s: %s is %s, which moves UTM positions by up to 0.25 m", path, key, positions.dtype)
    return utm
