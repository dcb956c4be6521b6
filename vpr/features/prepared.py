"""Images that are prepared when they are looked at, for methods that compare the images themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from vpr.core import Image, ImageError, ImageSet
from vpr.features.masks import Masks
from vpr.features.rows import RowSequence
from vpr.images import ImageLike

T = TypeVar("T")
KEPT = 64  # prepared images in memory

logger = logging.getLogger(__name__)


class PreparedImages(RowSequence[T]):
    """Row i is what ``prepare`` makes of image i and its mask; ``nothing`` where one of them cannot be read."""

    fingerprint = "images"

    def __init__(
        self, images: ImageSet, prepare: Callable[[ImageLike, Image | None], T], nothing: T, masks: Masks | None = None
    ) -> None:
        self.images = images
        self.folder = images.root
        self.failed: dict[int, str] = {}  # of the rows looked at so far, why they cannot be used
        self._masks = masks
        self._prepare = prepare
        self._nothing = nothing
        self._cached = lru_cache(maxsize=KEPT)(self._read)

    def __len__(self) -> int:
        return len(self.images)

    def _row(self, row: int) -> T:
        return self._cached(row)

    def _read(self, row: int) -> T:
        try:
            mask = None if self._masks is None else self._masks.of(self.images, row)
            return self._prepare(self.images.path(row), mask)
        except ImageError as error:
            logger.warning("skipped: %s", error)
            self.failed[row] = str(error)
            return self._nothing
