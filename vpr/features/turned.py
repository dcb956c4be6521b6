"""Images that are turned before they are described, and the choice among the turns of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from vpr.core import Image, Rows


def turned(image: Image, degrees: int) -> Image:
    """The image (H, W[, 3]) turned counter-clockwise by a multiple of 90 degrees."""
    return image if degrees == 0 else np.ascontiguousarray(np.rot90(image, degrees // 90))


class ChosenTurns(Sequence[Any]):
    """Row i is row i of the store of the turn that was chosen for image i; all stores are of the same images."""

    def __init__(self, stores: Sequence[Any], choice: Rows) -> None:
        self.stores = stores
        self.choice = choice
        self.folder = stores[0].folder
        self.fingerprint: str = stores[0].fingerprint

    def __len__(self) -> int:
        return len(self.choice)

    @overload
    def __getitem__(self, row: int) -> Any: ...

    @overload
    def __getitem__(self, row: slice) -> list[Any]: ...

    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        return self.stores[int(self.choice[row])][row]
