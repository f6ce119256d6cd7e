"""DATA PLANE: passwords are hashed in threads, a few at a time, so that those who guess do not keep
the others waiting."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from stickyproxy.routing.basic_auth import BasicAuth

_THREADS = 2
_MOST_WAITING = 64
"""Credentials that wait for one; what is more is refused."""


class Hashing:
    """Checks credentials that are not known."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._waiting = 0

    @property
    def is_busy(self) -> bool:
        """There is no room for more."""
        return self._waiting >= _MOST_WAITING

    async def check(self, auth: BasicAuth, credentials: bytes) -> bool:
        """Whether they are right."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "password")
        loop = asyncio.get_running_loop()
        checked = loop.run_in_executor(self._threads, auth.check, credentials)
        self._waiting += 1
        checked.add_done_callback(self._checked)
        right = await checked
        if right:
            auth.remember(credentials)
        return right

    def _checked(self, _: asyncio.Future[bool]) -> None:
        self._waiting -= 1
