"""How long the stages of a run take, and how much memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from vpr.runtime.device import peak_gpu_memory, peak_memory

ALONE = 100  # items that are timed one by one, at most
ALONE_MS = 1000.0  # and not for much longer than this: searching a large index is slow


@dataclass(frozen=True)
class Timing:
    """How long a stage took for all its images or queries, and the memory that was needed; None is not known."""

    stage: str
    seconds: float | None
    count: int
    unit: str  # "image" or "query"
    median_ms: float | None = None  # of single items, where they were measured one by one
    slow_ms: float | None = None  # 95th percentile
    memory: int | None = None  # bytes that the process had held at most when the stage ended
    gpu_memory: int | None = None  # the same of tensors on the GPU


@dataclass
class Clock:
    """Collects how long each stage took, for how many items, and the peak of memory until then."""

    timings: list[Timing] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, count: int, unit: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.timings.append(Timing(name, seconds, count, unit, memory=peak_memory(), gpu_memory=peak_gpu_memory()))

    def alone(self, work: Callable[[int], object], count: int) -> None:
        """Time single items of the stage that ended last: all of them, some evenly spread, or the first of those."""
        if count:
            work(0)  # what the first call alone takes is not counted
        times: list[float] = []
        for row in np.unique(np.linspace(0, count - 1, min(count, ALONE)).round().astype(int)).tolist():
            started = time.perf_counter()
            work(row)
            times.append(1000 * (time.perf_counter() - started))
            if sum(times) > ALONE_MS:
                break
        if times:
            median, slow = np.percentile(times, [50, 95]).tolist()
            self.timings[-1] = replace(self.timings[-1], median_ms=median, slow_ms=slow)
