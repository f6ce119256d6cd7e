"""How many requests an endpoint has at a time, and who waits for it, in one process."""

from __future__ import annotations

import asyncio
from collections import deque

from stickyproxy.model.terms import InFlight


class Slots:
    """One for each request that an endpoint may have. Who waits gets them in turn."""

    def __init__(self, declared: InFlight) -> None:
        self.declared = declared
        """May be replaced; takes effect with the next request."""
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def is_crowded(self) -> bool:
        """Nobody may wait any more."""
        return len(self._queue) >= self.declared.queue

    @property
    def is_full(self) -> bool:
        """Who comes now has to wait."""
        return self._taken >= self.declared.most

    def take(self) -> bool:
        """Take one; False: there is none."""
        if self._taken >= self.declared.most:
            return False
        self._taken += 1
        return True

    async def wait(self) -> None:
        """Take one as soon as there is one. Raises TimeoutError."""
        future = asyncio.get_running_loop().create_future()
        self._queue.append(future)
        try:
            async with asyncio.timeout(self.declared.patience):
                await future
        except BaseException:
            if future in self._queue:
                self._queue.remove(future)
            elif not future.cancelled():  # it has been given one meanwhile
                self.release()
            raise

    def release(self) -> None:
        """Give it to who has waited longest, if anybody has."""
        while self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._taken -= 1

    def describe(self) -> str:
        """How many requests there are, and may be."""
        most, queue = self.declared.most, self.declared.queue
        return f"{self._taken} of {most} at a time, {len(self._queue)} of {queue} wait"

    def __repr__(self) -> str:
        return f"<Slots {self.describe()}>"
