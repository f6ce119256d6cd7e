"""How many requests an endpoint has at a time, in all workers of a proxy, and who waits for it.

Who waits is told when a request of this worker has ended, and looks now and then whether one of
another worker has.
"""

from __future__ import annotations

import asyncio
from collections import deque

from stickyproxy.base.commons import Headcount
from stickyproxy.model.terms import InFlight

LOOK_SECONDS = 0.02
"""Between two looks at what other workers have."""


class Slots:
    """One for each request that an endpoint may have. Who waits gets them in turn."""

    def __init__(
        self, declared: InFlight, headcount: Headcount | None = None, whose: bytes = b""
    ) -> None:
        """``headcount``: what all workers have; None: there is one. ``whose``: the endpoint."""
        self.declared = declared
        """See ``declare``."""
        self._headcount = headcount
        self._whose = whose
        self._looking: asyncio.TimerHandle | None = None
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def declare(self, declared: InFlight) -> None:
        """These limits hold from now on."""
        self.declared = declared
        self._fill()

    @property
    def is_crowded(self) -> bool:
        """Nobody may wait any more."""
        return len(self._queue) >= self.declared.queue

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Who comes now has to wait."""
        return self._everywhere() >= self.declared.most

    def take(self) -> bool:
        """Take one; False: there is none, or who waits comes first."""
        if self._queue or self._everywhere() >= self.declared.most:
            return False
        self._note(self._taken + 1)
        return True

    async def wait(self) -> None:
        """Take one as soon as there is one. Raises TimeoutError."""
        future = asyncio.get_running_loop().create_future()
        self._queue.append(future)
        if self._headcount is not None and self._looking is None:
            self._look_later()
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
        """Give it to who has waited longest, if anybody has. Not if there are more than there may
        be by now: those who wait would keep them all as long as there is somebody."""
        if self._everywhere() > self.declared.most or not self._give():
            self._note(self._taken - 1)

    def _fill(self) -> None:
        """Give what there is to those who wait."""
        while self._queue and self._everywhere() < self.declared.most:
            if self._give():
                self._note(self._taken + 1)

    def _give(self) -> bool:
        while self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(None)
                return True
        return False

    def _everywhere(self) -> int:
        if self._headcount is None:
            return self._taken
        return self._taken + self._headcount.elsewhere_of(self._whose)

    def _note(self, taken: int) -> None:
        self._taken = taken
        if self._headcount is not None:
            self._headcount.note_of(self._whose, taken)

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Give what other workers have given back."""
        self._looking = None
        self._fill()
        if self._queue:
            self._look_later()

    def describe(self) -> str:
        """How many requests there are, and may be."""
        most, queue = self.declared.most, self.declared.queue
        return f"{self._everywhere()} of {most} at a time, {len(self._queue)} of {queue} wait"

    def __repr__(self) -> str:
        return f"<Slots {self.describe()}>"
