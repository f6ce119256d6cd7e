"""DATA PLANE: fairness: a connection with more to do than its share waits for a turn.

A turn of the event loop serves every socket that is ready. One request, or one chunk after the
other, is done at once; what a peer sends beyond that waits here, and a few of those waiting get
their turn in each turn of the loop, first come, first served. That bounds how long one turn
lasts, however many peers send as fast as they can, and other clients' requests wait no longer
than that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

PER_TURN = 8
"""How many of those waiting are served in a turn of the loop."""
MUCH = 1 << 17
"""Bytes after whose reading a tunnel waits for its next turn. The loop reads on by itself, 32 times
256,000 bytes, as long as it gets as much as it asks for."""


class Turns:
    """The queue of those waiting. One for all connections of a process."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def __repr__(self) -> str:
        return f"<Turns {len(self._waiting)} waiting>"

    def wait(self, turn: Callable[[], None]) -> None:
        """Call ``turn`` in one of the next turns of the loop."""
        self._waiting.append(turn)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        self._scheduled = False
        for _ in range(min(PER_TURN, len(self._waiting))):
            try:
                self._waiting.popleft()()
            finally:  # one that raises must not stop the others
                if self._waiting:
                    self._schedule()
