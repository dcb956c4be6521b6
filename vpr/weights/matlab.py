"""MATLAB files of version 5 to 7: numbers, texts, cells and structs; other content of a variable is skipped.

For weights that came from elsewhere. SciPy's reader looks types up unchecked, and a changed byte can crash it.
Source of the format: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

HEADER = 128  # bytes before the first element
MOST = 1 << 31  # bytes that a compressed element may unpack to
MOST_RATIO = 64  # and how many times its size; weights hardly compress
SPARE = 1 << 20  # bytes that a small element may unpack to whatever its size
MATRIX, COMPRESSED = 14, 15  # types of elements that are no array of numbers
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1"}
CELL, STRUCT, TEXT = 1, 2, 4  # classes of a matrix
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}


@dataclass
class _Elements:
    """Reads one element after the other; raises ValueError where the data end too soon."""

    data: memoryview
    order: str  # "<" or ">"
    at: int = 0

    def next(self) -> tuple[int, memoryview]:
        """Type and content of the next element."""
        (tag,) = struct.unpack(f"{self.order}I", self._take(4))
        if tag >> 16:  # short form: the size lies beside the type, and the content in the tag
            kind, size = tag & 0xFFFF, tag >> 16
            content = self._take(4)[:size]
        else:
            kind = tag
            (size,) = struct.unpack(f"{self.order}I", self._take(4))
            content = self._take(size)
            if kind != COMPRESSED:
                self.at = min(len(self.data), self.at + -size % 8)
        if len(content) < size:
            raise ValueError("an element is longer than its place")
        return kind, content

    def numbers(self) -> np.ndarray[Any, Any]:
        kind, content = self.next()
        if kind not in NUMBERS:
            raise ValueError(f"an element of type {kind} where numbers were expected")
        return np.frombuffer(content, self.order + NUMBERS[kind])

    def matrix(self) -> tuple[str, Any]:
        """Name and value of the next element, which must be a matrix."""
        kind, content = self.next()
        if kind == COMPRESSED:
            unpack = zlib.decompressobj()
            most = min(MOST, MOST_RATIO * len(content) + SPARE)
            content = memoryview(unpack.decompress(content, most))
            if unpack.unconsumed_tail:
                raise ValueError(
                    f"an element unpacks to more than {most / 1e6:.0f} MB; no weights are packed so densely"
                )
            return _Elements(content, self.order).matrix()
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind} where a matrix was expected")
        return _Elements(content, self.order).value() if content else ("", None)

    def value(self) -> tuple[str, Any]:
        """Name and value of the matrix whose parts these elements are."""
        kind = int(self.numbers()[0]) & 0xFF
        shape = tuple(int(length) for length in self.numbers())
        name = self.numbers().tobytes().decode("ascii")
        count = math.prod(shape)
        if min(shape, default=0) < 0 or (kind in (CELL, STRUCT) and count > 1 + (len(self.data) - self.at) // 8):
            raise ValueError(f"a matrix of the impossible shape {shape}")
        if kind == CELL:
            return name, [self.matrix()[1] for _ in range(count)]
        if kind == STRUCT:
            return name, self._structs(count)
        if kind == TEXT:
            return name, "".join(chr(code) for code in self.numbers())
        if kind in CLASSES:
            return name, self.numbers().astype(CLASSES[kind]).reshape(shape, order="F")
        return name, None

    def _structs(self, count: int) -> dict[str, Any] | list[dict[str, Any]]:
        """A struct by its fields, or a list of them."""
        length = int(self.numbers()[0])
        joined = self.numbers().tobytes()
        fields = [joined[i : i + length].split(b"\0")[0].decode("ascii") for i in range(0, len(joined), length)]
        found = [{field: self.matrix()[1] for field in fields} for _ in range(count)]
        return found[0] if count == 1 else found

    def _take(self, size: int) -> memoryview:
        taken = self.data[self.at : self.at + size]
        if len(taken) < size:
            raise ValueError("the file ends too soon")
        self.at += size
        return taken


def read_variable(data: memoryview, wanted: str) -> Any:
    """The value of a variable of a file: arrays keep MATLAB's axes, a cell is a list, a struct a dictionary.

    None if there is no such variable, and in the place of values of another kind, such as functions. Raises ValueError
    for damaged data.
    """
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if order is None:
        raise ValueError("the header does not say which end of a number comes first")
    elements = _Elements(data, order, HEADER)
    while elements.at < len(data):
        name, value = elements.matrix()
        if name == wanted:
            return value
    return None
