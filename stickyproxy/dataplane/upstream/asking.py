"""DATA PLANE: requests of our own to an endpoint, of whose responses only the status counts."""

from __future__ import annotations

import asyncio

from stickyproxy.base.errors import UpstreamTimeout
from stickyproxy.dataplane.upstream.connection import UpstreamConnection
from stickyproxy.dataplane.upstream.pool import Upstreams
from stickyproxy.model.target import Target
from stickyproxy.semantics.response import ResponseHead

MAX_BODY = 64 * 1024
"""Bytes of a body that are read, so that the endpoint has somebody to send it to."""


class Asker:
    """Asks one target, on a new connection each time. Implements ``control.checks.Asks``."""

    def __init__(self, upstreams: Upstreams, target: Target) -> None:
        self._pool = upstreams.pool(target)
        self._pool.keep_idle(False)

    async def status(self, head: bytes, seconds: float) -> int:
        """See ``control.checks.Asks``."""
        answer = _Answer()
        try:
            async with asyncio.timeout(seconds):
                connection = await self._pool.connect()
                await answer.over(connection, head)
        except TimeoutError:
            if not answer.status:
                raise UpstreamTimeout(f"no response within {seconds:g} s") from None
        return answer.status

    def close(self) -> None:
        """See ``control.checks.Asks``."""
        self._pool.close()


class _Answer:
    """Takes a response. Implements ``upstream.http1.Receiver``."""

    bodiless = False

    def __init__(self) -> None:
        self.status = 0
        """0 until the head is here."""
        self._left = MAX_BODY
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def over(self, connection: UpstreamConnection, head: bytes) -> None:
        """Send the request and wait for the end of the response, or of what is read of it. Raises
        UpstreamError if there is none."""
        try:
            connection.send_head(head, self, body_follows=False)
            await self._ended
        finally:
            if connection.receiver is self:
                connection.abandon()

    def interim(self, head: ResponseHead) -> None:
        """There is more to come."""

    def head(self, head: ResponseHead) -> None:
        self.status = head.status

    def data(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._end()

    def end(self) -> None:
        self._end()

    def flush(self) -> None:
        """Nobody waits for it."""

    def writable(self) -> None:
        """There is no more to send."""

    def failed(self, error: Exception) -> None:
        if self.status or self._ended.done():
            self._end()
        else:
            self._ended.set_exception(error)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
