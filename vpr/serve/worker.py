"""One thread that computes, one request after another, and a bounded number of requests that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from vpr.serve.problems import busy

T = TypeVar("T")


class Worker:
    """Runs functions in one thread, in the order in which they came, while the event loop stays free."""

    def __init__(self, waiting: int, name: str) -> None:
        self.limit = waiting
        self.waiting = 0  # jobs that run or wait
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def require_room(self) -> None:
        """Raise a problem (503) if as many requests wait as may."""
        if self.waiting >= self.limit:
            raise busy(f"{self.waiting} requests wait already; ask again in some seconds")

    def start(self, job: Callable[[], T]) -> asyncio.Task[T]:
        """A task whose result is that of the job. A cancelled one never runs, unless it runs already.

        Raises a problem (503) if as many wait as may.
        """
        self.require_room()
        self.waiting += 1
        task = asyncio.create_task(self._run(job))
        task.add_done_callback(self._ended)
        return task

    async def _run(self, job: Callable[[], T]) -> T:
        async with self._turn:
            running = asyncio.get_running_loop().run_in_executor(self._thread, job)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait([running])  # the thread is not free before
                if not running.cancelled():
                    running.exception()
                raise

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.waiting -= 1
        if not task.cancelled():
            task.exception()  # so that one whom nobody asks any more is not reported

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
