"""Filters of images: comparisons of columns joined by AND, OR and NOT, as SQL writes them, and nothing else of SQL.

    heading BETWEEN 80 AND 100 AND time >= '2024-05-01'
    name LIKE 'drive7/%' OR camera = 'left'

Columns are name, latitude, longitude, heading, time, group, zone, id, and the free columns of the images. A text is
parsed into a tree, which is written as SQL with the values apart, so that nothing of the text is run; where Milvus
searches, vpr.maps.milvus.expressions writes the tree as its expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
_SAME = {"==": "=", "<>": "!="}
_DEEPEST = 50
_LONGEST = 10_000  # characters

Value = str | float


class Predicate(NamedTuple):
    """A column compared with values."""

    column: str  # a key of COLUMNS, or the name of a free column
    sign: str  # =, !=, <, <=, >, >=, LIKE, IN, BETWEEN, or NULL
    values: tuple[Value, ...]  # two for BETWEEN, any number for IN, none for NULL
    negated: bool  # NOT LIKE, NOT IN, NOT BETWEEN, IS NOT NULL


class Negation(NamedTuple):
    """What is true where a part is false; neither where the part is unknown."""

    part: Node


class Junction(NamedTuple):
    """Parts that all (AND) or in part (OR) are true."""

    word: str
    parts: tuple[Node, ...]


Node = Predicate | Negation | Junction


@dataclass(frozen=True)
class Condition:
    """What an image must meet."""

    tree: Node | None = None  # None: nothing

    @property
    def sql(self) -> str:
        """The condition in SQL with marks in place of the values; "" for none."""
        return "" if self.tree is None else _written(self.tree)[0]

    @property
    def values(self) -> tuple[Value, ...]:
        """The values for the marks."""
        return () if self.tree is None else tuple(_written(self.tree)[1])


EVERY = Condition()  # no restriction


def _written(node: Node) -> tuple[str, list[Value]]:
    """SQL with marks, and the values for them."""
    if isinstance(node, Predicate):
        return _compared(node)
    if isinstance(node, Negation):
        sql, values = _written(node.part)
        return f"(NOT {sql})", values
    parts = [_written(part) for part in node.parts]
    return f"({f' {node.word} '.join(sql for sql, _ in parts)})", [value for _, some in parts for value in some]


def _compared(node: Predicate) -> tuple[str, list[Value]]:
    column, values = COLUMNS.get(node.column, ""), list(node.values)
    if not column:
        column = "json_extract(columns, ?)"
        values.insert(0, f"$.{json.dumps(node.column, ensure_ascii=False)}")
    no = "NOT " if node.negated else ""
    if node.sign == "NULL":
        return f"({column} IS {no}NULL)", values
    if node.sign == "BETWEEN":
        return f"({column} {no}BETWEEN ? AND ?)", values
    if node.sign == "IN":
        return f"({column} {no}IN ({', '.join('?' * len(node.values))}))", values
    return f"({column} {no}{node.sign} ?)", values


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

    def condition(self) -> Condition:
        tree = self.either(0)
        if self.place < len(self.tokens):
            raise self.unexpected("AND, OR or the end")
        return Condition(tree)

    def either(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise ConfigError(f"filter {self.text[:60]!r}...: more than {_DEEPEST} parentheses inside each other")
        parts = [self.both(depth)]
        while self.take("OR"):
            parts.append(self.both(depth))
        return Junction("OR", tuple(parts)) if len(parts) > 1 else parts[0]

    def both(self, depth: int) -> Node:
        parts = [self.single(depth)]
        while self.take("AND"):
            parts.append(self.single(depth))
        return Junction("AND", tuple(parts)) if len(parts) > 1 else parts[0]

    def single(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise ConfigError(f"filter {self.text[:60]!r}...: more than {_DEEPEST} NOT after each other")
        if self.take("NOT"):
            return Negation(self.single(depth + 1))
        if self.take("("):
            inner = self.either(depth + 1)
            self.require(")")
            return inner
        return self.comparison()

    def comparison(self) -> Predicate:
        column = self.column()
        negated = self.take("NOT")
        sign = next((each for each in _COMPARISONS if self.take(each)), None)
        if sign is None or (negated and sign not in ("LIKE", "IN", "BETWEEN")):
            raise self.unexpected(f"one of {', '.join(_COMPARISONS)}")
        if sign == "IS":
            negated = self.take("NOT")
            self.require("NULL")
            return Predicate(column, "NULL", (), negated)
        if sign == "BETWEEN":
            low = self.value(column)
            self.require("AND")
            return Predicate(column, sign, (low, self.value(column)), negated)
        if sign == "IN":
            self.require("(")
            values = [self.value(column)]
            while self.take(","):
                values.append(self.value(column))
            self.require(")")
            return Predicate(column, sign, tuple(values), negated)
        return Predicate(column, _SAME.get(sign, sign), (self.value(column),), negated)

    def column(self) -> str:
        token = self.next()
        if token.kind not in ("word", "quoted"):
            self.place -= 1
            raise self.unexpected("the name of a column")
        known = token.text.lower()
        return known if known in COLUMNS else token.text

    def value(self, column: str) -> Value:
        token = self.next()
        if token.kind == "number":
            return float(token.text)
        if token.kind == "text":
            text = token.text[1:-1].replace("''", "'")
            return parse_time(text, f"filter: {text!r}") if column == "time" else text
        self.place -= 1
        raise self.unexpected("a number, or a text in single quotes")

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
