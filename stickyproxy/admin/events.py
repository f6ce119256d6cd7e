"""CONTROL: events as they come.

GET /v1/events    a stream of Server-Sent Events (HTML standard section 9.2)
GET /v1/changes   the last events that changed something, as JSON

``Last-Event-ID`` goes on where a stream ended; ``?last=N`` begins with the last N. A stream that is
not read is cut, and there are no more than ``STREAMS``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

from stickyproxy.admin.answers import as_json, error
from stickyproxy.base.sockets import reset
from stickyproxy.control.stream import SIZE, Stream

STREAMS = 32
"""At a time."""
PATIENCE = 10.0
"""Seconds that a reader may take for what it is sent."""
LOOK = 1.0
"""Seconds until it is looked whether a reader is still there."""
HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent: some proxies cut what is silent, and a reader
whose machine is gone does not say so."""

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


def add_routes(app: web.Application, stream: Stream, patience: float = PATIENCE) -> None:
    """Tell what happens. ``patience``: see PATIENCE."""
    pages = _Events(stream, patience)
    # A HEAD would be a stream that nobody reads.
    app.router.add_get("/v1/events", pages.events, allow_head=False)
    app.router.add_get("/v1/changes", pages.changes)


class _Events:
    def __init__(self, stream: Stream, patience: float) -> None:
        self._stream = stream
        self._patience = patience
        self._open = 0

    async def changes(self, _request: web.Request) -> web.Response:
        return as_json({"changes": self._stream.changes()})

    async def events(self, request: web.Request) -> web.StreamResponse:
        last = request.query.get("last", "0")
        if not (last.isascii() and last.isdigit() and len(last) < 7):
            return error(400, f"last is no number from 0 to {SIZE}")
        if self._open >= STREAMS:
            return error(503, f"there are {STREAMS} streams already: close one of them")
        place = self._stream.place(request.headers.get("Last-Event-ID"), int(last))
        response = web.StreamResponse(headers=_HEADERS)
        self._open += 1
        try:
            await response.prepare(request)
            await self._send(request, response, place)
        except ConnectionError:
            pass  # the reader has gone
        finally:
            self._open -= 1
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, place: int) -> None:
        """Until the reader has gone, or does not read. Raises ConnectionError."""
        data, silent = b"retry: 2000\n\n", 0
        while True:
            if data:
                try:
                    async with asyncio.timeout(self._patience):
                        await response.write(data)
                except TimeoutError:
                    if request.transport is not None:
                        # What the kernel holds for it would be held as long as it does not read.
                        reset(request.transport)
                    return
                silent = 0
            data, place = self._stream.after(place)
            if data:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._stream.wait(place)
            if request.transport is None or request.transport.is_closing():
                return
            silent += 1
            data = b":\n\n" if silent > HEARTBEAT / LOOK else b""
