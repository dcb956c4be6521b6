"""Priors of a question as Milvus writes conditions, with the same truth as in the manifest's SQL.

A value that is unknown (NULL in SQL) is stored as UNKNOWN, since not every version of Milvus has null. SQL knows three
truths, Milvus two, so NOT is moved inwards to the comparisons, and each also asks that the value is known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from vpr.maps.filters import Junction, Negation, Node, Predicate, Value
from vpr.maps.prior import Prior, boxes

UNKNOWN = -1e300
NUMBERS = ("latitude", "longitude", "east_m", "north_m", "heading", "time")
TEXTS = {"zone": "zone", "group": "image_group"}
_INVERSE = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_PLAIN_TEXT = re.compile(r"[ !#-\[\]-~]*")  # ASCII without " and \
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]*")
_SLACK = 1e-9  # degrees
_LONGEST = 60_000  # characters
_LARGEST = 1.7976931348623157e308


class NotExpressible(Exception):
    """A condition that Milvus cannot decide as the manifest does: LIKE, names, texts with quotes or beyond ASCII."""


def expression_of(prior: Prior | None) -> str:
    """An expression that is true of every image which a prior allows, and beyond these only of some outside its circle.

    "" where nothing is restricted. Raises NotExpressible.
    """
    if prior is None:
        return ""
    parts = []
    if prior.near is not None:
        around = (
            f"(latitude >= {_number(south - _SLACK)} and latitude <= {_number(north + _SLACK)} "
            f"and longitude >= {_number(west - _SLACK)} and longitude <= {_number(east + _SLACK)})"
            for south, north, west, east in boxes(prior.near, prior.radius_m)
        )
        parts.append(f"({' or '.join(around)})")
    if prior.since is not None:
        parts.append(f"time >= {_number(prior.since)}")
    if prior.until is not None:
        parts.append(f"(time != {UNKNOWN!r} and time <= {_number(prior.until)})")
    if prior.where.tree is not None:
        parts.append(_written(prior.where.tree, True))
    text = " and ".join(parts)
    if len(text) > _LONGEST:
        raise NotExpressible("too long")
    return text


def _written(node: Node, truth: bool) -> str:
    """An expression that is true where a node is true, or where it is false."""
    if isinstance(node, Negation):
        return _written(node.part, not truth)
    if isinstance(node, Junction):
        word = "and" if (node.word == "AND") == truth else "or"
        return f"({f' {word} '.join(_written(part, truth) for part in node.parts)})"
    wanted = truth != node.negated
    if node.sign == "BETWEEN":
        low, high = (
            Predicate(node.column, sign, (value,), False) for sign, value in zip(("<", ">"), node.values, strict=True)
        )
        word = "and" if wanted else "or"
        return f"({_written(low, not wanted)} {word} {_written(high, not wanted)})"
    if node.sign == "IN":
        word = "or" if wanted else "and"
        each = (_written(Predicate(node.column, "=", (value,), False), wanted) for value in node.values)
        return f"({f' {word} '.join(each)})"
    return _compared(node, wanted)


def _compared(node: Predicate, wanted: bool) -> str:
    if node.column in NUMBERS:
        known = f"{node.column} != {UNKNOWN!r}"
        return _simple(node, wanted, node.column, known, _number)
    if node.column in TEXTS:
        field = TEXTS[node.column]
        known = f'{field} != ""' if node.column == "zone" else "id >= 0"
        return _simple(node, wanted, field, known, _text)
    if node.column == "id":
        return _simple(node, wanted, "id", "id >= 0", _whole)
    if node.column == "name":
        raise NotExpressible("name")
    return _free(node, wanted)


def _simple(node: Predicate, wanted: bool, field: str, known: str, literal: Callable[[Value], str]) -> str:
    """A comparison of a field of one type."""
    if node.sign == "NULL":
        return f"(not ({known}))" if wanted else f"({known})"
    sign = _sign(node, wanted)
    return f"({known} and {field} {sign} {literal(node.values[0])})"


def _free(node: Predicate, wanted: bool) -> str:
    """A comparison of a free column, in which each image may have a number, a text or nothing.

    SQL takes every number for less than every text.
    """
    if not _PLAIN_KEY.fullmatch(node.column):
        raise NotExpressible(node.column)
    column = f'columns["{node.column}"]'
    known = f"exists {column}"
    if node.sign == "NULL":
        return f"(not ({known}))" if wanted else f"({known})"
    sign, value = _sign(node, wanted), node.values[0]
    is_text = isinstance(value, str)
    literal = _text(value) if is_text else _number(value)
    if sign == "==":
        return f"({column} == {literal})"
    if sign == "!=":
        return f"(({known}) and (not ({column} == {literal})))"  # Milvus 2.3 wants each parenthesis
    others = f"{column} >= {-_LARGEST!r}" if is_text else f'{column} >= ""'
    if is_text == (sign in ("<", "<=")):
        return f"({column} {sign} {literal} or {others})"
    return f"({column} {sign} {literal})"


def _sign(node: Predicate, wanted: bool) -> str:
    if node.sign not in _INVERSE:
        raise NotExpressible(node.sign)
    sign = node.sign if wanted else _INVERSE[node.sign]
    return "==" if sign == "=" else sign


def _number(value: Value) -> str:
    if isinstance(value, str) or not math.isfinite(value):
        raise NotExpressible(repr(value))
    return repr(float(value))


def _whole(value: Value) -> str:
    if isinstance(value, str) or not float(value).is_integer() or abs(value) >= 2**63:
        raise NotExpressible(repr(value))
    return str(int(value))


def _text(value: Value) -> str:
    if not isinstance(value, str) or not _PLAIN_TEXT.fullmatch(value):
        raise NotExpressible(repr(value))
    return f'"{value}"'
