"""DATA PLANE: the clients of one process: aiohttp's low-level ``web.Server``, which makes a
``ClientConnection`` for each accepted socket. Here their timeouts are counted, in sweeps, and here
they are drained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.downstream.context import Context
from stickyproxy.dataplane.downstream.heads import Limits
from stickyproxy.dataplane.downstream.http1 import ClientConnection
from stickyproxy.dataplane.downstream.ports import Refuse, Serve
from stickyproxy.dataplane.downstream.proxy_protocol import Ends
from stickyproxy.dataplane.turns import Turns
from stickyproxy.model.tls import ClientAuth
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
        return ClientConnection(self, self._context, self._context.serve)

    def maker(
        self, serve: Serve, ends: Ends | None = None, client_auth: ClientAuth | None = None
    ) -> Callable[[], ClientConnection]:
        """Makes those whose requests are served otherwise, or that something is known of: see
        ``ClientConnection``."""
        return partial(ClientConnection, self, self._context, serve, ends, client_auth)

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

    async def drain(self, patience: float = 0.0) -> None:
        """Close idle connections now and busy ones after their response; returns when none is
        left.

        A client may send its next request in the moment in which its connection is closed, and
        has to find out by itself that nobody read it. If there is somebody who accepts new
        connections, closing need not be sudden: for ``patience`` seconds idle connections stay
        open, and the response to the next request on each says that it is the last one.
        """
        self._context.draining = True
        if patience > 0:
            self._context.patient = True
            self.start_draining()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._until_empty()
            self._context.patient = False
        self.start_draining()
        await self._until_empty()

    def start_draining(self) -> None:
        """Have all that there are know that no request after the present one is served."""
        for connection in self._ours():
            connection.start_draining()

    async def _until_empty(self) -> None:
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
        self.start()  # first: one that raises must not end the time of all others
        for connection in self._ours():
            connection.sweep()
