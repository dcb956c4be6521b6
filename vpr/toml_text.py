"""TOML text: read strictly, written one line per value, and single values as users type them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import tomli_w

from vpr.core import ConfigError
from vpr.runtime.files import require_file

KeyPath = tuple[str, ...]


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; raises ConfigError if there is none, or it is not one."""
    try:
        return tomllib.loads(require_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `vpr config list` shows the configs that come with vpr") from None
    except RecursionError:
        raise ConfigError(f"{path}: not a readable TOML file: nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None


def typed_value(text: str, annotation: Any) -> Any:
    """A value as a user types it for a field of that type; where the type is text, so is the value.

    Quotes may be left out, and "2015", "true" and "inf" stay text where text is declared. What does not fit the type
    comes back as TOML reads it, for the section to refuse.
    """
    types = _alternatives(annotation)
    value = _toml_value(text)
    if isinstance(value, str) or not types & {str, Path}:
        return value
    if isinstance(value, bool):
        return value if bool in types or (value is False and NoneType in types) else text
    return value if type(value) in types or isinstance(value, list | dict) else text


def to_toml(table: Mapping[str, Any], comments: Mapping[KeyPath, str] | None = None) -> str:
    """A table as TOML, one line per value, each with its comment; what is None is written as false."""
    return "\n".join(_lines(table, (), comments or {})).strip() + "\n"


def _lines(table: Mapping[str, Any], path: KeyPath, comments: Mapping[KeyPath, str]) -> Iterator[str]:
    for key, value in table.items():
        if not isinstance(value, Mapping):
            comment = comments.get((*path, key))
            yield f"{_key(key)} = {_inline(value)}" + (f"  # {comment}" if comment else "")
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield ""
            yield f"[{'.'.join(map(_key, (*path, key)))}]"
            yield from _lines(value, (*path, key), comments)


def _inline(value: Any) -> str:
    if value is None:
        return "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return tomli_w.dumps({"v": value}).partition(" = ")[2].rstrip("\n")


def _key(key: str) -> str:
    return tomli_w.dumps({key: 0}).partition(" = ")[0]


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _alternatives(annotation: Any) -> set[Any]:
    """The types that a value of the annotation may have, seen from outside: of a Literal, those of its values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin is Literal:
        return {type(each) for each in get_args(annotation)}
    if origin in (tuple, list, dict):
        return {origin}
    parts = get_args(annotation)
    return set().union(*map(_alternatives, parts)) if parts else {annotation}
