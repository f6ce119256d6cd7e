"""DATA PLANE: the clients of one process: aiohttp's low-level ``web.Server``, which makes a
``ClientConnection`` for each accepted socket. Here their timeouts are counted, in sweeps, and here
they are drained."""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.downstream.context import Context
from stickyproxy.dataplane.downstream.heads import Limits
from stickyproxy.dataplane.downstream.http1 import ClientConnection
from stickyproxy.dataplane.downstream.ports import Refuse, Serve
from stickyproxy.dataplane.turns import Turns
from stickyproxy.semantics.forwarded import TrustedProxies


class ClientServer(web.Server):
    """All client connections."""

    def __init__(
        self,
        serve: Serve,
        refuse: Refuse,
        limits: Limits,
        trusted_proxies: TrustedProxies,
        *,
        turns: Turns,
        descriptors: Descriptors,
    ) -> None:
        super().__init__(serve)  # type: ignore[arg-type]  # we call it, not aiohttp
        self._context = Context(serve, refuse, limits, trusted_proxies, turns)
        descriptors.may_shed(self.shed)
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    def __call__(self) -> ClientConnection:
        return ClientConnection(self, self._context)

    def start(self) -> None:
        """Begin to sweep."""
        self._timer = self._context.loop.call_later(self._context.interval, self._sweep)

    def stop(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()

    def shed(self) -> int:
        """Close idle connections, for lack of file descriptors; returns how many."""
        return sum(connection.shed() for connection in self._ours())

    async def drain(self) -> None:
        """Close idle connections now and busy ones after their response; returns when
        none is left."""
        self._context.draining = True
        for connection in self._ours():
            connection.start_draining()
        while self.connections:
            self._empty.clear()
            await self._empty.wait()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._empty.set()

    def abort(self) -> None:
        """Cut every connection now."""
        for connection in self._ours():
            connection.abort()

    def _ours(self) -> list[ClientConnection]:
        return cast("list[ClientConnection]", self.connections)

    def _sweep(self) -> None:
        for connection in self._ours():
            connection.sweep()
        self.start()
