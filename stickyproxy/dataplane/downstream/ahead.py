"""DATA PLANE: what a client sends ahead of its turn."""

from __future__ import annotations

import asyncio

AHEAD_BYTES = 16 * 1024
"""How much a client may send ahead before it is not read any more. As long as it is read, we see it
leave, and its request need not be answered."""


class ReadAhead:
    """Bytes of one client that could not be taken yet, and whether more of them are read."""

    __slots__ = ("_at", "data", "paused", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.data = b""
        """What waits, from index ``_at`` on; empty if nothing does."""
        self._at = 0
        self.paused = False
        """The client is not read: there is enough to do."""

    def hold(self, data: bytes, at: int = 0) -> None:
        """Keep this, from index ``at`` on, behind what is kept."""
        if self.data:
            data, at = self.data[self._at :] + data[at:], 0
        self.data, self._at = data, at
        if len(data) - at > AHEAD_BYTES:
            self.pause()

    def put_back(self, data: bytes) -> None:
        """Keep this before all that is kept."""
        self.data, self._at = data + self.data[self._at :], 0

    def take(self) -> tuple[bytes, int]:
        """All that is kept, and the index from which on it counts."""
        data, at = self.data, self._at
        self.data, self._at = b"", 0
        return data, at

    def pause(self) -> None:
        """Read no more for now."""
        if not self.paused and self.transport is not None and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Read again."""
        if self.paused and self.transport is not None and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()
