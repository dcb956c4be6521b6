"""The beginning of a map: its description and the codec of its local features."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpr.config import dump, fingerprint, parse
from vpr.core import ConfigError, DataError
from vpr.maps import shipped
from vpr.maps.about import FILE, About
from vpr.maps.engine import MapEngine
from vpr.maps.local_codec import CODEC, PROFILES
from vpr.maps.vectors import VectorCodec
from vpr.maps.writing import LOCK, writing
from vpr.runtime.files import TEMPORARY
from vpr.settings import Settings

# Sections that say what is stored and how it is compared.
SECTIONS = (
    *("images", "local_features", "global_descriptor", "joined"),
    *("matcher", "verification", "rerank", "cost"),
)


def begin(folder: Path, settings: Settings, engine: MapEngine, profile: str) -> None:
    """Make an empty map in a folder, or find there the one of the same settings.

    Raises ConfigError for settings that a map cannot use, DataError if the folder holds anything else.
    """
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}; known: {', '.join(PROFILES)}")
    VectorCodec(engine.dim)
    probability = shipped.probability(settings, profile) if engine.reranker is not None else None
    about = About(
        profile,
        _stored(settings),
        engine.weights(),
        {} if probability is None else probability.to_table(),
    )
    _claim(folder, about)
    with writing(folder, create=True):
        if engine.reranker is not None and not (folder / CODEC).exists():
            codec = shipped.codec(settings, PROFILES[profile])
            if codec is not None:
                codec.save(folder / CODEC)


def _claim(folder: Path, about: About) -> None:
    if (folder / FILE).exists():
        found = About.read(folder)
        theirs = replace(found, settings=_stored(parse(Settings, found.settings, str(folder / FILE))))
        for name in ("profile", "settings", "weights"):
            if fingerprint({name: getattr(theirs, name)}) != fingerprint({name: getattr(about, name)}):
                raise DataError(
                    f"{folder}: holds a map made with other {name}; choose another folder, or use the same config "
                    f"(its settings are in {folder / FILE})"
                )
        return
    ours = (LOCK,)
    if folder.exists() and any(
        path.name not in ours and not path.name.endswith(TEMPORARY) for path in folder.iterdir()
    ):
        raise DataError(f"{folder}: holds something that is no map; choose a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    about.write(folder)


def _stored(settings: Settings) -> Mapping[str, Any]:
    """The sections that a map keeps, as TOML has them."""
    table = tomllib.loads(dump(settings))
    return {name: table[name] for name in SECTIONS if name in table}
