"""Parallel work on a CPU: many items side by side, each computed by one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, torch and numpy compute on the calling thread alone.

    Splitting a small product or conversion over all cores is slower than not, and collapses when another process uses
    one of them, since its threads wait for each other at barriers. On two busy cores: VLAD 23 times as slow, matching 8
    times, float16 to float32 100 times.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose workers, and the caller, compute on one thread each."""
    with (
        one_thread(),
        ThreadPoolExecutor(workers, "vpr", initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool


def one_by_one(work: Callable[[T], R], items: Sequence[T], device: torch.device) -> list[R]:
    """The result of each item by itself; on a CPU side by side, each on one thread, a single item too.

    So the bits of a result depend neither on what comes with it nor on the number of threads.
    """
    if device.type != "cpu" or not items:
        return [work(item) for item in items]
    with one_thread_each(min(torch.get_num_threads(), len(items))) as pool:
        return list(pool.map(work, items))


def side_by_side(work: Callable[[T], R], items: Sequence[T], device: torch.device) -> list[R]:
    """The result of each item; on a CPU as many at once as there are threads, each on one thread.

    The few that are left over come one after the other, each on all threads.
    """
    workers = torch.get_num_threads()
    left = len(items) % workers
    if 2 * left > workers:
        left = 0
    together = len(items) - left
    if device.type != "cpu" or workers == 1 or not together:
        return [work(item) for item in items]
    with one_thread_each(workers) as pool:
        first = list(pool.map(work, items[:together]))
    return first + [work(item) for item in items[together:]]
