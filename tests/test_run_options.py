"""Options of ``vpr run`` that were ignored beside a reader: now applied, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpr.cli.run import _dataset
from vpr.config import load
from vpr.core import ConfigError, Dataset
from vpr.settings import Settings

Folders = tuple[Path, Path]


def read(folders: Folders, *overrides: str, source: list[str] | None = None, ground_truth: bool = True) -> Dataset:
    given = source if source is not None else [f"database={folders[0]}", f"queries={folders[1]}"]
    settings = load(Settings, None, overrides)
    return _dataset(None, None, "folders", source=given, settings=settings, ground_truth=ground_truth)


def count(dataset: Dataset) -> int:
    assert dataset.positives is not None
    return sum(map(len, dataset.positives))


def test_the_radius_is_the_readers_too(small_city: Folders) -> None:
    assert count(read(small_city, "evaluation.radius_m=5000")) > count(read(small_city))
    given = [f"database={small_city[0]}", f"queries={small_city[1]}", "radius_m=25"]
    assert count(read(small_city, "evaluation.radius_m=5000", source=given)) == count(read(small_city))


def test_no_ground_truth_is_none_with_a_reader(small_city: Folders) -> None:
    assert read(small_city, ground_truth=False).positives is None


def test_what_does_not_go_together_is_refused(small_city: Folders) -> None:
    settings = load(Settings, None)
    with pytest.raises(ConfigError, match="leave them or --reader out"):
        _dataset(small_city[0], small_city[1], "folders", source=[], settings=settings, ground_truth=True)
    with pytest.raises(ConfigError, match="--source is for --reader"):
        _dataset(*small_city, None, source=["root=x"], settings=settings, ground_truth=True)
    with pytest.raises(ConfigError, match="takes its positives from a file"):
        load_listed = load(Settings, None, ["evaluation.radius_m=10"])
        _dataset(None, None, "ground_truth_csv", source=["root=x"], settings=load_listed, ground_truth=True)
