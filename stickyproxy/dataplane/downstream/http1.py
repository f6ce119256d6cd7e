"""DATA PLANE: connections of HTTP/1.1 from clients, terminated by aiohttp.

``ClientConnection`` is aiohttp's ``RequestHandler``. What is ours is the way a connection's
requests are served: aiohttp's own loop makes a task, a ``BaseRequest`` and a ``StreamWriter`` for
each, which cost more than everything else the proxy does (see ARCHITECTURE.md, "why the loop is
ours").

A client may keep sending while its request is being served. What arrives waits as raw bytes, and
when there is enough of it the client is not read for a while. It waits for its turn
(``dataplane.turns``): no connection is handled for more than one request, or one turn's worth of
chunks, before the others.
"""

from __future__ import annotations

import asyncio
import ssl
from enum import Enum
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from stickyproxy.base import sockets
from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane.downstream.ahead import ReadAhead
from stickyproxy.dataplane.downstream.body import ENOUGH, RequestBody
from stickyproxy.dataplane.downstream.certificates import share_turns
from stickyproxy.dataplane.downstream.context import LINGER_SECONDS, Context
from stickyproxy.dataplane.downstream.heads import (
    HeadReader,
)
from stickyproxy.dataplane.downstream.ports import ClientTunnel, Serve, StreamHandler
from stickyproxy.dataplane.downstream.proxy_protocol import Ends
from stickyproxy.dataplane.downstream.stream import Http1Stream
from stickyproxy.model.tls import ClientAuth
from stickyproxy.semantics.client_certificates import certificate_lines
from stickyproxy.semantics.request import Peer

_TLS_BUFFER = 1 << 16
LINGER_BYTES = 1 << 20
"""How much of an unwanted request body is read to keep its connection usable."""


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
        "_ahead",
        "_arrival",
        "_body",
        "_body_paused",
        "_context",
        "_discarding",
        "_handler",
        "_heads",
        "_idle_sweeps",
        "_phase",
        "_serve",
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

    def __init__(
        self,
        server: web.Server,
        context: Context,
        serve: Serve,
        ends: Ends | None = None,
        client_auth: ClientAuth | None = None,
    ) -> None:
        """``serve`` makes the handlers of its requests. ``ends``: between whom the connection is,
        if the socket does not know; ``client_auth``: how the client was asked for a
        certificate."""
        super().__init__(server, loop=context.loop, **context.parser_options)
        parser = self._parser
        assert parser is not None
        self.loop = context.loop
        self._server = server
        self._context = context
        self._serve = serve
        self._arrival = ends, client_auth
        self._heads: HeadReader | None = HeadReader(
            parser, lambda: context.parser(self), context.limits
        )
        self._phase = _HEAD
        self._ahead = ReadAhead()
        self._turn_comes = False
        """``_go_on`` will be called at our turn."""
        self._handler: StreamHandler | None = None
        """Handles the current request. It holds the stream, which must not hold it: a cycle for
        every request would be work for the garbage collector."""
        self._body: RequestBody | None = None
        """Its body, if it has one."""
        self._body_paused = False
        """The endpoint does not keep up with the body."""
        self._discarding = 0
        """Bytes that may still be read of an unwanted body; 0: it is wanted."""
        self._tunnel: ClientTunnel | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Ends the reading of an unwanted body, or after our end."""
        self._idle_sweeps = 0
        """Sweeps since the connection fell idle, a head was begun or the client took something."""
        self._waited = context.first_sweeps
        """Sweeps that it may be idle."""
        self._unsent = 0
        """Bytes that the client had not taken by the last sweep."""
        self.draining = context.draining

    def __repr__(self) -> str:
        return f"<ClientConnection {self._phase.value} idle_sweeps={self._idle_sweeps}>"

    # --- asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Without the task and the timer that aiohttp's makes for each connection."""
        known, client_auth = self._arrival
        address, local, port = known or _ends_of(transport)
        secure = transport.get_extra_info("sslcontext") is not None
        self.peer = Peer(
            address,
            local,
            port,
            secure=secure,
            trusted_proxies=self._context.trusted_proxies,
            client_auth=client_auth,
            certificate=b"" if client_auth is None else _certificate_lines(transport),
        )
        super(RequestHandler, self).connection_made(transport)
        self._ahead.transport = self.transport
        if secure:
            _limit_buffers(transport)
            share_turns(
                transport.get_extra_info("ssl_object"),
                cast("asyncio.Transport", transport),
                self._context.turns,
            )
        self._server.connection_made(self, cast("asyncio.Transport", transport))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._phase = _ENDING
        if self._timer is not None:
            self._timer.cancel()
        self._heads = None  # it knows how to make us another parser
        self._body = None  # it knows the handler
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
                self._ahead.hold(data)
            else:
                self._take_head(data, 0)
        elif phase is _BODY:
            self._take_body(data)
        elif phase is _RESPONSE:
            self._ahead.hold(data)
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
        elif self._phase is _HEAD and self._ahead.data:
            self._wait_for_turn()

    # --- reading requests ---

    def _take_head(self, data: bytes, at: int) -> None:
        """Read up to the end of a head; begin to serve the request once it is there."""
        heads = self._heads
        assert heads is not None
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
        self._waited = self._context.keepalive_sweeps
        handler = self._handler = self._serve(stream)
        if stream.body_length:
            self._phase = _BODY
            self._body = RequestBody(stream.body_length)
            self._body_paused = False  # an endpoint may answer before it has taken the last body
            if end < len(data):
                self._take_body(data[end:])
        else:
            self._phase = _RESPONSE
            if end < len(data):
                self._ahead.hold(data, end)
        handler.begin()

    def _take_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        if self._turn_comes or self._body_paused:
            self._ahead.hold(data)
        else:
            body.feed(data)
            self._after_body_read(body)

    def _after_body_read(self, body: RequestBody) -> None:
        """Act on what has been read."""
        if self._body is not body or self._phase is not _BODY:
            return  # the handler has ended the request
        if self._discarding:
            self._after_discarded(body)
        elif body.complete:
            self._phase = _RESPONSE
            if body.surplus:
                self._ahead.put_back(body.surplus)
        elif body.error is not None or body.kept > ENOUGH:
            self._ahead.pause()
        elif body.pending:
            self._wait_for_turn()

    # --- one turn of the loop after the other ---

    def _wait_for_turn(self) -> None:
        """Go on with what was read at our turn: other connections come first."""
        if not self._turn_comes:
            self._turn_comes = True
            self._context.turns.wait(self._go_on)

    def _go_on(self) -> None:
        self._turn_comes = False
        if self._phase is _HEAD:
            if not self.writing_paused:
                rest, at = self._ahead.take()
                if rest:
                    self._take_head(rest, at)
                if not (self._ahead.data or self._turn_comes):
                    self._ahead.read_on()
        elif self._phase is _BODY and not self._body_paused:
            self._go_on_with_body()

    def _go_on_with_body(self) -> None:
        body = self._body
        assert body is not None
        if body.pending:
            body.resume()
        else:
            rest, at = self._ahead.take()
            if rest:
                body.feed(rest[at:])
        self._after_body_read(body)
        waits = self._turn_comes or self._body_paused or body.error is not None
        if self._phase is _BODY and not waits and body.kept <= ENOUGH:
            if self._ahead.data:
                self._wait_for_turn()
            else:
                self._ahead.read_on()

    # --- the end of a request ---

    def served(self, data: bytes, *, keep: bool) -> None:
        """See ``stream.Carrier``."""
        if self.transport is not None:
            self.transport.write(data)
        self._handler = None
        if self._phase is _RESPONSE and keep:
            self._body = None
            ahead = self._ahead
            if ahead.data or ahead.paused or self.draining:
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
            if self._ahead.data:
                self._linger()
            else:
                self._close_transport()

    def _next_request(self) -> None:
        self._phase = _HEAD
        self._idle_sweeps = 0
        if self._ahead.data:
            if not self.writing_paused:  # else resume_writing sees to it
                self._wait_for_turn()
        elif self.draining and not self._context.patient:
            self._close_transport()
        elif self._ahead.paused:
            self._ahead.read_on()

    def _discard(self, body: RequestBody) -> None:
        """Read the rest of an unwanted body, if it is not too much."""
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
                self._ahead.put_back(body.surplus)
            self._body = None
            self._next_request()
        elif body.pending:
            self._wait_for_turn()

    def _refuse(self, error: BadRequest, stream: Http1Stream) -> None:
        """Respond to what could not be parsed: nothing after it can be."""
        self._phase = _ENDING
        self._heads = self._parser = None  # with all they hold of the head
        self._context.refuse(stream, error)
        self._linger()

    def _linger(self) -> None:
        """Send our end, and read on for a while: closing with bytes unread would reset the
        connection and take our last response with it."""
        self._phase = _ENDING
        self._ahead.take()
        self._body = None
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is None:
            return
        if self.peer.secure:
            # Its close_notify is our end, and what comes until the client's is dropped.
            self._close_transport()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._ahead.read_on()
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
        """Reset the connection: the client must see that its response is incomplete. Closing would
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
            if self._phase is _BODY and (self._ahead.paused or self._ahead.data):
                self._wait_for_turn()

    def keep_body(self) -> None:
        """See ``stream.Carrier``."""
        if self._body is not None:
            self._body.keep()

    def pause_body(self) -> None:
        """See ``stream.Carrier``."""
        self._body_paused = True
        self._ahead.pause()

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
        rest, at = self._ahead.take()
        self._ahead.read_on()
        if rest:
            tunnel.from_client(rest[at:])

    def pause_client(self) -> None:
        """See ``stream.Carrier``."""
        self._ahead.pause()

    def resume_client(self) -> None:
        """See ``stream.Carrier``."""
        self._ahead.read_on()

    def close_tunnel(self) -> None:
        """See ``stream.Carrier``."""
        self._tunnel = self._handler = None
        self._close_transport()

    # --- the sweep ---

    def sweep(self) -> None:
        """Count one sweep, and close what has taken too long. Bodies and responses under way are
        watched on the upstream side."""
        context = self._context
        self._idle_sweeps += 1
        if self._phase is _ENDING or (self.writing_paused and self._handler is None):
            self._sweep_unsent()
        elif self._phase is _HEAD and not self._ahead.data:
            if self._heads is not None and self._heads.size:
                if self._idle_sweeps > min(context.head_sweeps, self._waited):
                    timeout = context.limits.head_timeout
                    error = BadRequest(408, f"the request head took longer than {timeout:g} s")
                    self._refuse(error, Http1Stream.unparsed(self))
            elif self._idle_sweeps > self._waited:
                self._close_transport()

    def _sweep_unsent(self) -> None:
        """The client does not take what it was sent: it may be slow, but must take something."""
        unsent = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if self.peer.secure and self._phase is _ENDING and self.transport is not None:
            # TLS ends when the client says so, too. Some never do.
            unsent += sockets.undelivered(self.transport)
            if not unsent and self._idle_sweeps > self._context.linger_sweeps:
                self.transport.abort()
                return
        if unsent != self._unsent:
            self._unsent = unsent
            self._idle_sweeps = 0
        elif self._idle_sweeps > self._context.client_sweeps:
            self.abort()

    def start_draining(self) -> None:
        """Close now if idle and nobody is patient, else after the request that is being served."""
        self.draining = True
        if self._phase is _HEAD and not (self._ahead.data or self._context.patient):
            self._close_transport()

    def shed(self) -> bool:
        """Close if no byte of a request is here; returns whether."""
        heads = self._heads
        idle = self._phase is _HEAD and heads is not None and not (self._ahead.data or heads.size)
        if idle:
            self._close_transport()
            if self.peer.secure and self.transport is not None:
                # Without waiting for the client, but after our close_notify, which goes out at the
                # end of this turn of the loop.
                self.loop.call_soon(self.loop.call_soon, self.transport.abort)
        return idle


def _ends_of(transport: asyncio.BaseTransport) -> tuple[str, str, int]:
    """As in ``Ends``."""
    peername = transport.get_extra_info("peername")
    if not isinstance(peername, tuple):
        return "", "", 0
    sockname = transport.get_extra_info("sockname")
    return peername[0], sockname[0], sockname[1]


def _limit_buffers(transport: Any) -> None:
    """In the clear a transport keeps 64 KiB; uvloop's TLS would keep 512 KiB beside it, and as much
    as 256 KiB that nobody wants to read yet."""
    transport.set_write_buffer_limits(high=_TLS_BUFFER)
    transport.set_read_buffer_limits(high=_TLS_BUFFER)


def _certificate_lines(transport: asyncio.BaseTransport) -> bytes:
    """About the client's certificate; empty if it has none."""
    connection: ssl.SSLObject = transport.get_extra_info("ssl_object")
    certificate = connection.getpeercert(binary_form=True)
    if certificate is None:
        return b""
    described: dict[str, Any] = connection.getpeercert() or {}
    return certificate_lines(certificate, described.get("subject", ()))
