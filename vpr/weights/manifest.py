"""The manifest of published weights: pretrained_models/manifest.toml, read strictly."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from vpr.config import Section, parse
from vpr.core import ConfigError
from vpr.runtime.files import shipped
from vpr.weights.checkpoint import WeightsError

FOLDER = "pretrained_models"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]  # without dot and slash, so never taken for a path
FileName = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class TrainedFor(Section):
    """The local features that a matcher or a vocabulary was trained for."""

    method: str = Field(min_length=1)
    weights: str = ""  # name in the manifest, or path at the time; "" for methods without weights
    sha256: str = ""  # of those weights, where they have no name
    dim: int = Field(0, ge=0)  # of a descriptor; 0 if not known


class Publication(Section):
    """One table of the manifest: files that were published together."""

    loads: tuple[str, ...]  # methods whose setting ``weights`` takes these files; () if no method does yet
    source: str = Field(min_length=1)  # paper and repository
    licence: str = Field(min_length=1)  # in a few words
    notice: str = ""  # what a user must know of it
    folder: str = ""  # address of the folder that holds the files; "" for files that come with vpr or a package
    package: str = ""  # the Python package that holds the files, below ``inside``
    inside: str = ""
    files: dict[Name, FileName] = Field(min_length=1)
    sha256: dict[Name, Sha256] = Field(default_factory=dict)
    recipe: dict[Name, dict[str, Any]] = Field(default_factory=dict)  # settings that the weights need
    trained_for: TrainedFor | None = None
    aliases: dict[Name, Name] = Field(default_factory=dict)  # former name = name


@dataclass(frozen=True)
class Entry:
    """One published file."""

    name: str
    file: str
    url: str  # "" if the file comes with vpr or a package
    sha256: str  # "" if none is published
    loads: tuple[str, ...]
    source: str
    licence: str
    notice: str
    package: str = ""  # "" if no Python package holds the file
    inside: str = ""  # the file's path in that package
    recipe: Mapping[str, Any] = field(default_factory=dict)  # settings that the weights need
    trained_for: TrainedFor | None = None
    aliases: tuple[str, ...] = ()  # former names

    @property
    def terms(self) -> str:
        """Licence and source, as they are shown before fetching and at the first use."""
        return f"{self.name}: licence {self.licence}; source {self.source}" + (
            f". {self.notice}" if self.notice else ""
        )


def read_manifest(path: Path | None = None) -> dict[str, Entry]:
    """The published files by name, in the manifest's order; raises ConfigError for anything it does not understand."""
    path = path or shipped(FOLDER) / "manifest.toml"
    try:
        return dict(_read(path, path.stat().st_mtime_ns))
    except OSError as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None


@lru_cache(maxsize=4)  # every section with weights asks for it
def _read(path: Path, changed_ns: int) -> dict[str, Entry]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None
    entries: dict[str, Entry] = {}
    for title, table in tables.items():
        try:
            for entry in _entries(title, table):
                if entry.name in entries:
                    raise ConfigError(f"[{title}.files] the name {entry.name} is taken; choose another")
                entries[entry.name] = entry
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return entries


def entry_of(name: str, manifest: Mapping[str, Entry]) -> Entry:
    """The published file of that name or former name; raises WeightsError that suggests the nearest."""
    entry = entry_or_none(name, manifest)
    if entry is None:
        close = difflib.get_close_matches(name, manifest, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise WeightsError(f"no weights are known by the name {name!r}{hint}; `vpr models list` shows the names")
    return entry


def entry_or_none(name: str, manifest: Mapping[str, Entry]) -> Entry | None:
    """The published file of that name or former name, if there is one."""
    return manifest.get(name) or next((entry for entry in manifest.values() if name in entry.aliases), None)


def _entries(title: str, table: Any) -> Iterator[Entry]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{title} = {table!r}: expected a table [{title}]")
    each = parse(Publication, table, where=title)
    for part, names in (("sha256", each.sha256), ("recipe", each.recipe), ("aliases", each.aliases.values())):
        unknown = set(names) - each.files.keys()
        if unknown:
            raise ConfigError(f"[{title}.{part}] names {min(unknown)!r}, which [{title}.files] does not")
    for name, file in each.files.items():
        yield Entry(
            name=name,
            file=file,
            url=f"{each.folder.rstrip('/')}/{file}" if each.folder else "",
            package=each.package,
            inside=f"{each.inside.rstrip('/')}/{file}" if each.package else "",
            sha256=each.sha256.get(name, ""),
            loads=each.loads,
            source=each.source,
            licence=each.licence,
            notice=each.notice,
            recipe=each.recipe.get(name, {}),
            trained_for=each.trained_for,
            aliases=tuple(old for old, new in each.aliases.items() if new == name),
        )
