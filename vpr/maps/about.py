"""What a map is made by and searched by: ``map.toml`` in its folder."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vpr.core import DataError
from vpr.runtime.files import write_atomically
from vpr.toml_text import to_toml

FILE = "map.toml"
FORMAT = 1


@dataclass(frozen=True)
class About:
    """The settings of a map and what its features come from."""

    profile: str  # how much of the local features is kept
    settings: Mapping[str, Any]  # of a run, as vpr.config.dump writes them
    weights: Mapping[str, str] = field(default_factory=dict)  # sha256 by method; "" for one without
    probability: Mapping[str, Any] = field(default_factory=dict)  # parameters and origin; {} where none was fitted
    search: Mapping[str, Any] = field(default_factory=dict)  # what searches the descriptors; {} for FAISS

    def write(self, folder: Path) -> None:
        table = {
            "format": FORMAT,
            "profile": self.profile,
            "weights": dict(self.weights),
            "probability": dict(self.probability),
            "settings": dict(self.settings),
            **({"search": dict(self.search)} if self.search else {}),
        }
        write_atomically(folder / FILE, to_toml(table))

    @staticmethod
    def read(folder: Path) -> About:
        """What ``write`` wrote; raises DataError if there is none, or another."""
        path = folder / FILE
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            found = table.pop("format")
            about = About(**table)
        except FileNotFoundError:
            raise DataError(f"{folder}: no map lies here (no {FILE}); `vpr map create` makes one") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the description of a map ({error}); restore it from a copy") from None
        if isinstance(about.search, str):  # as a hand writes it: search = "milvus"
            about = replace(about, search={"method": about.search})
        if not isinstance(about.search, Mapping):
            raise DataError(f"{path}: search = {about.search!r}; write it as a section [search] with method = NAME")
        if found != FORMAT:
            raise DataError(f"{path}: a map of format {found}, this version of vpr reads {FORMAT}; update vpr")
        return about
