"""Settings: frozen sections, a strict TOML reader, and the fingerprint that artefacts carry."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

from vpr.core import ConfigError


class Section(BaseModel):
    """Base of every group of settings: frozen, and refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MethodSettings(Section):
    """Base of the settings of a method that is chosen by name; each method fixes the name to its own."""

    method: str


T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Method(Generic[T_co]):
    """One row of a table of methods: the settings it takes and the function that builds it from them."""

    settings: type[MethodSettings]
    build: Callable[..., T_co]


def lookup(table: Mapping[str, Method[T_co]], name: str, kind: str) -> Method[T_co]:
    """The method of that exact name; raises ConfigError that lists the known ones."""
    if name not in table:
        raise ConfigError(f"unknown {kind} {name!r}{_nearest(name, table)}; known: {', '.join(sorted(table))}")
    return table[name]


def chooser(
    table: Mapping[str, Method[Any]], kind: str, default: str
) -> Callable[[Any, ValidationInfo], MethodSettings]:
    """A validator that reads ``{method = name, ...}`` into the settings of the method of that name."""

    def choose(value: Any, info: ValidationInfo) -> MethodSettings:
        if isinstance(value, MethodSettings):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{info.field_name} = {value!r}: expected a section with a line method = NAME")
        method = lookup(table, str(value.get("method", default)), kind)
        return parse(method.settings, value, where=str(info.field_name))

    return choose


def parse(schema: type[S], values: Mapping[str, Any], where: str = "") -> S:
    """Check values against a section; raises ConfigError with the key, what is wrong, and the nearest known key."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, where)) from None


def load(schema: type[S], path: Path | None = None, overrides: Sequence[str] = ()) -> S:
    """Read settings from a TOML file, if one is given, and then from ``section.key=value`` overrides."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; `vpr config list` shows the configs that come with vpr") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"{path}: not a readable TOML file: {error}") from None
    for override in overrides:
        _apply(values, override)
    try:
        return parse(schema, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if path is not None else str(error)) from None


def dump(settings: Section) -> str:
    """The settings as TOML, in the order in which they are declared; a setting that is off (None) is left out."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short digest that is equal exactly when the parts are; order of keys does not matter."""
    text = json.dumps(plain(parts), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """The value with every section in it as a plain dict, fit for JSON."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value


def digest_of_names(names: Iterable[str]) -> str:
    """A short digest of an image list and its order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\n")
    return digest.hexdigest()[:16]


def _apply(values: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {override!r}: expected section.key=value, for instance --set shortlist.k=50")
    table = values
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {key!r} is a value, not a section")
    table[keys[-1]] = toml_value(text.strip())


def toml_value(text: str) -> Any:
    """The text as a TOML value, and plain text where it is none, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ValidationError, schema: type[Section], where: str) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    section = ".".join(filter(None, [where, *path[:-1]]))
    place = f"[{section}] " if section else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(schema, path[:-1])
        return f"{place}unknown key {path[-1]!r}{_nearest(path[-1], known)}; known: {', '.join(sorted(known))}"
    if first["type"] == "value_error":  # raised by a section about several of its keys
        return first["msg"].removeprefix("Value error, ")
    name = path[-1] if path else where
    return f"{place}{name} = {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _fields_at(schema: type[Section], path: Sequence[str]) -> list[str]:
    for part in path:
        field = schema.model_fields.get(part)
        # A section that may be absent is declared as Section | None.
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        if inner is None:
            return []
        schema = inner
    return list(schema.model_fields)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
