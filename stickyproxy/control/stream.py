"""CONTROL: the last events, for those who read them as they come (Server-Sent Events, HTML standard
section 9.2).

There is one buffer for all readers, and each of them is no more than a place in it: whoever reads
so slowly that the place has left the buffer is told so. An event has an id, by which a reader goes
on where it was; those of an earlier run of the proxy are known to be none of ours.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable

from stickyproxy.control.report import Json
from stickyproxy.model.events import Event, EventKind

SIZE = 1000
"""Events that are kept for readers who come back."""
CHANGES = 200
"""Events that are kept as the last changes: all but those about sessions."""
BATCH = 100
"""Events that a reader is given at a time."""

_NO_CHANGE = frozenset((EventKind.SESSIONS_MOVED, EventKind.EVENTS_MISSED))


class Stream:
    """The events of one proxy."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock``: Unix time in seconds."""
        self._clock = clock
        self._run = os.urandom(4).hex()
        """Tells the ids of one run of the program from those of another."""
        self._count = 0
        self._kept: deque[bytes] = deque(maxlen=SIZE)
        self._changes: deque[Json] = deque(maxlen=CHANGES)
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        """This has happened."""
        self._count += 1
        row = self._row(event)
        self._kept.append(_block(row))
        if event.kind not in _NO_CHANGE:
            self._changes.append(row)
        self._news.set()
        self._news = asyncio.Event()

    def changes(self) -> list[Json]:
        """What has changed, the last first."""
        return list(reversed(self._changes))

    def place(self, last_id: str | None, last: int = 0) -> int:
        """Where a reader begins: after the event with this id; at the beginning if that is none of
        ours, or gone. None: it has read nothing, and begins with the ``last`` ones."""
        if last_id is None:
            return max(self._count - last, self._first)
        run, _, number = last_id.partition("-")
        if run != self._run or not (number.isascii() and number.isdigit() and len(number) < 20):
            return -1
        return min(int(number), self._count)

    def after(self, place: int) -> tuple[bytes, int]:
        """The next few events from there on, ready to be sent, and the place after them. If some
        are gone, a first one says so."""
        first = self._first
        missed = b""
        if place < first:
            row = self._row(Event(EventKind.EVENTS_MISSED, "some events were missed"))
            missed, place = _block(row | {"id": f"{self._run}-{first}"}), first
        found = [self._kept[at] for at in range(place - first, len(self._kept))][:BATCH]
        return missed + b"".join(found), place + len(found)

    async def wait(self, place: int) -> None:
        """Until there is something after that place."""
        while place >= self._count:
            await self._news.wait()

    @property
    def _first(self) -> int:
        """The place before the oldest that is kept."""
        return self._count - len(self._kept)

    def _row(self, event: Event) -> Json:
        row: Json = {
            "id": f"{self._run}-{self._count}",
            "time": round(self._clock(), 3),
            "event": event.kind.word,
            "level": logging.getLevelName(event.level or event.kind.level).lower(),
            "text": str(event),
            **event.details,
        }
        if event.left_out:
            row["left_out"] = event.left_out
        return row


def _block(row: Json) -> bytes:
    return f"id: {row['id']}\nevent: {row['event']}\ndata: {json.dumps(row)}\n\n".encode()
