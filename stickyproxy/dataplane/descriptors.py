"""DATA PLANE: when file descriptors run out, idle connections make room for new ones."""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Callable

log = logging.getLogger("stickyproxy")

EXHAUSTED = (errno.EMFILE, errno.ENFILE)
"""What fails for want of a descriptor: of this process, of the machine."""

_LOG_SECONDS = 1.0
"""What was closed is logged at most that often."""


class Descriptors:
    """Knows who has idle connections. One for all connections of a process."""

    def __init__(self) -> None:
        self._holders: list[Callable[[], int]] = []
        self._closed = 0
        """Connections that were closed and not logged yet."""
        self._logged = -math.inf

    def may_shed(self, shed: Callable[[], int]) -> None:
        """``shed`` closes idle connections; returns how many."""
        self._holders.append(shed)

    def make_room(self, error: OSError) -> bool:
        """Whether it is worth trying again what failed like this: idle connections were closed.
        Their descriptors are free in the next turn of the loop."""
        if error.errno not in EXHAUSTED:
            return False
        closed = sum(shed() for shed in self._holders)
        self._closed += closed
        now = time.monotonic()
        if self._closed and now - self._logged >= _LOG_SECONDS:
            self._logged = now
            log.warning(
                "%s: closed %d idle connections to make room; raise the limit of open files",
                error.strerror,
                self._closed,
            )
            self._closed = 0
        return closed > 0
