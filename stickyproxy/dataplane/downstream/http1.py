"""DATA PLANE: connections of HTTP/1.1 from clients, terminated by aiohttp.

``ClientServer`` is aiohttp's low-level ``web.Server`` and ``ClientConnection`` its
``RequestHandler``. What is ours is the way a connection's requests are served: aiohttp's own loop
makes a task, a ``BaseRequest`` and a ``StreamWriter`` for each, which cost more than all else that
the proxy does (see ARCHITECTURE.md, "why the loop is ours").

A client may send on while its request is being answered. What comes waits as the bytes it is, and
when there is enough of it the client is not read for a while. Then its turn comes with another turn
of the loop: no connection is handled for more than one request, or one turn's worth of chunks,
before the others.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from enum import Enum
from typing import Any, cast

from aiohttp import web
from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import RequestHandler

from stickyproxy.base import sockets
from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane.downstream.body import ENOUGH, RequestBody
from stickyproxy.dataplane.downstream.heads import (
    TARGET_LIMIT_IS_LOWER_BY,
    HeadReader,
    Limits,
)
from stickyproxy.dataplane.downstream.ports import ClientTunnel, Refuse, Serve, StreamHandler
from stickyproxy.dataplane.downstream.stream import Http1Stream
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.request import Peer

LINGER_SECONDS = 2.0
"""How long a closing connection goes on reading what its client had already sent: closing a
socket with unread bytes resets it, and the client would lose our last response."""
LINGER_BYTES = 1 << 20
"""How much of an unwanted request body is read to keep its connection usable."""


AHEAD_BYTES = 16 * 1024
"""How much a client may send ahead before it is not read any more. As long as it is read, we see it
leave, and its request need not be answered."""


class ClientServer(web.Server):
    """Makes a ``ClientConnection`` for each accepted socket, counts their timeouts in sweeps, and
    drains them."""

    def __init__(
        self, serve: Serve, refuse: Refuse, limits: Limits, trusted_proxies: TrustedProxies
    ) -> None:
        super().__init__(serve)  # type: ignore[arg-type]  # we call it, not aiohttp
        self.serve = serve
        self.refuse = refuse
        self.limits = limits
        self.trusted_proxies = trusted_proxies
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.patient = False
        """While draining, an idle connection is left to its next request."""
        self._parser_options: dict[str, Any] = {
            "auto_decompress": False,
            "max_line_size": limits.max_head_line - TARGET_LIMIT_IS_LOWER_BY,
            "max_field_size": limits.max_head_line,
            "max_headers": limits.max_headers,
        }
        shortest = min(limits.head_timeout, limits.keepalive_timeout, limits.client_timeout)
        self._interval = max(0.02, min(1.0, shortest / 4))
        self.head_sweeps = self._sweeps(limits.head_timeout)
        self.client_sweeps = self._sweeps(limits.client_timeout)
        self.keepalive_sweeps = self._sweeps(limits.keepalive_timeout)
        self.first_sweeps = self._sweeps(min(2 * limits.head_timeout, limits.keepalive_timeout))
        """Until the first byte of the first request. A head that was begun in time is answered
        408 when its own time is up, which must be given the chance."""
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    def __call__(self) -> ClientConnection:
        return ClientConnection(self, self._parser_options)

    def parser(self, connection: ClientConnection) -> HttpRequestParser:
        """A parser that has seen nothing yet."""
        return HttpRequestParser(connection, self.loop, ENOUGH, **self._parser_options)

    def start(self) -> None:
        """Begin to sweep."""
        self._timer = self.loop.call_later(self._interval, self._sweep)

    def stop(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()

    def shed(self) -> int:
        """Close idle connections, for want of file descriptors; returns how many."""
        return sum(connection.shed() for connection in self._ours())

    async def drain(self, patience: float = 0.0) -> None:
        """Close idle connections now and busy ones when their request is answered; returns when
        none is left.

        A client may send its next request in the moment in which its connection is closed, and
        has to find out by itself that nobody read it. If there is somebody who accepts new
        connections, closing need not be sudden: for ``patience`` seconds idle connections stay
        open, and the response to the next request on each says that it is the last one.
        """
        self.draining = True
        self.patient = patience > 0
        for connection in self._ours():
            connection.start_draining()
        if self.patient:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._until_empty()
            self.patient = False
            for connection in self._ours():
                connection.start_draining()
        await self._until_empty()

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

    def _sweeps(self, seconds: float) -> int:
        return math.ceil(seconds / self._interval)

    def _sweep(self) -> None:
        for connection in self._ours():
            connection.sweep()
        self.start()


class Phase(Enum):
    """What a connection does with the bytes that it reads."""

    HEAD = "head"  # they are a request head, or the rest of one
    BODY = "body"
    RESPONSE = "response"  # the request is here, its response is not whole: they wait
    TUNNEL = "tunnel"
    ENDING = "ending"  # they are dropped


_HEAD, _BODY, _RESPONSE, _TUNNEL, _ENDING = Phase


class ClientConnection(RequestHandler):
    """One client connection: serves its requests one after the other."""

    __slots__ = (
        "_at",
        "_body",
        "_body_paused",
        "_discarding",
        "_handler",
        "_heads",
        "_held",
        "_idle_sweeps",
        "_phase",
        "_rest",
        "_server",
        "_timer",
        "_tunnel",
        "_turn_comes",
        "_unsent",
        "_waited",
        "draining",
        "loop",
        "peer",
    )

    def __init__(self, server: ClientServer, parser_options: dict[str, Any]) -> None:
        super().__init__(server, loop=server.loop, **parser_options)
        parser = self._parser
        assert parser is not None
        self.loop = server.loop
        self._server = server
        self._heads = HeadReader(parser, lambda: server.parser(self), server.limits)
        self._phase = _HEAD
        self._rest = b""
        """What was read beyond what could be taken, from index ``_at`` on."""
        self._at = 0
        self._held = False
        """The client is not read: there is enough to do."""
        self._turn_comes = False
        """``_go_on`` will be called in the next turn of the loop."""
        self._handler: StreamHandler | None = None
        """Who answers the request at hand. It holds the stream, which must not hold it: a cycle for
        every request would be work for the garbage collector."""
        self._body: RequestBody | None = None
        """Its body, if it has one."""
        self._body_paused = False
        """The endpoint does not keep up with it."""
        self._discarding = 0
        """Bytes that may still be read of a body that nobody wants; 0: it is wanted."""
        self._tunnel: ClientTunnel | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Ends the reading of what nobody wants."""
        self._idle_sweeps = 0
        """Sweeps since the connection fell idle, a head was begun or the client took something."""
        self._waited = server.first_sweeps
        """Sweeps that it may be idle."""
        self._unsent = 0
        """Bytes that the client had not taken at the last sweep."""
        self.draining = server.draining

    def __repr__(self) -> str:
        return f"<ClientConnection {self._phase.value} idle_sweeps={self._idle_sweeps}>"

    # --- asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Without the task and the timer that aiohttp's makes for each connection."""
        peername = transport.get_extra_info("peername")
        sockname = transport.get_extra_info("sockname")
        tcp = isinstance(peername, tuple)
        self.peer = Peer(
            peername[0] if tcp else "",
            sockname[0] if tcp else "",
            sockname[1] if tcp else 0,
            secure=transport.get_extra_info("sslcontext") is not None,
            trusted_proxies=self._server.trusted_proxies,
        )
        super(RequestHandler, self).connection_made(transport)
        self._server.connection_made(self, cast("asyncio.Transport", transport))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._phase = _ENDING
        if self._timer is not None:
            self._timer.cancel()
        handler, self._handler = self._handler, None
        tunnel, self._tunnel = self._tunnel, None
        super().connection_lost(exc)
        if tunnel is not None:
            tunnel.client_lost()
        elif handler is not None:
            handler.client_lost()

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is _HEAD:
            if self._turn_comes or self._paused:
                self._hold(data)
            else:
                self._take_head(data, 0)
        elif phase is _BODY:
            self._take_body(data)
        elif phase is _RESPONSE:
            self._hold(data)
        elif self._tunnel is not None:
            self._tunnel.from_client(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._idle_sweeps = 0
        if self._handler is not None:
            self._handler.client_slow()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._handler is not None:
            self._handler.client_ready()
        elif self._phase is _HEAD and self._rest:
            self._wait_for_turn()

    # --- reading requests ---

    def _take_head(self, data: bytes, at: int) -> None:
        """Read up to the end of a head; begin to answer if that is there."""
        heads = self._heads
        if not heads.size:
            self._idle_sweeps = 0
        try:
            head = heads.read(data, at)
        except BadRequest as error:
            self._refuse(error, Http1Stream.unparsed(self))
            return
        if head is None:
            return
        message, has_body, end = head
        stream = Http1Stream(self, message, has_body=has_body)
        if not stream.http11:
            try:
                stream.check_version()
            except BadRequest as error:
                self._refuse(error, stream)
                return
        self._waited = self._server.keepalive_sweeps
        handler = self._handler = self._server.serve(stream)
        if stream.body_length:
            self._phase = _BODY
            self._body = RequestBody(stream.body_length)
            if end < len(data):
                self._take_body(data[end:])
        else:
            self._phase = _RESPONSE
            if end < len(data):
                self._hold(data, end)
        handler.begin()

    def _take_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        if self._turn_comes or self._body_paused:
            self._hold(data)
        else:
            body.feed(data)
            self._after_body_read(body)

    def _after_body_read(self, body: RequestBody) -> None:
        """Look at what reading has come to."""
        if self._body is not body or self._phase is not _BODY:
            return  # the handler has ended the request
        if self._discarding:
            self._after_discarded(body)
        elif body.complete:
            self._phase = _RESPONSE
            if body.surplus:
                self._put_back(body.surplus)
        elif body.error is not None or body.kept > ENOUGH:
            self._pause_client()
        elif body.pending:
            self._wait_for_turn()

    # --- one turn of the loop after the other ---

    def _hold(self, data: bytes, at: int = 0) -> None:
        """Keep what cannot be taken now."""
        if self._rest:
            data, at = self._rest[self._at :] + data[at:], 0
        self._rest, self._at = data, at
        if len(data) - at > AHEAD_BYTES:
            self._pause_client()

    def _put_back(self, data: bytes) -> None:
        """Keep what came before all that is kept."""
        self._rest, self._at = data + self._rest[self._at :], 0

    def _pause_client(self) -> None:
        """Read no more for now."""
        if not self._held and self.transport is not None and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if self._held and self.transport is not None and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def _wait_for_turn(self) -> None:
        """Go on with what was read in the next turn of the loop: others come first."""
        if not self._turn_comes:
            self._turn_comes = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn_comes = False
        if self._phase is _HEAD:
            if not self.writing_paused:
                rest, at = self._take_rest()
                if rest:
                    self._take_head(rest, at)
                if not (self._rest or self._turn_comes):
                    self._read_on()
        elif self._phase is _BODY and not self._body_paused:
            self._go_on_with_body()

    def _go_on_with_body(self) -> None:
        body = self._body
        assert body is not None
        if body.pending:
            body.resume()
        else:
            rest, at = self._take_rest()
            if rest:
                body.feed(rest[at:])
        self._after_body_read(body)
        waits = self._turn_comes or self._body_paused or body.error is not None
        if self._phase is _BODY and not waits and body.kept <= ENOUGH:
            if self._rest:
                self._wait_for_turn()
            else:
                self._read_on()

    def _take_rest(self) -> tuple[bytes, int]:
        rest, at = self._rest, self._at
        self._rest, self._at = b"", 0
        return rest, at

    # --- the end of a request ---

    def served(self, data: bytes, *, keep: bool) -> None:
        """See ``stream.Carrier``."""
        if self.transport is not None:
            self.transport.write(data)
        self._handler = None
        if self._phase is _RESPONSE and keep:
            self._body = None
            if self._rest or self._held or self.draining:
                self._next_request()
            else:
                self._phase = _HEAD
                self._idle_sweeps = 0
        elif self._phase is _BODY and self._body is not None:
            if keep and self._body.error is None:
                self._discard(self._body)
            else:
                self._linger()
        elif self._phase is not _ENDING:
            if self._rest:
                self._linger()
            else:
                self._close_transport()

    def _next_request(self) -> None:
        self._phase = _HEAD
        self._idle_sweeps = 0
        if self._rest:
            if not self.writing_paused:  # else resume_writing sees to it
                self._wait_for_turn()
        elif self.draining and not self._server.patient:
            self._close_transport()
        elif self._held:
            self._read_on()

    def _discard(self, body: RequestBody) -> None:
        """Read the rest of a body that nobody wants, if it is not too much."""
        body.discard()
        self._body_paused = False
        self._discarding = LINGER_BYTES
        self._timer = self.loop.call_later(LINGER_SECONDS, self._linger)
        self._wait_for_turn()

    def _after_discarded(self, body: RequestBody) -> None:
        self._discarding -= body.kept
        body.discard()
        if body.error is not None or self._discarding <= 0:
            self._linger()
        elif body.complete:
            self._discarding = 0
            if self._timer is not None:
                self._timer.cancel()
            if body.surplus:
                self._put_back(body.surplus)
            self._body = None
            self._next_request()
        elif body.pending:
            self._wait_for_turn()

    def _refuse(self, error: BadRequest, stream: Http1Stream) -> None:
        """Answer what could not be parsed: nothing that follows can be."""
        self._phase = _ENDING
        self._server.refuse(stream, error)
        self._linger()

    def _linger(self) -> None:
        """Send our end, and read on for a while: closing with bytes unread would reset the
        connection and take our last response with it."""
        self._phase = _ENDING
        self._rest, self._body = b"", None
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is not None:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._read_on()
            self._timer = self.loop.call_later(LINGER_SECONDS, self._close_transport)

    def _close_transport(self) -> None:
        self._phase = _ENDING
        self._idle_sweeps = 0
        if self.transport is not None:
            self.transport.close()

    # --- for the stream ---

    def write(self, data: bytes) -> None:
        """Send to the client; a client that is gone is told nothing."""
        if self.transport is not None:
            self.transport.write(data)

    def cut(self) -> None:
        """See ``stream.Carrier``."""
        self._handler = None
        self.abort()

    def abort(self) -> None:
        """Reset the connection: the client must see that its response is not whole. Closing would
        look like the proper end of one that has no length."""
        if self.transport is not None:
            sockets.reset(self.transport)

    def body_at_hand(self) -> bytes | None:
        """See ``stream.Carrier``."""
        return b"" if self._body is None else self._body.whole()

    def start_body(self) -> None:
        """See ``stream.Carrier``."""
        body, handler = self._body, self._handler
        if body is not None and handler is not None:
            body.start(handler)
            if self._phase is _BODY and (self._held or self._rest):
                self._wait_for_turn()

    def pause_body(self) -> None:
        """See ``stream.Carrier``."""
        self._body_paused = True
        self._pause_client()

    def resume_body(self) -> None:
        """See ``stream.Carrier``."""
        if self._body_paused:
            self._body_paused = False
            if self._phase is _BODY:
                self._wait_for_turn()

    def switch(self, tunnel: ClientTunnel) -> None:
        """See ``stream.Carrier``."""
        self._phase = _TUNNEL
        self._tunnel = tunnel
        rest, at = self._take_rest()
        self._read_on()
        if rest:
            tunnel.from_client(rest[at:])

    def pause_client(self) -> None:
        """See ``stream.Carrier``."""
        self._pause_client()

    def resume_client(self) -> None:
        """See ``stream.Carrier``."""
        self._read_on()

    def close_tunnel(self) -> None:
        """See ``stream.Carrier``."""
        self._tunnel = self._handler = None
        self._close_transport()

    # --- the sweep ---

    def sweep(self) -> None:
        """Count one sweep, and end what has taken too long. Bodies and responses under way are
        watched at the other end."""
        server = self._server
        self._idle_sweeps += 1
        if self._phase is _ENDING or (self.writing_paused and self._handler is None):
            self._sweep_unsent()
        elif self._phase is _HEAD and not self._rest:
            if self._heads.size:
                if self._idle_sweeps > min(server.head_sweeps, self._waited):
                    timeout = server.limits.head_timeout
                    error = BadRequest(408, f"the request head took longer than {timeout:g} s")
                    self._refuse(error, Http1Stream.unparsed(self))
            elif self._idle_sweeps > self._waited:
                self._close_transport()

    def _sweep_unsent(self) -> None:
        """The client does not take what it was sent: it may be slow, but must take something."""
        unsent = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent = unsent
            self._idle_sweeps = 0
        elif self._idle_sweeps > self._server.client_sweeps:
            self.abort()

    def start_draining(self) -> None:
        """Close now if idle and nobody is patient, else after the request that is being served."""
        self.draining = True
        if self._phase is _HEAD and not self._rest and not self._server.patient:
            self._close_transport()

    def shed(self) -> bool:
        """Close if no byte of a request is here; returns whether."""
        idle = self._phase is _HEAD and not (self._rest or self._heads.size)
        if idle:
            self._close_transport()
        return idle
