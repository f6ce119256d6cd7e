"""A small HTTP server beside the proxy, for the admin page and the controller: aiohttp's usual
``web.Application``, because there convenience matters and speed does not.

The controller's speaks TLS and plain HTTP on one port: a client that begins with a TLS record gets
TLS. So proxies that are told of https only later, by their next configuration, find the controller
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError

log = logging.getLogger("stickyproxy")
_of_requests = log.getChild("requests")
"""What aiohttp logs: requests that failed because of a bug."""
_of_requests.addFilter(lambda record: not _is_their_fault(record))

FIRST_BYTE_SECONDS = 10.0
"""How long a client may take until it shows whether it speaks TLS, and for the handshake then."""

MAX_UNDECIDED = 512
"""Connections that may not have shown it yet: one more is closed."""

MOST_CONNECTIONS = 1024
"""At a time; one more is closed: descriptors are needed for requests, too. Each proxy that follows
a controller has two."""

HEAD_SECONDS = 10.0
"""How long a new connection may take until its first request is there: who asks for nothing must
not keep others from asking."""

IDLE_SECONDS = 75.0
"""How long an idle connection is kept."""

PAUSE = 0.5
"""Seconds until connections are accepted again when there were no descriptors for one."""

_HANDSHAKE = b"\x16"
"""The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1); no HTTP method
begins with it."""


class _Runner(web.AppRunner):
    """One whose server has no more than so many connections, and closes those that ask for
    nothing, which aiohttp does only after a first request."""

    def __init__(
        self, app: web.Application, most: int, head_seconds: float, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._most = most
        self._head_seconds = head_seconds
        self._silent: dict[asyncio.Protocol, asyncio.TimerHandle] = {}
        """Those that have not asked for anything yet, and when they are closed."""
        app.middlewares.insert(0, self._note)

    @property
    def server(self) -> Any:
        """What makes a protocol of each connection."""
        server = super().server
        if server is None:
            return None

        def protocol() -> asyncio.Protocol:
            if len(server.connections) >= self._most:
                return _Closing()
            handler: web.RequestHandler = server()
            loop = asyncio.get_running_loop()
            self._silent[handler] = loop.call_later(self._head_seconds, self._close, handler)
            return handler

        return protocol

    def _close(self, handler: web.RequestHandler) -> None:
        del self._silent[handler]
        if handler.transport is not None:
            handler.transport.abort()

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """It has asked for something."""
        if (timer := self._silent.pop(request.protocol, None)) is not None:
            timer.cancel()
        return await handler(request)


class _Closing(asyncio.Protocol):
    """Takes a connection and closes it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.BaseProtocol``."""
        transport.close()


class ControlServer:
    """One application on one address."""

    def __init__(
        self,
        app: web.Application,
        tls: ssl.SSLContext | None = None,
        most: int = MOST_CONNECTIONS,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        """``tls``: with it, clients may speak TLS too. ``most``: see MOST_CONNECTIONS,
        ``head_seconds``: HEAD_SECONDS."""
        # A long poll in progress must not delay the shutdown.
        self._runner = _Runner(
            app,
            most,
            head_seconds,
            access_log=None,
            shutdown_timeout=0.5,
            keepalive_timeout=IDLE_SECONDS,
            logger=_of_requests,
        )
        self._tls = tls
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._undecided: set[asyncio.Task[None]] = set()

    async def start(self, address: Address, sockets: Iterable[socket.socket] = ()) -> str:
        """Listen there, or on these ``sockets``, which listen there already; returns the address
        as bound. Raises ListenError."""
        await self._runner.setup()
        sockets = tuple(sockets)
        if self._tls is not None and address.path is None and not sockets:
            return await self._start_choosing(address, self._tls)
        sites: list[web.BaseSite] = [web.SockSite(self._runner, sock) for sock in sockets]
        if not sites and address.path is not None:
            sites = [web.UnixSite(self._runner, address.path)]
        elif not sites:
            sites = [web.TCPSite(self._runner, address.host, address.port)]
        try:
            for site in sites:
                await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise _cannot_listen(address, error) from error
        bound = self._runner.addresses[0]
        return str(bound) if isinstance(bound, str) else str(Address(bound[0], bound[1]))

    async def stop(self) -> None:
        """Close the listener and cut whatever is in progress."""
        tasks = [*self._accepting, *self._undecided]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._accepting.clear()
        self._close_listeners()
        await self._runner.cleanup()

    # --- TLS or not -----------------------------------------------------------------------------

    async def _start_choosing(self, address: Address, tls: ssl.SSLContext) -> str:
        """Listen for clients of both kinds. Raises ListenError."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                address.host or None,
                address.port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )
            for family, *_, (host, port, *_) in dict.fromkeys(found):
                listener = socket.create_server((host, port), family=family, backlog=128)
                self._listeners.append(listener)
        except OSError as error:
            self._close_listeners()
            await self._runner.cleanup()
            raise _cannot_listen(address, error) from error
        host, port, *_ = self._listeners[0].getsockname()
        for listener in self._listeners:
            listener.setblocking(False)
            task = asyncio.create_task(self._accept(listener, tls), name="controller accepts")
            self._accepting.append(task)
        return str(Address(host, port))

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _accept(self, listener: socket.socket, tls: ssl.SSLContext) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("controller: no connection can be accepted: %s", error.strerror)
                await asyncio.sleep(PAUSE)
                continue
            if len(self._undecided) >= MAX_UNDECIDED:
                sock.close()
                continue
            task = asyncio.create_task(self._take(sock, tls), name="first byte")
            self._undecided.add(task)
            task.add_done_callback(self._undecided.discard)

    async def _take(self, sock: socket.socket, tls: ssl.SSLContext) -> None:
        """Serve a connection as it begins. Whatever goes wrong with it is its client's business."""
        loop = asyncio.get_running_loop()
        server = self._runner.server
        assert server is not None
        try:
            async with asyncio.timeout(FIRST_BYTE_SECONDS):
                first = await _first_byte(sock)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):  # a TimeoutError is one, too
                return
            raise
        options: dict[str, Any] = {}
        if first == _HANDSHAKE:
            options = {"ssl": tls, "ssl_handshake_timeout": FIRST_BYTE_SECONDS}
        try:
            await loop.connect_accepted_socket(server, sock, **options)
        except OSError as error:  # an ssl.SSLError is one, too
            log.debug("controller: a handshake failed: %s", error)


def _is_their_fault(record: logging.LogRecord) -> bool:
    """Whether it is about what was no HTTP: anybody could fill the log with that."""
    return record.exc_info is not None and isinstance(record.exc_info[1], HttpProcessingError)


def _cannot_listen(address: Address, error: OSError) -> ListenError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ListenError(f"cannot listen on {address}: {reason}")


async def _first_byte(sock: socket.socket) -> bytes:
    """What is sent first, without taking it; empty: nothing is. Raises OSError."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            with suppress(BlockingIOError, InterruptedError):
                return sock.recv(1, socket.MSG_PEEK)
    finally:
        loop.remove_reader(sock)
