"""Recall@1 of frames of a drive, each alone and with those before it, kept as one JSON file.

    python benchmarks/map_sequence.py DATA --out benchmarks/results/NAME.json [--only NAME ...] [--work DIR]

DATA is a folder of data sets as for benchmarks/recall.py whose queries are frames in order; conditions are drives of
their own. The images of the maps have no positions, so that they are taken to be in order too.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from recall import conditions

from vpr.config import config_path, load
from vpr.core import Dataset, ImageSet, Rows
from vpr.datasets import read_pair
from vpr.datasets.placed import of_image_set
from vpr.maps import Answer, Map
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of data sets, instead of all")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vpr-benchmark")
    arguments = parser.parse_args()
    settings = load(Settings, config_path("map"))
    results = []
    for root in sorted(path.parent for path in arguments.data.glob("*/ground_truth.csv")):
        if not arguments.only or root.name in arguments.only:
            results += measure(
                read_pair(root / "database", root / "queries"), settings, arguments.work / f"drive-{root.name}"
            )
    named = f"python benchmarks/map_sequence.py DATA --only {shlex.join(arguments.only or [])}"
    write_json(arguments.out, {**machine.facts(named, machine.device_of("auto")), "results": results})


def measure(dataset: Dataset, settings: Settings, folder: Path) -> list[dict[str, Any]]:
    held = Map.begin(folder, settings)
    images = dataset.database
    held.add_placed(of_image_set(ImageSet(images.root, images.names)), images.root)
    features = [held.features(dataset.queries.path(row)) for row in range(len(dataset.queries))]
    found = []
    drives = conditions(dataset)
    for condition, rows in drives.items():
        if condition == "all" and len(drives) > 1:
            continue
        frames = [features[row] for row in rows.tolist()]
        alone = right(dataset, rows, [held.locate(frame, rerank=0) for frame in frames])
        together = right(dataset, rows, list(held.locate_sequence(frames)))
        found.append(
            {"dataset": dataset.name, "drive": condition, "frames": len(rows), "alone": alone, "sequence": together}
        )
        print(found[-1], flush=True)
    return found


def right(dataset: Dataset, rows: Rows, answers: list[Answer]) -> float:
    """Fraction of the frames whose first candidate is a positive."""
    assert dataset.positives is not None
    good = [{dataset.database.names[each] for each in dataset.positives[row].tolist()} for row in rows.tolist()]
    return round(float(np.mean([a.candidates[0].name in names for a, names in zip(answers, good, strict=True)])), 4)


if __name__ == "__main__":
    main()
