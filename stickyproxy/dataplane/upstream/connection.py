"""DATA PLANE: connections to endpoints and the client side of HTTP/1.1.

    Upstreams           all pools of the process; its sweep is the only timer there is
    Pool                the connections to one address
    UpstreamConnection  one connection: sends a request head and body, parses the answer
    Receiver            who gets the answer, piece by piece, called from the socket's callback

Nothing here decides about retries or knows what a client is. A connection goes back into its
pool only when the answer ended, the request was sent whole and both sides agreed on keep-alive;
after any doubt about its state it is closed.

Timeouts are counted in sweeps instead of timers: activity sets ``quiet`` to zero, every sweep adds
one, and a connection that reaches its limit has been silent for at least the timeout and at most
a sweep longer.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import sys
from contextlib import suppress
from typing import Protocol, cast

import httptools

from stickyproxy.base import sockets
from stickyproxy.base.errors import (
    ClientStalled,
    ConnectError,
    OutOfResources,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamTimeout,
)

MAX_HEAD_BYTES = 64 * 1024
"""Largest response head taken from an endpoint."""


# What connecting fails with for want of something here, whatever the endpoint's health.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)

UNTIL_CLOSE = -1
"""Body length of an answer that ends with its connection."""
CHUNKED = -2
"""Body length of an answer in chunks."""


class Receiver(Protocol):
    """Gets one answer. All calls come from the connection's socket callbacks and return at once."""

    bodiless: bool
    """True if the answer has no body whatever its head says: the request was a HEAD."""

    def interim(self, lines: list[bytes]) -> None:
        """The head of a 1xx answer other than 101, in lines without their ends. Raises
        UpstreamProtocolError like ``head``."""

    def head(self, status: int, lines: list[bytes]) -> int:
        """The final answer's head, in lines without their ends; the first is the status line.
        Returns the length of its body in bytes, UNTIL_CLOSE or CHUNKED. Raises
        UpstreamProtocolError if the head makes no sense."""

    def data(self, data: bytes) -> None:
        """A piece of the body, without transfer coding."""

    def end(self) -> None:
        """The answer is whole."""

    def flush(self) -> None:
        """All that one read brought has been handed over."""

    def failed(self, error: Exception) -> None:
        """There will be no more: the connection is gone."""


class Tunnel(Protocol):
    """Takes a connection over after 101 Switching Protocols."""

    def from_upstream(self, data: bytes) -> None:
        """Bytes for the client."""

    def upstream_lost(self) -> None:
        """The endpoint closed its side."""

    def pause_client(self) -> None:
        """The endpoint cannot keep up."""

    def resume_client(self) -> None:
        """It can again."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to an endpoint. Idle while it has neither receiver nor tunnel;
    ``send_head`` starts an exchange."""

    __slots__ = (
        "_body_left",
        "_drained",
        "_head",
        "_head_done",
        "_keep_alive",
        "_length",
        "_limited",
        "_milliseconds",
        "_parser",
        "_pool",
        "_request_sent",
        "answered",
        "client_turn",
        "quiet",
        "receiver",
        "transport",
        "tunnel",
        "writing_paused",
    )

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.receiver: Receiver | None = None
        self.tunnel: Tunnel | None = None
        self.quiet = 0
        """Sweeps since the last sign of life."""
        self.answered = False
        """True once a byte of the present answer has arrived."""
        self.client_turn = False
        """True while it is the client that is waited for: its body, or its reading."""
        self.writing_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._request_sent = True
        self._parser = httptools.HttpResponseParser(self)
        self._head = b""
        """What has come of the head; it may be followed by a part of the body."""
        self._head_done = False
        self._length = 0
        self._body_left = 0
        """Bytes that are missing from a body of known length."""
        self._keep_alive = True
        self._milliseconds = 0
        self._limited = False
        """Whether the kernel gives a silent peer up after so many milliseconds."""

    def __repr__(self) -> str:
        state = "tunnel" if self.tunnel else "busy" if self.receiver else "idle"
        return f"<UpstreamConnection {self._pool.address} {state} quiet={self.quiet}>"

    # --- sending a request ---

    def expect_signs_of_life(self, seconds: float) -> None:
        """Give the peer up when its kernel acknowledges nothing for that long. A replica that
        ends says goodbye, but one whose node has died says nothing, and a request sent to it
        would wait for ``response_timeout``."""
        peer: socket.socket | None = self.transport.get_extra_info("socket")
        if peer is None or peer.family == socket.AF_UNIX or sys.platform != "linux":
            return
        self._milliseconds = round(1000 * seconds)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(seconds)))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        self._limit_silence(True)

    def _limit_silence(self, limited: bool) -> None:
        """Not for request bodies and tunnels: Linux counts the time, too, in which a peer
        acknowledges but takes nothing, and endpoints may be slow."""
        self._limited = limited
        peer: socket.socket = self.transport.get_extra_info("socket")
        milliseconds = self._milliseconds if limited else 0
        with suppress(OSError):  # it is closed: nothing to limit
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def send_head(self, head: bytes, receiver: Receiver, *, body_follows: bool) -> None:
        """Start an exchange."""
        if self._milliseconds and self._limited == body_follows:
            self._limit_silence(not body_follows)
        self.receiver = receiver
        self.quiet = 0
        self.answered = False
        self._request_sent = not body_follows
        self.transport.write(head)

    def send_body(self, data: bytes) -> None:
        """A piece of the request body, transfer coding applied."""
        self.quiet = 0
        self.transport.write(data)

    def end_body(self) -> None:
        """The request is sent whole."""
        self.quiet = 0
        self._request_sent = True

    async def drain(self) -> None:
        """Wait until the endpoint has taken most of what was sent."""
        if self.writing_paused:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def abandon(self) -> None:
        """Give the exchange up: the connection is closed at once and its receiver not told."""
        self.receiver = None
        self.tunnel = None
        self.transport.abort()

    def switch(self, tunnel: Tunnel) -> None:
        """Hand the connection over to a tunnel: from now on bytes are bytes."""
        self.receiver = None
        self.tunnel = tunnel
        if self._limited:
            self._limit_silence(False)

    def pause_reading(self) -> None:
        """The client cannot keep up."""
        self.client_turn = True
        self.quiet = 0
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """It can again."""
        self.client_turn = False
        self.quiet = 0
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # --- asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.quiet = 0
        receiver = self.receiver
        if receiver is None:
            self._take_unasked(data)
            return
        self.answered = True
        if self._head_done and self._body_left:
            self._take_body(data, receiver)
        else:
            self._parse(data)
        receiver.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if self.tunnel is not None:
            self.tunnel.upstream_lost()
        if (receiver := self.receiver) is not None:
            self.receiver = None
            if exc is None and self._head_done and self._length == UNTIL_CLOSE:
                receiver.end()
                receiver.flush()
            else:
                receiver.failed(UpstreamClosed(f"{self._pool.address} closed the connection"))
        self._wake_sender()

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self.tunnel is not None:
            self.tunnel.pause_client()

    def resume_writing(self) -> None:
        self.quiet = 0
        if self.tunnel is not None:
            self.tunnel.resume_client()
        self._wake_sender()

    def _wake_sender(self) -> None:
        self.writing_paused = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # --- taking an answer ---

    def _take_unasked(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.from_upstream(data)
        else:
            # RFC 9112 section 9.2: an answer nobody asked for. Whatever it is, the next request
            # on this connection must not get it.
            self.transport.abort()

    def _take_body(self, data: bytes, receiver: Receiver) -> None:
        """A body of known length needs no parser: that spares a copy of every read."""
        left = self._body_left - len(data)
        self._body_left = max(left, 0)
        receiver.data(data if left >= 0 else data[:left])
        if left <= 0:
            if left < 0:
                self._keep_alive = False  # more than was announced
            self._end()
            self._parser = httptools.HttpResponseParser(self)  # the old one missed the body
            self._release()

    def _parse(self, data: bytes) -> None:
        if not self._head_done:
            self._head = self._head + data if self._head else data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.tunnel is not None and (tail := data[upgrade.args[0] :]):
                self.tunnel.from_upstream(tail)
            return
        except httptools.HttpParserError as error:
            # Rubbish behind a whole answer spoils the connection, not the answer.
            self._fail(UpstreamProtocolError(f"{self._pool.address} broke HTTP/1.1: {error}"))
            return
        if self.receiver is None:
            self._release()
        elif not self._head_done and len(self._head) > MAX_HEAD_BYTES:
            self._fail(UpstreamProtocolError(f"{self._pool.address} sent too long a head"))

    def _fail(self, error: Exception) -> None:
        self.transport.abort()
        if (receiver := self.receiver) is not None:
            self.receiver = None
            receiver.failed(error)

    def _end(self) -> None:
        receiver = self.receiver
        self.receiver = None
        if receiver is not None:
            receiver.end()

    def _release(self) -> None:
        """After a whole answer: back into the pool, if there is no doubt about the connection."""
        if not self._request_sent:
            sockets.reset(self.transport)  # close() would wait for the endpoint to take the rest
            return
        if not self._keep_alive:
            self.transport.close()
            return
        self._head_done = False
        self._pool.put(self)

    # --- httptools' callbacks ---
    #
    # The parser checks the syntax strictly (no bare line ends, no folded lines) and says where
    # the message ends. Header fields are then taken from the bytes as they came, line by line:
    # a callback for each of them would cost more than the rest of the parsing.

    def on_message_begin(self) -> None:
        if self.receiver is None:
            self._keep_alive = False  # a second answer

    def on_headers_complete(self) -> None:
        receiver = self.receiver
        if receiver is None:
            return
        head, _, rest = self._head.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        parser = self._parser
        status = parser.get_status_code()
        try:
            if status < 200 and status != 101:
                self._head = rest
                receiver.interim(lines)
                return
            self._head = b""
            self._head_done = True
            self._keep_alive = parser.should_keep_alive()
            length = self._length = receiver.head(status, lines)
        except UpstreamProtocolError as error:
            self._fail(error)
            return
        if receiver.bodiless:
            self._end()
            if length:
                self._parser = httptools.HttpResponseParser(self)  # the old one awaits a body
        elif length > 0:
            self._body_left = length

    def on_body(self, data: bytes) -> None:
        if (receiver := self.receiver) is not None:
            if self._body_left:
                self._body_left -= len(data)
            receiver.data(data)
        else:
            self._keep_alive = False  # a body where none belongs

    def on_message_complete(self) -> None:
        if self._head_done:
            self._body_left = 0
            self._end()


class Pool:
    """The connections to one address. The idle one used last is reused first, so that a pool
    that has become too large for its load shrinks from the other end."""

    def __init__(self, upstreams: Upstreams, address: str) -> None:
        self.address = address
        self._upstreams = upstreams
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {self.address} {len(self._idle)} idle of {len(self._all)}>"

    def take(self, *, replayable: bool) -> UpstreamConnection | None:
        """An idle connection, or None. A request that cannot be replayed only gets one that was
        busy a moment ago: the longer it idles, the likelier its endpoint is about to close it."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            if replayable or connection.quiet == 0:
                return connection
            idle.append(connection)
            return None
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises ConnectError, OutOfResources."""
        upstreams = self._upstreams
        loop = asyncio.get_running_loop()
        address = self.address
        try:
            async with asyncio.timeout(upstreams.connect_timeout):
                if address.startswith("unix:"):
                    _, connection = await loop.create_unix_connection(
                        lambda: UpstreamConnection(self), address.removeprefix("unix:")
                    )
                else:
                    host, _, port = address.rpartition(":")
                    _, connection = await loop.create_connection(
                        lambda: UpstreamConnection(self), host.strip("[]"), int(port)
                    )
        except TimeoutError as error:
            timeout = upstreams.connect_timeout
            raise ConnectError(f"{address} accepted no connection within {timeout:g} s") from error
        except OSError as error:
            if error.errno in _OURS:
                raise OutOfResources(f"no connection to {address}: {error.strerror}") from error
            raise ConnectError(f"{address}: {error.strerror or error}") from error
        connection.expect_signs_of_life(upstreams.connect_timeout)
        self._all.add(connection)
        self._upstreams.add(self)  # closed and emptied while we were connecting: still swept
        return connection

    async def probe(self) -> None:
        """Make a connection and keep it for a request. Raises ConnectError."""
        self.put(await self.connect())

    def put(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is fit for another exchange."""
        if self._closed:
            connection.transport.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is lost."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closed and not self._all:
            self._upstreams.remove(self)

    def close(self) -> None:
        """Close idle connections now, and busy ones when their exchange ends."""
        self._closed = True
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()
        if not self._all:
            self._upstreams.remove(self)

    def sweep(self, idle_limit: int, upstream_limit: int, client_limit: int) -> None:
        """Count one sweep for every connection, and end those that reached their limit."""
        for connection in tuple(self._all):
            connection.quiet += 1
            if connection.tunnel is not None:
                # A tunnel may be silent for as long as it likes, unless somebody waits.
                stuck = connection.writing_paused and connection.quiet > upstream_limit
                if stuck or (connection.client_turn and connection.quiet > client_limit):
                    connection.transport.abort()
            elif connection.receiver is None:
                if connection.transport.is_closing():
                    sockets.reset(connection.transport)  # it had a sweep's time to take the rest
                elif connection.quiet > idle_limit:
                    connection.transport.close()
            elif connection.client_turn:
                if connection.quiet > client_limit:
                    connection._fail(ClientStalled("the client stalled"))
            elif connection.quiet > upstream_limit:
                connection._fail(UpstreamTimeout(f"{self.address} stayed silent too long"))


class Upstreams:
    """All pools of the process, and the clock of their timeouts (seconds)."""

    def __init__(
        self,
        *,
        connect_timeout: float,
        response_timeout: float,
        client_timeout: float,
        idle_timeout: float,
    ) -> None:
        self.connect_timeout = connect_timeout
        shortest = min(response_timeout, client_timeout, idle_timeout)
        self._interval = max(0.02, min(1.0, shortest / 4))
        self._limits = tuple(
            math.ceil(timeout / self._interval)
            for timeout in (idle_timeout, response_timeout, client_timeout)
        )
        self._pools: set[Pool] = set()
        self._timer: asyncio.TimerHandle | None = None

    def pool(self, address: str) -> Pool:
        """A new pool; whoever owns the endpoint closes it."""
        pool = Pool(self, address)
        self.add(pool)
        return pool

    def add(self, pool: Pool) -> None:
        """The pool has connections to sweep."""
        self._pools.add(pool)

    def remove(self, pool: Pool) -> None:
        """The pool is closed and its last connection gone."""
        self._pools.discard(pool)

    def start(self) -> None:
        """Start sweeping."""
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._sweep)

    def close(self) -> None:
        """Stop sweeping and close every pool."""
        if self._timer is not None:
            self._timer.cancel()
        for pool in tuple(self._pools):
            pool.close()

    def _sweep(self) -> None:
        for pool in tuple(self._pools):
            pool.sweep(*self._limits)
        self.start()
