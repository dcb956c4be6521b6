"""Pairs of a geometry benchmark, their rows and, matched again, their matches."""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vpr.config import parse
from vpr.core import DataError, ImageError
from vpr.datasets.homography_pairs import HomographyPair
from vpr.datasets.pair_records import PAIRS, read_pairs
from vpr.geometry.homography_benchmark import HOMOGRAPHY_PROTOCOLS
from vpr.geometry.pose_benchmark import POSE_PROTOCOLS
from vpr.geometry_benchmark import SUMMARY, Bench, Options, homography_bench, pose_bench
from vpr.inspection.items import InspectedPair, each_once
from vpr.report.drawing import Correspondences
from vpr.runtime.files import read_json
from vpr.settings import Settings

ROWS = "rows.csv"
GOOD = 5.0  # pixels or degrees: a model below that error counts as right


class InspectedBenchmark:
    """A folder of ``vpr evaluate``."""

    kind = "pairs"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = _read_rows(folder / ROWS)
        self.listed = read_pairs(folder / PAIRS)
        if [row["pair"] for row in self.rows] != [pair.name for pair in self.listed]:
            raise DataError(f"{folder}: {ROWS} and {PAIRS} list different pairs; run vpr evaluate again")
        self.names = each_once([row["pair"] for row in self.rows])
        self.error = next((name for name in self.metrics if name.startswith("error_")), "")
        unit = "degrees" if self.error.startswith("error_deg") else "pixels"
        self.rightness = f"{self.error} below {GOOD:g} {unit}" if self.error else "not judged"

    @cached_property
    def metrics(self) -> Mapping[str, Sequence[float]]:
        columns = [column for column in self.rows[0] if column not in ("pair", "part", "problem")] if self.rows else []
        return {column: [_number(row.get(column, "")) for row in self.rows] for column in columns}

    @property
    def main(self) -> str:
        return "correct_matches" if "correct_matches" in self.metrics else next(iter(self.metrics))

    @cached_property
    def right(self) -> Sequence[bool | None]:
        if not self.error:
            return [None] * len(self.rows)
        return [None if math.isnan(value) else value < GOOD for value in self.metrics[self.error]]

    def pairs(self, item: int) -> list[InspectedPair]:
        pair = self.listed[item]
        try:
            found = self._bench.matched(pair)
        except ImageError:
            return []
        keypoints = found.first.points, found.second.points
        matches = Correspondences(*found.points, found.correct, found.scores.astype(np.float32), *keypoints)
        facts = f"{len(found.pairs)} matches, {int(found.correct.sum())} correct by the known geometry"
        names = pair.first.name, pair.second.name
        return [
            InspectedPair(
                pair.name, facts, (pair.first, pair.second), names, (found.first.size, found.second.size), matches
            )
        ]

    @cached_property
    def _bench(self) -> Bench:
        summary = _read_summary(self.folder / SUMMARY)
        try:
            settings = parse(Settings, tomllib.loads(summary["settings"]))
            benchmark, protocol, longest = summary["benchmark"], summary["protocol"], summary.get("longest_side")
        except (KeyError, TypeError, tomllib.TOMLDecodeError) as error:
            raise DataError(f"{self.folder / SUMMARY}: damaged: {error!r}; run vpr evaluate again") from None
        options = Options(self.folder, lambda _: settings, "", longest_side=longest)
        if self.listed and isinstance(self.listed[0], HomographyPair) and protocol in HOMOGRAPHY_PROTOCOLS:
            return homography_bench(benchmark, protocol, options)[0]
        if benchmark in POSE_PROTOCOLS:
            return pose_bench(benchmark, options)[0]
        raise DataError(f"{self.folder / SUMMARY}: unknown benchmark {benchmark!r} with protocol {protocol!r}")


def _read_summary(path: Path) -> Mapping[str, Any]:
    try:
        summary = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}; run vpr evaluate again") from None
    if not isinstance(summary, Mapping):
        raise DataError(f"{path}: damaged: not an object; run vpr evaluate again")
    return summary


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the folder of a finished vpr evaluate") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: damaged: {error}; run vpr evaluate again") from None
    if not rows or "pair" not in rows[0]:
        raise DataError(f"{path}: holds no rows of pairs; give the folder of a finished vpr evaluate")
    return rows


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
