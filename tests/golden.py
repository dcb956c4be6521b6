"""Golden files: what the published networks and evaluators gave, read without knowing their cases.

A golden file is an npz of arrays beside a json that says how they were made: seed, sizes, options and tolerances. A
test takes one section of a file, a case as a rule, and must compare every array of it.

The environment variable VPR_GOLDEN names the folder; without it, ../shared/golden is read, less the cases whose weights
take a minute to make. VPR_GOLDEN=all reads that folder with all cases.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from published import module_at
from torch import Tensor

SHARED = Path(__file__).parents[2] / "shared" / "golden"
CHOSEN = os.environ.get("VPR_GOLDEN", "")
FOLDER = Path(CHOSEN) if CHOSEN not in ("", "all") else SHARED
LARGE = 40_000_000  # weights of more parameters than this are made only if VPR_GOLDEN asks for it

Sections = Mapping[str, Sequence[str]]  # the arrays of each section


@dataclass(frozen=True, eq=False)
class GoldenFile:
    """One npz, and what its json says."""

    model: str  # for instance "superglue"
    path: Path
    facts: Mapping[str, Any]
    seed: int

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        return _arrays(self.path)

    @property
    def recipe(self) -> ModuleType:
        beside = self.path.with_name("recipe.py")
        return _module(beside if beside.exists() else SHARED / "recipe.py")

    def case(self, name: str) -> Mapping[str, Any]:
        return next(each for each in self.facts["cases"] if each["name"] == name)


@dataclass(eq=False)
class Section:
    """Some arrays of a golden file, and which of them were compared."""

    file: GoldenFile
    name: str
    names: Sequence[str]
    used: set[str] = field(default_factory=set)

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.file.facts

    def __contains__(self, name: str) -> bool:
        return name in self.file.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        self.used.add(name)
        return self.file.arrays[name]

    def matching(self, pattern: str) -> Iterator[tuple[str, re.Match[str]]]:
        """The section's arrays whose whole name the pattern describes."""
        found = ((name, re.fullmatch(pattern, name)) for name in self.names)
        return ((name, match) for name, match in found if match)

    def check(self, name: str, ours: Tensor | np.ndarray, atol: float, rtol: float = 0.0) -> None:
        """Compare with an array, of which the file may hold only some elements."""
        got = ours.numpy() if isinstance(ours, Tensor) else np.asarray(ours)
        if f"{name}_index" in self:
            if f"{name}_shape" in self:
                assert tuple(self[f"{name}_shape"]) == got.shape, name
            got = got.reshape(-1)[self[f"{name}_index"]]
        expected = self[name]
        assert got.shape == expected.shape, f"{name}: {got.shape}, recorded {expected.shape}"
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=name)

    @contextmanager
    def compared(self) -> Iterator[None]:
        """Fails for arrays of the section that were not read inside."""
        yield
        left = sorted(set(self.names) - self.used)
        assert not left, f"{self.file.path.name}: nothing was compared with {', '.join(left)}"


def files(model: str | None = None) -> list[GoldenFile]:
    """The golden files of a model, or all, in the folder."""
    found = []
    for path in sorted(FOLDER.glob("*_seed*.npz")):
        match = re.fullmatch(r"(.+)_seed(\d+)", path.stem)
        if match and model in (None, match[1]):
            facts = _facts(path, match[1])
            seed = facts["seed"] if path.name in facts.get("files", ()) else int(match[2])
            found.append(GoldenFile(match[1], path, facts, seed))
    return found


def by_case(file: GoldenFile, *others: str) -> Sections:
    """The arrays of each case of the json and of other sections; those of none are under ''."""
    return by_prefix(file, [each["name"] for each in file.facts["cases"]] + list(others))


def by_prefix(file: GoldenFile, prefixes: Sequence[str]) -> Sections:
    sections: dict[str, list[str]] = {}
    for name in file.arrays:
        fitting = [each for each in prefixes if name.startswith(f"{each}/")]
        sections.setdefault(max(fitting, key=len, default=""), []).append(name)
    return sections


def sections(split: Callable[[GoldenFile], Sections], model: str, only: str = ".+") -> list[Any]:
    """Parameters of a test: each section of each file of the model whose name is as asked for."""
    found = [
        pytest.param(Section(file, name, names), id=f"{file.path.stem}-{name}".replace("/", "."))
        for file in files(model)
        for name, names in split(file).items()
        if re.fullmatch(only, name)
    ]
    return found or [pytest.param(None, marks=pytest.mark.skip(f"there is no such golden file in {FOLDER}"), id="none")]


def state_of(section: Section, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The recipe's weights under the published names."""
    if not CHOSEN and sum(int(np.prod(shape)) for shape in shapes.values()) > LARGE:
        pytest.skip("large weights, which take a minute to make; set VPR_GOLDEN=all")
    made = section.file.recipe.state_dict(shapes, section.facts["rules"], section.file.seed)
    return {key: torch.from_numpy(np.array(value)) for key, value in made.items()}


def checkpoint(section: Section, folder: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> str:
    """The path of the recipe's weights, saved as a checkpoint in the published layout."""
    path = folder / f"{section.file.path.stem}.pth"
    torch.save(state_of(section, shapes or section.facts["shapes"]), path)
    return str(path)


def options(given: Mapping[str, Any], table: Mapping[str, Callable[[Any], dict[str, Any]]]) -> dict[str, Any]:
    """Our settings for published options. Raises KeyError for an option that the table does not know."""
    settings: dict[str, Any] = {}
    for key, value in given.items():
        settings |= table[key](value)
    return settings


def as_is(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: value}


def nothing(_: Any) -> dict[str, Any]:
    return {}


@cache
def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@cache
def _module(path: Path) -> ModuleType:
    return module_at(path)


def _facts(path: Path, model: str) -> Mapping[str, Any]:
    own = path.with_suffix(".json")
    facts: Mapping[str, Any] = json.loads((own if own.exists() else path.with_name(f"{model}.json")).read_text())
    return facts
