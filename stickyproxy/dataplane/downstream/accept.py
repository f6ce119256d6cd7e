"""The accept loop: from open listeners to client connections, and the graceful end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.downstream.listeners import Listener
from stickyproxy.dataplane.downstream.server import ClientServer
from stickyproxy.model.listener import ListenerSpec

log = logging.getLogger("stickyproxy")

ACCEPTS_PER_TURN = 128
"""Connections accepted before requests get their turn again, per listener."""

_REST_SECONDS = 1.0
"""How long nothing is accepted if that fails and idle connections cannot make room."""
_ROOM_SECONDS = 0.02
"""How long if they can."""


class Server:
    """Accepts connections for one ``ClientServer``.

    Connections are accepted here and not by the loop's ``create_server``: uvloop accepts one per
    turn of the loop, and in a turn it may serve hundreds of requests of those already connected.
    The thousandth of a thousand clients that came at once would wait for many seconds.
    """

    def __init__(self, clients: ClientServer, descriptors: Descriptors) -> None:
        self._clients = clients
        self._descriptors = descriptors
        self._listeners: frozenset[Listener] = frozenset()
        """Those we accept on."""
        self._connecting: set[asyncio.Task[object]] = set()

    def accept_on(self, listeners: Iterable[Listener]) -> None:
        """Accept connections on these listeners and no others from now on. Their sockets stay
        open."""
        before, self._listeners = self._listeners, frozenset(listeners)
        loop = asyncio.get_running_loop()
        for listener in before - self._listeners:
            loop.remove_reader(listener.sock.fileno())
        for listener in self._listeners - before:
            loop.add_reader(listener.sock.fileno(), self._accept, listener)

    async def drain(self, grace: float, patience: float = 0.0) -> int:
        """Stop accepting and let requests under way finish for up to ``grace`` seconds. Returns
        how many connections had to be cut. ``patience``: see ``ClientServer.drain``."""
        self.accept_on(())
        await asyncio.gather(*self._connecting, return_exceptions=True)
        try:
            async with asyncio.timeout(grace):
                await self._clients.drain(min(patience, grace / 2))
        except TimeoutError:
            cut = len(self._clients.connections)
            self._clients.abort()
            await self._clients.drain()
            return cut
        return 0

    def _protocol_factory(self, _spec: ListenerSpec) -> Callable[[], asyncio.BaseProtocol]:
        """The factory of connections for clients of this listener. All speak HTTP/1.1 in
        the clear so far, so there is one."""
        return self._clients

    def _accept(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        make_connection = self._protocol_factory(listener.spec)
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _ = listener.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(listener, error)
                return
            connecting = loop.create_task(
                loop.connect_accepted_socket(make_connection, sock), name="accepted"
            )
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Task[object]) -> None:
        self._connecting.discard(connecting)
        if not connecting.cancelled() and (error := connecting.exception()) is not None:
            log.debug("a client was gone before it was served: %s", error)

    def _rest(self, listener: Listener, error: OSError) -> None:
        """Out of file descriptors or memory: trying again at once would only burn the CPU time that
        could free some."""
        pause = _ROOM_SECONDS
        if not self._descriptors.make_room(error):
            pause = _REST_SECONDS
            log.error("cannot accept connections: %s; trying again in a second", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.sock.fileno())
        loop.call_later(pause, self._wake, listener)

    def _wake(self, listener: Listener) -> None:
        if listener in self._listeners:
            loop = asyncio.get_running_loop()
            loop.add_reader(listener.sock.fileno(), self._accept, listener)
