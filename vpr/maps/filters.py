"""Filters of images: comparisons of columns joined by AND, OR and NOT, as SQL writes them, and nothing else of SQL.

    heading BETWEEN 80 AND 100 AND time >= '2024-05-01'
    name LIKE 'drive7/%' OR camera = 'left'

Columns are name, latitude, longitude, heading, time, group, zone, id, and the free columns of the images. A text is
parsed into its parts and put together anew with the values apart, so that nothing of it is run as SQL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from vpr.core import ConfigError
from vpr.datasets.placed import parse_time

COLUMNS = {
    "id": "images.id",
    "name": "name",
    "latitude": "latitude",
    "longitude": "longitude",
    "east_m": "east_m",
    "north_m": "north_m",
    "zone": "zone",
    "heading": "heading",
    "time": "time",
    "group": '"group"',
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |(?P<text>'(?:[^']|'')*')
    |"(?P<quoted>(?:[^"])+)"
    |(?P<word>[^\W\d]\w*)
    |(?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,))""",
    re.VERBOSE,
)
_COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=", "LIKE", "IS", "IN", "BETWEEN")
_DEEPEST = 50
_LONGEST = 10_000  # characters

Value = str | float | None


class Condition(NamedTuple):
    """A condition in SQL with marks, and the values for them."""

    sql: str
    values: tuple[Value, ...]


EVERY = Condition("", ())  # no restriction


class _Token(NamedTuple):
    kind: str
    text: str


def parse_filter(text: str) -> Condition:
    """The condition that a text writes; an empty text is no condition. Raises ConfigError that says what was met."""
    if not text.strip():
        return EVERY
    if len(text) > _LONGEST:
        raise ConfigError(f"a filter of {len(text)} characters; at most {_LONGEST} are read")
    return _Parser(text).condition()


class _Parser:
    """Reads a filter from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _split(text)
        self.place = 0
        self.values: list[Value] = []

    def condition(self) -> Condition:
        sql = self.either(0)
        if self.place < len(self.tokens):
            raise self.unexpected("AND, OR or the end")
        return Condition(sql, tuple(self.values))

    def either(self, depth: int) -> str:
        if depth > _DEEPEST:
            raise ConfigError(f"filter {self.text[:60]!r}...: more than {_DEEPEST} parentheses inside each other")
        parts = [self.both(depth)]
        while self.take("OR"):
            parts.append(self.both(depth))
        return f"({' OR '.join(parts)})" if len(parts) > 1 else parts[0]

    def both(self, depth: int) -> str:
        parts = [self.single(depth)]
        while self.take("AND"):
            parts.append(self.single(depth))
        return f"({' AND '.join(parts)})" if len(parts) > 1 else parts[0]

    def single(self, depth: int) -> str:
        if self.take("NOT"):
            return f"(NOT {self.single(depth + 1)})"
        if self.take("("):
            inner = self.either(depth + 1)
            self.require(")")
            return inner
        return self.comparison()

    def comparison(self) -> str:
        column, name = self.column()
        negated = "NOT " if self.take("NOT") else ""
        sign = next((each for each in _COMPARISONS if self.take(each)), None)
        if sign is None or (negated and sign not in ("LIKE", "IN", "BETWEEN")):
            raise self.unexpected(f"one of {', '.join(_COMPARISONS)}")
        if sign == "IS":
            negated = "NOT " if self.take("NOT") else ""
            self.require("NULL")
            return f"({column} IS {negated}NULL)"
        if sign == "BETWEEN":
            low = self.value(name)
            self.require("AND")
            return f"({column} {negated}BETWEEN {low} AND {self.value(name)})"
        if sign == "IN":
            self.require("(")
            marks = [self.value(name)]
            while self.take(","):
                marks.append(self.value(name))
            self.require(")")
            return f"({column} {negated}IN ({', '.join(marks)}))"
        return f"({column} {negated}{'=' if sign == '==' else sign} {self.value(name)})"

    def column(self) -> tuple[str, str]:
        token = self.next()
        if token.kind not in ("word", "quoted"):
            self.place -= 1
            raise self.unexpected("the name of a column")
        known = COLUMNS.get(token.text.lower())
        if known is not None:
            return known, token.text.lower()
        self.values.append(f"$.{json.dumps(token.text, ensure_ascii=False)}")
        return "json_extract(columns, ?)", token.text

    def value(self, column: str) -> str:
        token = self.next()
        if token.kind == "number":
            self.values.append(float(token.text))
        elif token.kind == "text":
            text = token.text[1:-1].replace("''", "'")
            self.values.append(parse_time(text, f"filter: {text!r}") if column == "time" else text)
        else:
            self.place -= 1
            raise self.unexpected("a number, or a text in single quotes")
        return "?"

    def next(self) -> _Token:
        self.place += 1
        return self.tokens[self.place - 1] if self.place <= len(self.tokens) else _Token("end", "")

    def take(self, wanted: str) -> bool:
        """Step over a sign or a word of SQL if it comes next."""
        if self.place < len(self.tokens):
            token = self.tokens[self.place]
            if token.kind in ("word", "sign") and token.text.upper() == wanted:
                self.place += 1
                return True
        return False

    def require(self, wanted: str) -> None:
        if not self.take(wanted):
            raise self.unexpected(wanted)

    def unexpected(self, wanted: str) -> ConfigError:
        found = self.tokens[self.place].text if self.place < len(self.tokens) else "the end"
        return ConfigError(
            f"filter {self.text[:200]!r}: expected {wanted}, found {found!r}; "
            "for instance: heading BETWEEN 80 AND 100 AND name LIKE 'drive7/%'"
        )


def _split(text: str) -> Sequence[_Token]:
    tokens, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.end() == place:
            raise ConfigError(f"filter {text[:200]!r}: cannot be read from {text[place : place + 20]!r} on")
        kind = match.lastgroup or ""
        tokens.append(_Token(kind, match[kind]))
        place = match.end()
    return tokens
