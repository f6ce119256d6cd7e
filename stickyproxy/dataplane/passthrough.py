"""DATA PLANE: TLS that is passed through: the endpoint has the certificate, and we have no key.

    Passthrough   all such connections of a process
    Passage       one of them, from its ClientHello to its end

All that is known of a connection is where it comes from and the server name in its hello, which
still waits in the socket: the endpoint gets every byte as the client sent it. So a client's address
is what it is recognised by. Its session id is not: with TLS 1.3 and with tickets it is made up, and
with TLS 1.2 it is new with every session, so that hashing it would take a client that resumes to
another endpoint than the one that knows its session. Who issued it could only be remembered, by
every process of every proxy.

Back-pressure and timeouts are those of tunnels after 101 (``upstream.connection``): a side that
does not take what it was sent, or does not end after the other one has, is given up.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import cast

from stickyproxy.base import sockets
from stickyproxy.base.errors import ConnectError, OutOfResources, StickyproxyError
from stickyproxy.dataplane.attempt import Attempt
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.downstream.clienthello import ClientHello
from stickyproxy.dataplane.downstream.proxy_protocol import Ends
from stickyproxy.dataplane.exchange import Proxy
from stickyproxy.dataplane.outcome import Outcome, outcome_of
from stickyproxy.dataplane.turns import MUCH, Turns
from stickyproxy.dataplane.upstream.connection import State, UpstreamConnection
from stickyproxy.dataplane.upstream.pool import Pool
from stickyproxy.routing.endpoint import Endpoint, Pick
from stickyproxy.routing.tally import TallySheet

log = logging.getLogger("stickyproxy")
monotonic = time.monotonic

INTERNAL_ERROR = 80
"""The alert (RFC 8446 section 6.2) for a client that no endpoint can be found for."""

_PROBE_SECONDS = 15
"""Between two probes of a client that may have vanished."""


class Passthrough:
    """Passes TLS through, by the table of a proxy."""

    def __init__(
        self,
        proxy: Proxy,
        turns: Turns,
        descriptors: Descriptors,
        client_timeout: float,
        finished: Callable[[Passage], None] | None = None,
    ) -> None:
        """``client_timeout``: seconds that a client may take nothing of what is left for it.
        ``finished`` is called once for every connection that has ended."""
        self.proxy = proxy
        self.turns = turns
        self.client_timeout = client_timeout
        self.finished = finished
        self._passages: set[Passage] = set()
        self._empty = asyncio.Event()
        descriptors.may_shed(self.shed)

    def __repr__(self) -> str:
        return f"<Passthrough {len(self._passages)} connections>"

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._passages)

    def claim(self, sock: socket.socket, hello: ClientHello, ends: Ends) -> bool:
        """Pass a connection through that has to be; the hello is still in the socket. False: its
        TLS ends here."""
        names, name = self.proxy.table.passthrough, hello.server_name
        if names is None or name is None or names.cluster(name) is None:
            return False
        passage = Passage(self, sock, name, ends.client)
        self._passages.add(passage)
        passage.begin()
        return True

    def ended(self, passage: Passage) -> None:
        """A connection has ended."""
        self._passages.discard(passage)
        self._empty.set()
        if self.finished is not None:
            self.finished(passage)

    def shed(self) -> int:
        """For lack of file descriptors, close those whose endpoint has ended and said all; returns
        how many. Whether others are idle only their two ends know."""
        return sum(passage.shed() for passage in tuple(self._passages))

    async def drain(self, grace: float) -> int:
        """Wait up to ``grace`` seconds for connections to end: nobody can be told to hurry. Returns
        how many had to be cut."""
        try:
            async with asyncio.timeout(grace):
                await self._until_empty()
        except TimeoutError:
            cut = len(self._passages)
            for passage in tuple(self._passages):
                passage.cut()
            await self._until_empty()
            return cut
        return 0

    async def _until_empty(self) -> None:
        while self._passages:
            self._empty.clear()
            await self._empty.wait()


class Passage(asyncio.Protocol):
    """A client's connection and, once there is one, its endpoint's. Implements
    ``upstream.connection.UpstreamTunnel`` and, for balancers, ``routing.endpoint.Request``."""

    __slots__ = (
        "_client_ended",
        "_endpoint_ended",
        "_endpoint_slow",
        "_home",
        "_opening",
        "_sock",
        "_transport",
        "_turn_comes",
        "_upstream",
        "attempts",
        "bytes_down",
        "bytes_up",
        "client_address",
        "connect_seconds",
        "outcome",
        "pick",
        "server_name",
        "service",
        "started",
        "tally",
    )

    idempotent = False
    """Nobody knows, so it is not."""

    def __init__(
        self, home: Passthrough, sock: socket.socket, server_name: str, client_address: str
    ) -> None:
        self._home = home
        self._sock: socket.socket | None = sock
        """The client's, until its transport has it."""
        self._opening: asyncio.Task[None] | None = None
        """Connects to an endpoint."""
        self._transport: asyncio.Transport | None = None
        """The client's; None while there is no endpoint for it."""
        self._upstream: UpstreamConnection | None = None
        """The endpoint's; None before it is there and when it is gone."""
        self._client_ended = False
        self._endpoint_ended = False
        self._endpoint_slow = False
        """It does not keep up with the client."""
        self._turn_comes = False
        """``_go_on`` will be called when it is our turn; until then the client is not read."""
        self.server_name = server_name
        self.client_address = client_address
        self.service = ""
        self.started = monotonic()
        self.pick: Pick | None = None
        """The latest one."""
        self.tally: TallySheet | None = None
        """Where the attempt under way is noted; None: there is none, or nobody counts."""
        self.attempts: tuple[Attempt, ...] = ()
        """Endpoints that took no connection."""
        self.connect_seconds: float | None = None
        """How long it took to connect to the endpoint that did; None: none did."""
        self.bytes_up = 0
        """From the client."""
        self.bytes_down = 0
        self.outcome: Outcome | None = None
        """How it ended; None until it has."""

    def __repr__(self) -> str:
        return f"<Passage {self.server_name} {self.bytes_up} up, {self.bytes_down} down>"

    # --- routing.endpoint.Request: what is not known of it ---

    def cookies(self, name: bytes) -> tuple[bytes, ...]:
        return ()

    def header(self, name: str) -> None:
        return None

    def query(self, name: bytes) -> None:
        return None

    # --- the beginning ---

    def begin(self) -> None:
        """Find an endpoint and join the two."""
        loop, name = asyncio.get_running_loop(), "connect for a connection passed through"
        self._opening = loop.create_task(self._open(), name=name)
        self._opening.add_done_callback(self._opened)

    async def _open(self) -> None:
        self._upstream = await self._connect()
        loop, sock = asyncio.get_running_loop(), self._sock
        assert sock is not None
        await loop.connect_accepted_socket(lambda: self, sock)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        """The two are joined, or never will be."""
        self._opening = None
        error = None if opening.cancelled() else opening.exception()
        if not opening.cancelled() and error is None:
            return
        outcome = Outcome.CLIENT_GONE
        if isinstance(error, StickyproxyError):
            self._home.proxy.log_failure(self.service or self.server_name, error)
            outcome = outcome_of(error, head_sent=False)
            if self.pick is None:
                outcome = Outcome.NO_ENDPOINT
        elif error is not None and not isinstance(error, OSError):  # that is the client's end
            log.error("passing TLS through failed: this is a bug in stickyproxy", exc_info=error)
            outcome = Outcome.BUG
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            sockets.reset(upstream.transport)
        sock, self._sock = self._sock, None
        if sock is not None:
            sockets.close_with_alert(sock, INTERNAL_ERROR)
        self._finish(outcome)

    async def _connect(self) -> UpstreamConnection:
        """A connection to the first endpoint that takes one: none has seen anything of the client
        before. Raises ConnectError, OutOfResources."""
        tried: tuple[Endpoint, ...] = ()
        health = self._home.proxy.health
        latest: ConnectError | None = None
        while True:
            pick = self._next(tried)
            if pick is None:
                raise latest or ConnectError("no endpoint is usable")
            self.pick, endpoint = pick, pick.endpoint
            if (tally := endpoint.tally) is not None:
                tally.begun += 1
                self.tally = tally
            pool, began = cast("Pool", endpoint.pool), monotonic()
            try:
                upstream = await pool.connect()
            except ConnectError as error:
                if health is not None:
                    health.failed(endpoint, error)
                now = monotonic()
                self._note(pick, now - began)
                if now - self.started > pool.retry_seconds:
                    raise
                tried, latest = (*tried, endpoint), error
            except OutOfResources:
                self._note(pick, monotonic() - began)
                raise
            else:
                if health is not None:
                    health.connected(endpoint)
                self.connect_seconds = monotonic() - began
                return upstream

    def _next(self, tried: tuple[Endpoint, ...]) -> Pick | None:
        """The next endpoint by the table of now; None if there is none."""
        names = self._home.proxy.table.passthrough
        cluster = None if names is None else names.cluster(self.server_name)
        if cluster is None:
            return None
        self.service = cluster.name
        return cluster.balancer.pick(self, tried)

    def _note(self, pick: Pick, seconds: float) -> None:
        if self.tally is not None:
            self.tally.failed += 1
            self.tally = None
        self.attempts = (*self.attempts, Attempt(pick.endpoint.address, seconds))

    # --- the client: asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sock = None
        self._transport = cast("asyncio.Transport", transport)
        sockets.keep_alive(self._transport, self._home.client_timeout, _PROBE_SECONDS)
        upstream = self._upstream
        if upstream is None:
            sockets.reset(self._transport)
        elif upstream.state is State.CLOSED:
            self.upstream_lost()
        else:
            upstream.switch(self)

    def data_received(self, data: bytes) -> None:
        self.bytes_up += len(data)
        if self._upstream is not None:
            self._upstream.send_body(data)
        if len(data) > MUCH:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """Others come first."""
        transport = self._transport
        if transport is not None and not (self._turn_comes or transport.is_closing()):
            if not self._endpoint_slow:
                transport.pause_reading()
            self._turn_comes = True
            self._home.turns.wait(self._go_on)

    def _go_on(self) -> None:
        self._turn_comes = False
        if not self._endpoint_slow:
            self._read_client()

    def _read_client(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        self._client_ended = True
        if self._upstream is not None:
            self._upstream.end_sending()
        return not self._endpoint_ended

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            if exc is None or self._client_ended:
                upstream.close()
            else:
                sockets.reset(upstream.transport)
        self._finish(Outcome.PASSED if exc is None or self._client_ended else Outcome.CLIENT_GONE)

    # --- the endpoint: upstream.connection.UpstreamTunnel ---

    def from_upstream(self, data: bytes) -> None:
        self.bytes_down += len(data)
        assert self._transport is not None
        self._transport.write(data)

    def upstream_ended(self) -> bool:
        self._endpoint_ended = True
        assert self._transport is not None
        if self._client_ended:
            self._transport.close()  # once all is out; then connection_lost closes the other one
        elif not self._transport.is_closing():
            self._transport.write_eof()
        return True

    def upstream_lost(self) -> None:
        if self._upstream is None:
            return  # by us
        self._upstream = None
        if self._endpoint_ended:
            self._let_finish()
        else:
            self._end(Outcome.UPSTREAM_CLOSED)

    def failed(self, error: Exception) -> None:
        if self._upstream is not None:
            self._upstream = None
            self._end(outcome_of(error, head_sent=True))

    def pause_client(self) -> None:
        self._endpoint_slow = True
        transport = self._transport
        if transport is not None and not (self._turn_comes or transport.is_closing()):
            transport.pause_reading()

    def resume_client(self) -> None:
        self._endpoint_slow = False
        if not self._turn_comes:
            self._read_client()

    # --- the end ---

    def shed(self) -> bool:
        """Close if the endpoint has ended and the client has taken all; returns whether."""
        transport = self._transport
        idle = self._endpoint_ended and transport is not None and not transport.is_closing()
        if transport is not None and idle and not transport.get_write_buffer_size():
            transport.close()
            return True
        return False

    def cut(self) -> None:
        """End it now, wherever it is."""
        if self._opening is not None:
            self._opening.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            sockets.reset(upstream.transport)
        self._end(Outcome.PASSED)

    def _let_finish(self) -> None:
        """The client gets what is left for it, if it takes it, although its endpoint is gone. No
        sweep looks after it any more, but the kernel does."""
        assert self._transport is not None
        sockets.limit_silence(self._transport, self._home.client_timeout)
        self._transport.close()

    def _end(self, outcome: Outcome) -> None:
        """Reset the client: it must see that something is missing."""
        if self._transport is not None:
            self._finish(outcome)
            sockets.reset(self._transport)

    def _finish(self, outcome: Outcome) -> None:
        """Every connection ends here; what comes first counts."""
        if self.outcome is None:
            self.outcome = outcome
            self._home.ended(self)
