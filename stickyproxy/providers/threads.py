"""Threads for calls that block."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class CallThreads:
    """Daemon threads that run blocking calls, in the order in which they come: unlike those of an
    executor, they do not keep the process from ending while a call hangs."""

    def __init__(self, name: str, count: int = 1) -> None:
        """``count``: how many calls may be under way at a time."""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=name, daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """The result of ``call``, run in one of the threads."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            if future.cancelled():
                return
            result, failure = None, None
            try:
                result = call()
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nothing waits for it any longer
                loop.call_soon_threadsafe(settle, result, failure)

        self._calls.put(work)
        return await future

    def stop(self) -> None:
        """End the threads after the calls in progress."""
        for _ in self._threads:
            self._calls.put(None)

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
