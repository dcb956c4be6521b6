"""Sequences of what belongs to the images of a set, read row by row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar, overload

T = TypeVar("T")


class RowSequence(Sequence[T], Generic[T]):
    """Row i is what ``_row`` reads; a slice is the list of its rows."""

    @abstractmethod
    def _row(self, row: int) -> T: ...

    @overload
    def __getitem__(self, row: int) -> T: ...
    @overload
    def __getitem__(self, row: slice) -> list[T]: ...
    def __getitem__(self, row: int | slice) -> T | list[T]:
        if isinstance(row, slice):
            return [self._row(each) for each in range(*row.indices(len(self)))]
        return self._row(int(row))
