"""What is known of published weights: pretrained_models/manifest.toml, read strictly."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


class Publication(Section):
    """One table of the manifest: files that were published together."""

    loads: tuple[str, ...] = Field(min_length=1)  # methods whose setting ``weights`` takes these files
    source: str = Field(min_length=1)  # paper and repository
    licence: str = Field(min_length=1)  # in a few words
    notice: str = ""  # what a user must know of it
    folder: str = ""  # address of the folder that holds the files; "" for files that come with vpr
    files: dict[Name, FileName] = Field(min_length=1)
    sha256: dict[Name, Sha256] = Field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One published file."""

    name: str
    file: str
    url: str  # "" if the file comes with vpr
    sha256: str  # "" if none is published
    loads: tuple[str, ...]
    source: str
    licence: str
    notice: str

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
    """The published file of that name; raises WeightsError that suggests the nearest."""
    if name not in manifest:
        close = difflib.get_close_matches(name, manifest, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise WeightsError(f"no weights are known by the name {name!r}{hint}; `vpr models list` shows the names")
    return manifest[name]


def _entries(title: str, table: Any) -> Iterator[Entry]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{title} = {table!r}: expected a table [{title}]")
    each = parse(Publication, table, where=title)
    unknown = each.sha256.keys() - each.files.keys()
    if unknown:
        raise ConfigError(f"[{title}.sha256] names {sorted(unknown)[0]!r}, which [{title}.files] does not")
    for name, file in each.files.items():
        url = f"{each.folder.rstrip('/')}/{file}" if each.folder else ""
        sha256 = each.sha256.get(name, "")
        yield Entry(name, file, url, sha256, each.loads, each.source, each.licence, each.notice)
