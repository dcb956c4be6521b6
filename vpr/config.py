"""Settings: frozen sections, read strictly from layers of TOML, and the fingerprint that artefacts carry.

A value comes from the first of these that has it: ``--set``, the config file, the configs that it extends, the recipe
of the chosen weights, the default in the code.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic.fields import FieldInfo

from vpr.core import ConfigError
from vpr.runtime.files import shipped
from vpr.toml_text import KeyPath, read_toml, to_toml, typed_value

logger = logging.getLogger(__name__)

Sources = Mapping[KeyPath, str]  # where the value of a key comes from; a key that is absent has its default


class Section(BaseModel):
    """Base of every group of settings: frozen; refuses unknown keys; false switches off what may be None."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _false_is_off(cls, values: Any) -> Any:
        """TOML has no null, so false stands for it where a key may be None."""
        if not isinstance(values, Mapping):
            return values
        return {key: None if value is False and cls._optional(key) else value for key, value in values.items()}

    @classmethod
    def _optional(cls, key: str) -> bool:
        field = cls.model_fields.get(key)
        kinds = () if field is None else get_args(field.annotation)
        return NoneType in kinds and bool not in kinds


class MethodSettings(Section):
    """Base of the settings of a method that is chosen by name; each method fixes the name to its own."""

    method: str


FOR_FINGERPRINT = {"purpose": "fingerprint"}  # the context in which sections are written to be compared

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


@dataclass(frozen=True, eq=False)
class Chooser:
    """A validator that reads ``{method = name, ...}`` into the settings of the method of that name.

    ``recipe`` gives, for the weights and the method, the values that these weights need; they replace the defaults.
    """

    table: Mapping[str, Method[Any]]
    kind: str
    default: str
    recipe: Callable[[str, str], Mapping[str, Any]] | None = None

    def __call__(self, value: Any, info: ValidationInfo) -> MethodSettings:
        if isinstance(value, MethodSettings):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{info.field_name} = {value!r}: expected a section with a line method = NAME")
        settings = lookup(self.table, self.method_of(value), self.kind).settings
        weights, recipe = self.recipe_for(value)
        unknown = recipe.keys() - settings.model_fields.keys()
        if unknown:
            raise ConfigError(f"{weights}: its recipe has the key {min(unknown)!r}, which {settings.__doc__} lack")
        return parse(settings, _merged(recipe, value), where=str(info.field_name))

    def defaults(self) -> MethodSettings:
        """The default method as its weights need it."""
        settings = lookup(self.table, self.default, self.kind).settings
        return parse(settings, self.recipe_for({})[1])

    def method_of(self, values: Mapping[str, Any]) -> str:
        return str(values.get("method", self.default))

    def schema_of(self, values: Mapping[str, Any]) -> type[MethodSettings] | None:
        """The settings that the values are for; None if their method is unknown."""
        method = self.table.get(self.method_of(values))
        return method.settings if method else None

    def recipe_for(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """The weights that the values choose, and what these need; ("", {}) if there is nothing of the kind."""
        schema = self.schema_of(values)
        field = schema.model_fields.get("weights") if schema else None
        weights = values.get("weights", field.default if field else "")
        if self.recipe is None or not isinstance(weights, str) or not weights:
            return "", {}
        return weights, self.recipe(weights, self.method_of(values))


def parse(schema: type[S], values: Mapping[str, Any], where: str = "") -> S:
    """Check values against a section; raises ConfigError with the key, what is wrong, and the nearest known key."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, where)) from None
    except RecursionError:
        raise ConfigError("settings are nested too deeply") from None


def load(schema: type[S], path: Path | None = None, overrides: Sequence[str] = ()) -> S:
    """Read settings from a TOML file, if one is given, and then from ``section.key=value`` overrides."""
    return load_with_sources(schema, path, overrides)[0]


def load_with_sources(
    schema: type[S], path: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[S, dict[KeyPath, str]]:
    """As ``load``, and where each value comes from that is not a default: "config NAME", "weights NAME" or "--set".

    A file whose first key is ``extends = "NAME"`` changes what that config says. Where a layer chooses another method,
    the keys that belonged to the former one are left out, and a log line says which.
    """
    layers = _Layers(schema)
    try:
        for label, values in _files(path) if path is not None else ():
            layers.add(values, label)
        layers.add(as_table(overrides), "--set")
        return parse(schema, layers.values), layers.all_sources()
    except ConfigError as error:
        inside = path is not None and not str(error).startswith((str(path), "--set"))
        raise ConfigError(f"{path}: {error}" if inside else str(error)) from None
    except RecursionError:
        raise ConfigError(f"{path or '--set'}: nested too deeply") from None


def config_path(chosen: str, kind: Literal["run", "train"] = "run") -> Path:
    """The file of a config given by path, or by the name of one that comes with vpr.

    A training config has the name of its file below ``configs/train``, with or without ``train_`` before it.
    """
    path = Path(chosen)
    if path.suffix or path.is_file():  # a folder may have the name of a config, as demo/ has
        return path
    known = shipped_configs(kind)
    name = chosen.removeprefix("train_") if kind == "train" else chosen
    if name not in known:
        raise ConfigError(
            f"no config {chosen!r} comes with vpr{_nearest(name, known)}; known: {', '.join(known)}; "
            "or give the path of a TOML file"
        )
    return known[name]


def shipped_configs(kind: Literal["run", "train"]) -> dict[str, Path]:
    """The configs that come with vpr, by name."""
    return {path.stem: path for path in sorted((shipped("configs") / kind).glob("*.toml"))}


def dump(settings: Section, sources: Sources | None = None) -> str:
    """The settings as TOML, in the order in which they are declared; a setting that is off (None) is false.

    With ``sources`` each line ends with a comment that says where its value comes from.
    """
    table = settings.model_dump(mode="json")
    if sources is None:
        return to_toml(table)
    return to_toml(table, {path: _source(path, sources) for path in _leaves(table)})


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short digest that is equal exactly when the parts are; order of keys does not matter."""
    text = json.dumps(plain(parts), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """The value with every section in it as a plain dict, fit for JSON."""
    if isinstance(value, Section):
        return value.model_dump(mode="json", context=FOR_FINGERPRINT)
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value


def digest_of_names(names: Iterable[str]) -> str:
    """A short digest of an image list and its order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\n")
    return digest.hexdigest()[:16]


class _Text(str):
    """The value of an override, still to be read by the type of its key."""


def _read(value: Any, field: FieldInfo | None) -> Any:
    return typed_value(str(value), field.annotation if field else Any) if isinstance(value, _Text) else value


class _Layers:
    """Tables of settings laid over each other, with the layer that each value comes from."""

    def __init__(self, schema: type[Section]) -> None:
        self.schema = schema
        self.values: dict[str, Any] = {}
        self.sources: dict[KeyPath, str] = {}

    def add(self, values: Mapping[str, Any], label: str) -> None:
        """Lay a table over the others."""
        self._lay(self.values, values, self.schema, None, (), label)

    def all_sources(self) -> dict[KeyPath, str]:
        """The sources, with those of values that the recipes of weights give."""
        return {**dict(self._from_recipes(self.values, self.schema, ())), **self.sources}

    def _lay(  # noqa: PLR0917 - one call, by itself
        self,
        table: dict[str, Any],
        new: Mapping[str, Any],
        schema: type[Section] | None,
        choice: Chooser | None,
        path: KeyPath,
        label: str,
    ) -> None:
        if choice is not None:
            self._leave_out(table, new, choice, path)
            schema = choice.schema_of({**table, **new})
        for key, value in new.items():
            here = (*path, key)
            field = schema.model_fields.get(key) if schema else None
            if isinstance(value, Mapping):
                inner = table[key] if isinstance(table.get(key), dict) else {}
                table[key] = inner
                self._lay(inner, value, _section_in(field), _chooser_in(field), here, label)
            else:
                self._forget(here)
                table[key] = _read(value, field)
            if not isinstance(value, Mapping) or not value:
                self.sources[here] = label

    def _leave_out(self, table: dict[str, Any], new: Mapping[str, Any], choice: Chooser, path: KeyPath) -> None:
        """Drop what belongs to the former method where a layer chooses another."""
        old, now = choice.method_of(table), choice.method_of({**table, **new})
        before, after = choice.table.get(old), choice.table.get(now)
        if old == now or before is None or after is None:
            return
        gone = [key for key in table if key != "method" and not _shared(key, before.settings, after.settings)]
        for key in gone:
            del table[key]
            self._forget((*path, key))
        if gone:
            logger.info("%s.method = %s: left out %s, set for %s", ".".join(path), now, ", ".join(gone), old)

    def _forget(self, path: KeyPath) -> None:
        for known in [known for known in self.sources if known[: len(path)] == path]:
            del self.sources[known]

    def _from_recipes(
        self, table: Mapping[str, Any], schema: type[Section] | None, path: KeyPath
    ) -> Iterator[tuple[KeyPath, str]]:
        for key, field in (schema.model_fields if schema else {}).items():
            choice, here = _chooser_in(field), (*path, key)
            values = table.get(key, {})
            if choice is None or not isinstance(values, Mapping):
                continue
            weights, recipe = choice.recipe_for(values)
            yield from (((*here, *leaf), f"weights {weights}") for leaf in _leaves(recipe))
            yield from self._from_recipes(values, choice.schema_of(values), here)


def _files(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """A config and those that it extends, the first one last, each with its label."""
    chain: list[Path] = []
    found: list[tuple[str, dict[str, Any]]] = []
    following: Path | None = path
    while following is not None:
        if following.resolve() in [each.resolve() for each in chain]:
            raise ConfigError(f"{' extends '.join(map(str, [*chain, following]))}: a config cannot extend itself")
        chain.append(following)
        values = read_toml(following)
        extended = values.pop("extends", None)
        known = {*shipped_configs("run").values(), *shipped_configs("train").values()}
        found.insert(0, (f"config {following.stem if following in known else following}", values))
        following = None if extended is None else _extended(extended, chain[-1])
    return found


def _extended(name: Any, by: Path) -> Path:
    """The config that another one extends: beside it, or one that comes with vpr."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{by}: extends = {name!r}: expected the name or the path of a config")
    beside = by.parent / (name if name.endswith(".toml") else f"{name}.toml")
    if beside.is_file() or name.endswith(".toml"):
        return beside
    try:
        return config_path(name, "train" if name.startswith("train_") else "run")
    except ConfigError as error:
        raise ConfigError(f"{by}: extends = {name!r}: {error}") from None


def as_table(overrides: Sequence[str]) -> dict[str, Any]:
    """Assignments ``section.key=value`` as a table of texts, which a section reads by its types."""
    values: dict[str, Any] = {}
    for override in overrides:
        dotted, separator, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not separator or not all(keys):
            raise ConfigError(f"--set {override!r}: expected section.key=value, for instance --set shortlist.k=50")
        table = values
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {override!r}: {key!r} is a value, not a section")
        table[keys[-1]] = _Text(text.strip())
    return values


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables, the upper one's values first."""
    inner = {
        key: _merged(lower[key], value)
        for key, value in upper.items()
        if isinstance(value, Mapping) and isinstance(lower.get(key), Mapping)
    }
    return {**lower, **upper, **inner}


def _leaves(table: Mapping[str, Any], path: KeyPath = ()) -> Iterator[KeyPath]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _source(path: KeyPath, sources: Sources) -> str:
    """The source of a value, or of the section around it that was given as a whole."""
    return next((sources[path[:i]] for i in range(len(path), 0, -1) if path[:i] in sources), "default")


def _shared(key: str, one: type[Section], other: type[Section]) -> bool:
    """Whether a key means the same to two methods: they have it from a common base. Weights are each method's own."""
    classes = [{base for base in each.__mro__ if key in inspect.get_annotations(base)} for each in (one, other)]
    return key != "weights" and bool(set.intersection(*classes))


def _chooser_in(field: FieldInfo | None) -> Chooser | None:
    validators = [] if field is None else [each for each in field.metadata if isinstance(each, BeforeValidator)]
    return next((each.func for each in validators if isinstance(each.func, Chooser)), None)


def _section_in(field: FieldInfo | None) -> type[Section] | None:
    """The section that a field holds; one that may be absent is declared as Section | None."""
    kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


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
    return f"{place}{name} = {_short(first['input'])}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _short(value: Any, longest: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _fields_at(schema: type[Section], path: Sequence[str]) -> list[str]:
    for part in path:
        inner = _section_in(schema.model_fields.get(part))
        if inner is None:
            return []
        schema = inner
    return list(schema.model_fields)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
