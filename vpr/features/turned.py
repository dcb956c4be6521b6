"""Images that are turned before they are described, and the choice among the turns of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vpr.core import Image, Rows
from vpr.features.rows import RowSequence


def turned(image: Image, degrees: int) -> Image:
    """The image (H, W[, 3]) turned counter-clockwise by a multiple of 90 degrees."""
    return image if degrees == 0 else np.ascontiguousarray(np.rot90(image, degrees // 90))


class ChosenTurns(RowSequence[Any]):
    """Row i is row i of the store of the turn that was chosen for image i; all stores are of the same images."""

    def __init__(self, stores: Sequence[Any], choice: Rows) -> None:
        self.stores = stores
        self.choice = choice
        self.folder = stores[0].folder
        self.fingerprint: str = stores[0].fingerprint

    def __len__(self) -> int:
        return len(self.choice)

    def _row(self, row: int) -> Any:
        return self.stores[int(self.choice[row])][row]
