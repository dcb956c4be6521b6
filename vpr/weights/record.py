"""Records of weights: the settings they need, and the local features they were trained for.

The manifest has those of weights with a name. A file carries its record as JSON under one key of its metadata, where
``vpr train``, ``vpr fit`` and ``vpr models export`` write it; one without is looked up in the manifest by its sha256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from vpr.config import MethodSettings, Section, parse
from vpr.core import ConfigError
from vpr.weights.checkpoint import METADATA_KEY, WeightsError, read_metadata, sha256_of
from vpr.weights.finding import known_as
from vpr.weights.manifest import Entry, TrainedFor, entry_or_none, read_manifest


class Record(Section):
    """Record of a weight file: what it is, its recipe and its training."""

    model_config = ConfigDict(extra="ignore")  # VLAD models keep more in the same place

    name: str = ""  # in the manifest, also of a copy in another format
    loads: tuple[str, ...] = ()  # methods that take them
    recipe: dict[str, Any] = Field(default_factory=dict)  # keys of that method's settings
    trained_for: TrainedFor | None = None

    def as_metadata(self, more: Mapping[str, Any] | None = None) -> dict[str, str]:
        """The metadata of a safetensors file; ``more`` goes into the same JSON."""
        about = self.model_dump(mode="json", exclude_none=True)
        return {METADATA_KEY: json.dumps({**about, **(more or {})}, sort_keys=True)}


def record_of(weights: str) -> Record | None:
    """The record of weights given by name or path; None if they have none, or are not there."""
    entry = entry_or_none(weights, read_manifest())
    if entry is not None:
        return _of_entry(entry)
    path = Path(weights)
    if not weights or not path.is_file():
        return None
    status = path.stat()
    return _of_file(path, status.st_mtime_ns, status.st_size)


def recipe_of(weights: str, method: str) -> Mapping[str, Any]:
    """The settings that the weights need where this method loads them; {} if nothing is known."""
    record = record_of(weights)
    return record.recipe if record is not None and method in record.loads else {}


def names_of(weights: str) -> set[str]:
    """Returns the identities of these weights: their name in the manifest, and the sha256 of a file."""
    record, path = record_of(weights), Path(weights)
    names = {record.name} if record is not None and record.name else set()
    entry = entry_or_none(weights, read_manifest())
    if entry is not None:
        return {*names, entry.name, entry.sha256} - {""}
    return {*names, sha256_of(path)} if weights and path.is_file() else names


def features_of(settings: MethodSettings, dim: int, sha256: str) -> TrainedFor:
    """The local features of these settings, as what is trained on them records it.

    ``dim`` and ``sha256`` are the extractor's ``dim`` and ``weights``.
    """
    weights = str(getattr(settings, "weights", ""))
    record = record_of(weights)
    name = record.name if record is not None and record.name else weights
    return TrainedFor(method=settings.method, weights=name, sha256=sha256, dim=dim)


def other_metadata(path: Path) -> dict[str, Any]:
    """Returns the other metadata of a file, as VLAD models have them."""
    try:
        about = json.loads(read_metadata(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return {key: value for key, value in about.items() if key not in Record.model_fields} if about else {}


@lru_cache(maxsize=64)
def _of_file(path: Path, changed_ns: int, size: int) -> Record | None:
    try:
        text = read_metadata(path)
    except WeightsError:  # loading the file will report why
        return None
    if text is not None:
        try:
            about = json.loads(text)
            return parse(Record, about) if isinstance(about, dict) else None
        except (ValueError, ConfigError, RecursionError) as error:
            raise WeightsError(f"{path}: its metadata cannot be read: {error}") from None
    manifest = read_manifest()
    return next((_of_entry(manifest[name]) for name in known_as(sha256_of(path))), None)


def _of_entry(entry: Entry) -> Record:
    return Record(name=entry.name, loads=entry.loads, recipe=dict(entry.recipe), trained_for=entry.trained_for)
