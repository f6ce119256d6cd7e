"""Requests that wait for something that is on its way: one room for each cluster, in each process.

Who waits takes neither a task nor a timer of its own. Whenever the cluster changes, all of them are
resumed and see whether they still have to wait; and one timer is for whoever's time is over first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

MOST = 1000
"""Requests that wait at a time."""
AT_ONCE = 64
"""Those that are resumed in one turn of the loop."""


class Waits(Protocol):
    """Who waits."""

    def resume(self) -> None:
        """Something has changed, or the time is over."""


class WaitingRoom:
    """Who waits is in it; called in order of arrival."""

    __slots__ = ("_due", "_timer", "_until")

    def __init__(self) -> None:
        self._until: dict[Waits, float] = {}
        """In the loop's time."""
        self._timer: asyncio.TimerHandle | None = None
        """None: nobody waits."""
        self._due = 0.0
        """When it is for."""

    @property
    def is_full(self) -> bool:
        """Nobody else may wait."""
        return len(self._until) >= MOST

    def enter(self, who: Waits, seconds: float) -> None:
        """Resume it after so many seconds, or before."""
        loop = asyncio.get_running_loop()
        until = self._until[who] = loop.time() + seconds
        self._arm(until)

    def leave(self, who: Waits) -> None:
        """It does not wait any more."""
        self._until.pop(who, None)

    def wake(self) -> None:
        """Something has changed. Takes effect in the next turn of the loop, when all of it has."""
        if self._until:
            asyncio.get_running_loop().call_soon(self._resume, deque(self._until))

    def _resume(self, called: deque[Waits]) -> None:
        for _ in range(min(AT_ONCE, len(called))):
            who = called.popleft()
            if self._until.pop(who, None) is not None:
                who.resume()
        if called:
            asyncio.get_running_loop().call_soon(self._resume, called)

    def _arm(self, until: float) -> None:
        """Ring then, if not before."""
        if self._timer is not None:
            if self._due <= until:
                return
            self._timer.cancel()
        self._due = until
        self._timer = asyncio.get_running_loop().call_at(until, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        self._resume(deque(who for who, until in self._until.items() if until <= now))
        # The others are being resumed, and may have come back with a time that is over before.
        later = min((until for until in self._until.values() if until > now), default=None)
        if later is not None:
            self._arm(later)

    def __repr__(self) -> str:
        return f"<WaitingRoom of {len(self._until)}>"
