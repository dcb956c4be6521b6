"""dataset.json: what a run was about, so that its report can be made again and two runs can be compared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from vpr.core import DataError, Dataset, ImageSet, Rows
from vpr.evaluation.identity import truth_digest
from vpr.runtime.files import write_atomically

FORMAT = 1
FILE_NAME = "dataset.json"


def write_dataset(path: Path, dataset: Dataset) -> None:
    """Names, positions, groups and positives, with all their digits."""
    record = {
        "format": FORMAT,
        "name": dataset.name,
        "protocol": dataset.protocol,
        "ground_truth": None if dataset.positives is None else truth_digest(dataset),
        "queries": _images(dataset.queries),
        "database": _images(dataset.database),
        "unknown": list(dataset.unknown),
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n" for key, value in record.items())
    write_atomically(path, chain(["{\n"], lines, ['"positives": '], _positives(dataset.positives), ["\n}\n"]))


def _positives(positives: Sequence[Rows] | None) -> Iterator[str]:
    """The JSON text of the positives, query by query: a list of all would take 40 bytes a row."""
    if positives is None:
        yield "null"
        return
    yield "["
    for query, rows in enumerate(positives):
        yield (", " if query else "") + json.dumps(rows.tolist())
    yield "]"


def read_dataset(path: Path) -> Dataset:
    """The data set as it was; raises DataError for a file that is missing, damaged, or of another format."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise DataError(f"{path}: format {record['format']}, expected {FORMAT}; run again, the features are reused")
        positives = record["positives"]
        return Dataset(
            record["name"],
            record["protocol"],
            _image_set(record["database"]),
            _image_set(record["queries"]),
            None if positives is None else tuple(np.array(rows, dtype=np.int64) for rows in positives),
            tuple(int(row) for row in record.get("unknown", ())),
        )
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the folder of a finished run (--out of vpr run)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged: {error!r}; run again, the features are reused") from None


def _images(images: ImageSet) -> dict[str, Any]:
    return {
        "root": os.path.abspath(images.root),
        "zone": images.zone,
        "names": images.names,
        "positions": None if images.positions is None else images.positions.tolist(),
        "groups": None if images.groups is None else images.groups.tolist(),
        "regions": None if images.regions is None else images.regions.tolist(),
    }


def _image_set(record: Mapping[str, Any]) -> ImageSet:
    positions, groups, regions = record["positions"], record["groups"], record.get("regions")
    return ImageSet(
        Path(record["root"]),
        tuple(record["names"]),
        None if positions is None else np.array(positions, dtype=np.float64).reshape(-1, 2),
        record["zone"],
        None if groups is None else np.array(groups, dtype=np.int64),
        None if regions is None else np.array(regions, dtype=np.int64),
    )
