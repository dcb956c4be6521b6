"""Time and memory of the stages of a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from vpr.runtime.device import peak_gpu_memory, peak_memory

PER_ITEM = 100  # items that are timed one by one, at most
PER_ITEM_MS = 1000.0  # and not for much longer than this: searching a large index is slow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Time of a stage for all its images or queries, and the memory it needed; None is not known."""

    stage: str
    seconds: float | None  # None where everything was reused
    count: int
    unit: str  # "image" or "query"
    median_ms: float | None = None  # of single items, where they were measured one by one
    slow_ms: float | None = None  # 95th percentile
    memory: int | None = None  # bytes that the process had held at most when the stage ended
    gpu_memory: int | None = None  # the same of tensors on the GPU
    reused: int = 0  # of the items: results that were found on disk, not computed


@dataclass
class Stage:
    """A stage while it runs."""

    reused: int = 0  # set by the stage: items whose results were found on disk


@dataclass
class Clock:
    """Collects how long each stage took, for how many items, and the peak of memory until then."""

    timings: list[Timing] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, count: int, unit: str) -> Iterator[Stage]:
        """Time a stage. A stage that sets ``reused`` to ``count`` did nothing, and has no time."""
        logger.info("%s: %d %s", name, count, plural(unit, count))
        running = Stage()
        started = time.perf_counter()
        yield running
        seconds = time.perf_counter() - started
        idle = 0 < count <= running.reused
        self.timings.append(
            Timing(
                name,
                None if idle else seconds,
                count,
                unit,
                memory=peak_memory(),
                gpu_memory=peak_gpu_memory(),
                reused=running.reused,
            )
        )
        computed = count - running.reused
        if idle:
            logger.info("%s: all reused", name)
        else:
            reused = f", {running.reused} reused" if running.reused else ""
            logger.info("%s: %d %s in %.1f s%s", name, computed, plural(unit, computed), seconds, reused)

    def per_item(self, work: Callable[[int], object], count: int) -> None:
        """Time single items of the stage that ended last: all of them, some evenly spread, or the first of those.

        Nothing is timed where all results of that stage were reused.
        """
        if not count or self.timings[-1].seconds is None:
            return
        work(0)  # what the first call alone takes is not counted
        times: list[float] = []
        for row in np.unique(np.linspace(0, count - 1, min(count, PER_ITEM)).round().astype(int)).tolist():
            started = time.perf_counter()
            work(row)
            times.append(1000 * (time.perf_counter() - started))
            if sum(times) > PER_ITEM_MS:
                break
        median, slow = np.percentile(times, [50, 95]).tolist()
        self.timings[-1] = replace(self.timings[-1], median_ms=median, slow_ms=slow)


def plural(unit: str, count: int) -> str:
    """The unit as its count asks for: 1 query, 2 queries."""
    if count == 1:
        return unit
    return f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
