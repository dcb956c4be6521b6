"""Progress of a long job: a bar on a terminal, and elsewhere a log line at each tenth with count and rate."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")
QUIET_S = 10.0  # a job that is done sooner logs nothing


class Progress:
    """Counts items that are done; ``initial`` of them were before."""

    def __init__(self, description: str, total: int, unit: str, *, initial: int = 0) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = self.initial = initial
        self.started = time.perf_counter()
        self.tenth = 10 * initial // max(total, 1)
        quiet = not logger.isEnabledFor(logging.INFO)
        on_terminal = sys.stderr.isatty() and not quiet
        self.bar = tqdm(total=total, initial=initial, desc=description, unit=unit, leave=False) if on_terminal else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def describe(self, description: str) -> None:
        """Say what is being done now."""
        self.description = description
        if self.bar is not None:
            self.bar.set_description(description)

    def update(self, count: int = 1) -> None:
        """Count items as done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
            return
        tenth = 10 * self.done // max(self.total, 1)
        elapsed_s = time.perf_counter() - self.started
        if tenth > self.tenth and elapsed_s > QUIET_S:
            rate = (self.done - self.initial) / elapsed_s
            logger.info(
                "%s: %d of %d (%d %%), %.3g %s/s", self.description, self.done, self.total, 10 * tenth, rate, self.unit
            )
        self.tenth = max(self.tenth, tenth)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each counted when the next one is asked for."""
        with self:
            for item in items:
                yield item
                self.update()
