"""One thread in which the models compute: requests wait in a short queue, and never pile up."""

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

MAX_WAITING = 16
_END: Any = object()


class Busy(Exception):
    """Too many requests are waiting."""


class Worker:
    """Runs calls one at a time, in the order they come."""

    def __init__(self, max_waiting: int = MAX_WAITING):
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "models")
        self._max_waiting, self._waiting = max_waiting, 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Returns what a call returns.

        Raises:
            Busy: as many calls are waiting as may.
        """
        if self._waiting >= self._max_waiting:
            raise Busy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        finally:
            self._waiting -= 1

    async def each(self, items: Iterator[T]) -> AsyncIterator[T]:
        """Yields the items of an iterator; between two of them, other calls have their turn."""
        while (item := await self.run(next, items, _END)) is not _END:
            yield item
