"""DATA PLANE: connections from clients, terminated by aiohttp.

``ClientServer`` is aiohttp's low-level ``web.Server`` and ``ClientConnection`` its
``RequestHandler``: they parse requests, buffer bodies under back-pressure and queue pipelined
requests. What is ours is the loop that serves a connection's requests: aiohttp's own one makes a
task, a ``BaseRequest`` and a ``StreamWriter`` per request, which cost more than everything else
the proxy does (see ARCHITECTURE.md, "why the loop is ours").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from stickyproxy.base import sockets
from stickyproxy.base.errors import BadRequest
from stickyproxy.semantics.request import Peer

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.http_websocket import WebSocketReader
    from aiohttp.streams import StreamReader

    from stickyproxy.dataplane.tunnel import UpgradeTunnel
    from stickyproxy.dataplane.upstream.connection import UpstreamConnection
    from stickyproxy.semantics.forwarded import TrustedProxies

LINGER_SECONDS = 2.0
"""How long a closing connection goes on reading what its client had already sent: closing a
socket with unread bytes resets it, and the client would lose our last answer."""
LINGER_BYTES = 1 << 20
"""How much of an unwanted request body is read to keep its connection usable."""

# aiohttp says of a line that is too long only which limit it passed. With limits that differ, that
# tells a request target (414) from a header field (431).
_TARGET_LIMIT_IS_LOWER_BY = 1

Message = tuple["RawRequestMessage | _ErrInfo", "StreamReader"]
"""What aiohttp queues: a request and its body."""


class Limits:
    """What a client may take: bytes of a request line or field, number of fields, seconds."""

    __slots__ = (
        "client_timeout",
        "head_timeout",
        "keepalive_timeout",
        "max_head_line",
        "max_headers",
    )

    def __init__(
        self,
        *,
        max_head_line: int,
        max_headers: int,
        head_timeout: float,
        keepalive_timeout: float,
        client_timeout: float,
    ) -> None:
        self.max_head_line = max_head_line
        self.max_headers = max_headers
        self.head_timeout = head_timeout
        self.keepalive_timeout = keepalive_timeout
        self.client_timeout = client_timeout


class Exchange(Protocol):
    """One request being answered."""

    def begin(self) -> bool:
        """Answer it from callbacks alone, if that can be done. Then either ``served`` or
        ``needs_task`` of the connection is called in the end, unless ``client_lost`` is called
        before. Otherwise nothing has been done that ``run`` would do again."""

    async def run(self) -> bool:
        """Answer it, or go on with it. Returns whether the connection may serve another."""

    def client_lost(self) -> None:
        """The client is gone, and nobody runs this."""


Serve = Callable[["ClientConnection", "RawRequestMessage", "StreamReader"], Exchange]
"""Begins to answer one request."""
Refuse = Callable[["ClientConnection", BadRequest], None]
"""Answers what could not even be parsed. The connection closes after."""


class ClientServer(web.Server):
    """Makes a ``ClientConnection`` for each accepted socket, and drains them."""

    def __init__(
        self, serve: Serve, refuse: Refuse, limits: Limits, trusted_proxies: TrustedProxies
    ) -> None:
        super().__init__(
            serve,  # type: ignore[arg-type]  # our loop calls it, not aiohttp's
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            # Until the first request; then see _rearm_keepalive. A head that was begun in time is
            # answered 408 by its own timer, which must be given the chance.
            keepalive_timeout=min(2 * limits.head_timeout, limits.keepalive_timeout),
            max_line_size=limits.max_head_line - _TARGET_LIMIT_IS_LOWER_BY,
            max_field_size=limits.max_head_line,
            max_headers=limits.max_headers,
        )
        self.serve = serve
        self.refuse = refuse
        self.limits = limits
        self.trusted_proxies = trusted_proxies
        self.draining = False
        self._empty = asyncio.Event()

    def __call__(self) -> ClientConnection:
        return ClientConnection(self, loop=self._loop, **self._kwargs)

    async def drain(self) -> None:
        """Close idle connections now and busy ones when their request is answered; returns when
        none is left."""
        self.draining = True
        for connection in self.connections:
            cast("ClientConnection", connection).start_draining()
        while self.connections:
            self._empty.clear()
            await self._empty.wait()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        task = handler._task_handler
        super().connection_lost(handler, exc)
        # aiohttp forgets a connection when its task is done: look after that.
        if task is not None:
            task.add_done_callback(lambda _: self._empty.set())
        else:
            self._empty.set()

    def abort(self) -> None:
        """Cut every connection now."""
        for connection in self.connections:
            cast("ClientConnection", connection).abort()


class ClientConnection(RequestHandler):
    """One client connection: serves its requests one after the other. A request that comes while
    nothing is going on is begun in its callback; the connection's task is only woken when that
    is not enough."""

    __slots__ = (
        "_exchange",
        "_head_timer",
        "_keep",
        "_parked",
        "_payload",
        "_server",
        "draining",
        "loop",
        "peer",
        "source",
    )

    def __init__(self, server: ClientServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self.loop = self._loop
        self._server = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None
        """A request that is being answered without the task, or waits for it."""
        self._parked: asyncio.Future[None] | None = None
        """What the task waits for meanwhile. ``_waiter`` is None then: aiohttp would wake it."""
        self._keep = True
        """Whether the connection may serve another request."""
        self._payload: StreamReader | None = None
        """Body of the request that is being served."""
        self.source: UpstreamConnection | None = None
        """Where the answer comes from that is being written."""
        self.draining = server.draining

    # --- for the forward path ---

    def write(self, data: bytes) -> None:
        """Send to the client; a client that is gone is told nothing."""
        if self.transport is not None:
            self.transport.write(data)

    def abort(self) -> None:
        """Reset the connection: the client must see that its answer is not whole. Closing would
        look like the proper end of an answer that has no length."""
        if self.transport is not None:
            sockets.reset(self.transport)

    def source_ended(self) -> None:
        """The answer's upstream connection is free: our slow client must not hold it back."""
        if self._paused and self.source is not None:
            self.source.resume_reading()
        self.source = None

    def tunnel_into(self, tunnel: UpgradeTunnel) -> None:
        """Feed the tunnel all that the client sends from now on, and what it sent ahead."""
        self._upgraded = True
        self.set_parser(cast("WebSocketReader", tunnel))

    def pause_client(self) -> None:
        """The endpoint of a tunnel cannot keep up."""
        self._pause_transport_reading()

    def resume_client(self) -> None:
        """It can again."""
        self._resume_transport_reading()

    # --- asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
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
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        parser = self._parser
        if waiter is None or waiter.done() or parser is None:
            self._receive_more(data)
            return
        try:
            messages, upgraded, tail = parser.feed_data(data)
        except HttpProcessingError as error:
            malformed = _ErrInfo(status=400, exc=error, message=error.message)
            messages, upgraded, tail = [(malformed, EMPTY_PAYLOAD)], False, b""
        if messages:
            self._waiter, self._parked = None, waiter
            if len(messages) > 1 or upgraded or not self._begin(*messages[0]):
                self._queue(messages, upgraded, tail)
                self.needs_task()
        elif data and self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self._server.limits.head_timeout, self._head_timed_out
            )

    def _queue(self, messages: Sequence[Message], upgraded: bool, tail: bytes) -> None:
        """As aiohttp's ``data_received`` does with what it has parsed."""
        self._messages.extend(messages)
        self._upgraded = upgraded
        if upgraded:
            self._message_tail = tail
        if not self._buffer_paused and len(self._messages) >= self._max_msg_queue_size:
            self._pause_reading_for_buffer()

    def _receive_more(self, data: bytes) -> None:
        """What comes while a request is being answered."""
        super().data_received(data)
        if self._messages:
            payload = self._payload
            if (
                payload is not None
                and not payload.is_eof()
                and isinstance(self._messages[-1][0], _ErrInfo)
            ):
                # The body that is being forwarded turned out malformed. aiohttp tells the next
                # request's handler, but not whoever reads this body.
                payload.set_exception(_bad_request(self._messages[-1][0], self._server.limits))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.source is not None:
            self.source.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.source is not None:
            self.source.resume_reading()

    # --- serving ---

    def _begin(self, message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> bool:
        """Answer the only request there is without the task, if that can be done, and wake the
        task for it otherwise. Returns False if it has to be queued."""
        if self._paused or isinstance(message, _ErrInfo):
            return False
        if self._parser is not None:
            self._parser.message_consumed()
        exchange = self._exchange = self._serve(message, payload)
        if not exchange.begin():
            self.needs_task()
        return True

    def _serve(self, message: RawRequestMessage, payload: StreamReader) -> Exchange:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._payload = payload
        return self._server.serve(self, message, payload)

    def served(self, *, keep: bool) -> None:
        """The request that was begun without the task is answered."""
        self._exchange = None
        if keep and not (self._messages or self._paused or self.draining):
            self._waiter, self._parked = self._parked, None
            self._rearm_keepalive()
        else:
            self._keep = keep
            self.needs_task()

    def needs_task(self) -> None:
        """Wake the task for what callbacks cannot do."""
        parked, self._parked = self._parked, None
        if parked is not None and not parked.done():
            parked.set_result(None)

    async def start(self) -> None:
        """Serve requests until the connection ends. aiohttp runs this as the connection's task
        and cancels it when the client goes away."""
        while True:
            if self._paused:
                await self._drain()
            if not self._keep:
                break
            exchange, self._exchange = self._exchange, None
            if exchange is None:
                if not self._messages:
                    if self.draining:
                        break
                    await self._park()
                    continue
                message, payload = self._messages[0]
                if isinstance(message, _ErrInfo):
                    await self._refuse(message)
                    break
                self._messages.popleft()
                self._free_queue_slot()
                exchange = self._serve(message, payload)
            self._keep = await exchange.run()
            body, self._payload = self._payload, None
            if body is not None and body is not EMPTY_PAYLOAD and not body.is_eof():
                self._keep = await self._discard(body) and self._keep
            self._rearm_keepalive()
        if self.transport is not None:
            self.transport.close()

    async def _park(self) -> None:
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def start_draining(self) -> None:
        """Close now if idle, else after the request that is being served."""
        self.draining = True
        if self._waiter is not None and not self._messages and self.transport is not None:
            self.transport.close()

    def _free_queue_slot(self) -> None:
        """As aiohttp's own loop does: the parser stops at a full queue of pipelined requests."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    def _rearm_keepalive(self) -> None:
        """As aiohttp's own loop does: one timer per connection, moved only when it fires."""
        close_time = self.loop.time() + self._server.limits.keepalive_timeout
        self._next_keepalive_close_time = close_time
        if self._keepalive_handle is None:
            self._keepalive_handle = self.loop.call_at(close_time, self._process_keepalive)

    def _head_timed_out(self) -> None:
        self._head_timer = None
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            timeout = self._server.limits.head_timeout
            error = BadRequest(408, f"the request head took longer than {timeout:g} s")
            self._messages.append((_ErrInfo(408, error, error.message), EMPTY_PAYLOAD))
            waiter.set_result(None)

    async def _refuse(self, info: _ErrInfo) -> None:
        """Answer what aiohttp could not parse."""
        self._server.refuse(self, _bad_request(info, self._server.limits))
        await self._linger()

    async def _discard(self, payload: StreamReader) -> bool:
        """Read what is left of a body that nobody wants; False if it is too much."""
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0 and (data := await payload.readany()):
                    left -= len(data)
        except (TimeoutError, BadRequest):
            left = 0
        if left <= 0:
            await self._linger()
            return False
        return True

    async def _linger(self) -> None:
        """Send our end, and read on for a while: closing with bytes unread would reset the
        connection and take our last answer with it. The client's end cancels this task."""
        self._close = True  # data_received drops what comes
        if self.transport is not None:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._resume_transport_reading()
            await asyncio.sleep(LINGER_SECONDS)

    async def _drain(self) -> None:
        """Wait until the client took most of its answer, before the next one is made."""
        try:
            async with asyncio.timeout(self._server.limits.client_timeout):
                await self._drain_helper()
        except TimeoutError:
            self.abort()


def _bad_request(info: _ErrInfo, limits: Limits) -> BadRequest:
    """What the client is told about a request that aiohttp could not parse."""
    error = info.exc
    if isinstance(error, BadRequest):
        return error
    if isinstance(error, LineTooLong):
        if error.args[1] == limits.max_head_line:
            return BadRequest(431, f"a header field is longer than {limits.max_head_line} bytes")
        return BadRequest(414, f"the request target is longer than {error.args[1]} bytes")
    if info.message.startswith("Too many headers"):
        return BadRequest(431, f"more than {limits.max_headers} header fields")
    first_line = info.message.strip().partition("\n")[0].rstrip(":")
    return BadRequest(400, f"malformed request: {ascii(first_line)[1:-1]}")
