"""No setting is without effect: each field of each section is read by the code that it is for.

The sections of a run are watched while a run reads them. Those of methods and of training, which need weights or hours,
are looked up in the source: some code outside the class reads an attribute of that name, in the same package.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_picture

import vpr
from vpr.config import Section, load
from vpr.datasets.folders import read_folders
from vpr.settings import Settings
from vpr.training.tasks import Settings as TrainingSettings

ROOT = Path(vpr.__file__).parent

# Fields that no watched run reads, and why.
NOT_READ: dict[tuple[str, str], str] = {
    (f"vpr.{where}", name): "read where rerank.method = 'images'"
    for where, name in (
        ("settings.Settings", "image_matcher"),
        *(("matchers.loftr.Settings", key) for key in ("weights", "longest_side", "match_threshold")),
        *(
            ("matchers.xfeat_semi_dense.Settings", key)
            for key in ("weights", "longest_side", "max_keypoints", "match_threshold")
        ),
    )
}
NOT_READ[("vpr.local_features.rootsift.Settings", "drop_confidence")] = "of a head; the watched run has masks"


def all_sections() -> list[type[Section]]:
    """Every section that the package defines."""
    for module in pkgutil.walk_packages([str(ROOT)], "vpr."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[Section]) -> Iterator[type[Section]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    found = {each for each in below(Section) if each.__module__.startswith("vpr.")}
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


@cache
def attributes_read(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def readers_of(section: type[Section]) -> set[str]:
    """Attributes read in the package of the section and in the command line; for a module at the top, anywhere."""
    parts = section.__module__.split(".")
    folders = (ROOT / parts[1], ROOT / "cli") if len(parts) > 2 else (ROOT,)
    return set().union(*(attributes_read(path) for folder in folders for path in folder.rglob("*.py")))


def named(section: type[Section]) -> str:
    return f"{section.__module__}.{section.__name__}"


@pytest.mark.parametrize("section", all_sections(), ids=lambda each: f"{each.__module__}.{each.__name__}")
def test_every_field_is_read_somewhere(section: type[Section]) -> None:
    read = readers_of(section)
    unread = {name for name in section.model_fields if name not in read and name != "method"}
    assert {(named(section), name) for name in unread} <= NOT_READ.keys()


def test_every_section_of_a_run_is_read_while_it_runs(
    small_city: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validator or a fingerprint does not count: watching begins when the settings are complete."""
    from vpr import pipeline

    given = {
        "local_features.method": "rootsift",
        "local_features.drop": ["sky"],
        "local_features.segmentation": str(tmp_path / "masks"),
        "shortlist.k": 5,
        "rotations.degrees": [0, 180],
        "rerank.k": 3,
        "cost.order": "nearest",
        "cost.promise": 0.1,
        "cost.gate_inliers": 1,
        "cost.gate_lead": 0.01,
        "cost.stop_inliers": 1000,
        "cost.budget_ms": 1e6,
        "evaluation.recall_at": [1],
        "machine.device": "cpu",
    }
    name = read_folders(*small_city, 25.0).database.names[0]
    write_picture(tmp_path / "masks" / f"{name}.png", np.full((8, 8), 11, np.uint8))
    settings = load(Settings, None, [f"{key}={value}" for key, value in given.items()])
    read: set[tuple[str, str]] = set()

    def watched(self: Section, name: str) -> Any:
        kind = type(self)
        if not name.startswith("_") and name in kind.model_fields:
            read.add((named(kind), name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Section, "__getattribute__", watched, raising=False)
    dataset = read_folders(*small_city, settings.evaluation.radius_m)
    pipeline.run(dataset, settings, tmp_path / "out", {})
    monkeypatch.undo()
    assert {key for key in wanted_of(settings) if key not in read} == {
        key for key in NOT_READ if key in wanted_of(settings)
    }


def wanted_of(section: Section) -> set[tuple[str, str]]:
    """Every field of a section and of those inside it."""
    wanted = set()
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            wanted |= wanted_of(value)
        if name != "method":
            wanted.add((named(type(section)), name))
    return wanted


def test_the_table_by_hand_names_fields_that_exist() -> None:
    known = {(named(section), name) for section in all_sections() for name in section.model_fields}
    assert known >= NOT_READ.keys()
    assert {TrainingSettings, Settings} <= set(all_sections())
