"""DATA PLANE: handle one request.

``Exchange`` is the walk of a request: find its route, let the balancer pick an endpoint, forward,
and try another endpoint where that is safe. Most requests need nothing but an idle connection
that is there: ``begin`` sends them off in the very callback that brought them, and the answer
goes to the client in the callback that brings it, without a task or a future. All others, and
those whose first attempt failed, go on in ``run``.

When is a request sent a second time?

- No connection could be made: always. The endpoint has seen nothing of it.
- The connection ended before a byte of the answer, the method is idempotent (RFC 9110 section
  9.2.2) and no part of the body was taken from the client: yes. If the connection had been kept
  alive the endpoint most likely closed it while idle, so the same endpoint is asked again on a
  new connection, which keeps the session where it is. If it was new the endpoint is ending, and
  another one is asked, but only once: a request that kills whoever gets it must not kill all.
- Anything else (a POST on a connection that died, a timeout, half an answer): never. It may have
  been carried out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import TYPE_CHECKING, Protocol

from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestPayloadError

from stickyproxy.base.errors import (
    BadRequest,
    ClientStalled,
    ConnectError,
    OutOfResources,
    UpstreamClosed,
    UpstreamTimeout,
)
from stickyproxy.dataplane.relay import Attempt, Relay, upstream_lines
from stickyproxy.routing.table import RoutingTable
from stickyproxy.semantics.headers import printable
from stickyproxy.semantics.request import ClientRequest

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

    from stickyproxy.dataplane.access_log import AccessLog
    from stickyproxy.dataplane.downstream.http1 import ClientConnection
    from stickyproxy.dataplane.upstream.connection import Pool, UpstreamConnection
    from stickyproxy.routing.endpoint import Endpoint, Pick
    from stickyproxy.routing.table import Route

log = logging.getLogger("stickyproxy")
monotonic = time.monotonic

_REASONS = {
    302: b"Found",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


def _request_ids() -> Iterator[bytes]:
    """Random ids of 32 lower-case hex digits. Asking the kernel for many at once makes one cost
    a tenth."""
    while True:
        block = os.urandom(16 * 256).hex().encode()
        for start in range(0, len(block), 32):
            yield block[start : start + 32]


_next_request_id = _request_ids().__next__


class WatchesConnects(Protocol):
    """Is told how connecting to endpoints goes."""

    def connected(self, endpoint: Endpoint) -> None:
        """A new connection was made."""

    def failed(self, endpoint: Endpoint) -> None:
        """None could be made."""


class Proxy:
    """Answers requests by the table it holds. ``table`` may be replaced at any moment."""

    def __init__(
        self, *, info: bytes | None, retry_seconds: float, access_log: AccessLog | None
    ) -> None:
        """``info``: header lines that are the same in all answers (None: no info fields at all).
        ``retry_seconds``: a request older than this is not tried on another endpoint."""
        self.table = RoutingTable({})
        self.info = info
        self.retry_seconds = retry_seconds
        self.access_log = access_log
        self.health: WatchesConnects | None = None
        self._complained: dict[str, int] = {}

    def complain(self, service: str, error: Exception) -> None:
        """Log a failed request; at most one per service and second, for it may be all of them."""
        now = int(monotonic())
        if self._complained.get(service) != now:
            self._complained[service] = now
            log.warning("service %s: %s", service, error)

    def exchange(
        self, client: ClientConnection, message: RawRequestMessage, payload: StreamReader
    ) -> Exchange:
        """Begin to answer one request."""
        return Exchange(self, client, message, payload)

    def refuse(self, client: ClientConnection, error: BadRequest) -> None:
        """Answer what could not even be parsed."""
        exchange = Exchange(self, client, None, EMPTY_PAYLOAD)
        exchange.answer(error.status, error.message, close=True)
        if self.access_log is not None:
            self.access_log.write(exchange)


class Exchange:
    """One request being answered: what has been decided and tried so far. Implements
    ``http1.Exchange``."""

    __slots__ = (
        "_failure",
        "_payload",
        "_reused",
        "_tried",
        "_upstream",
        "_waiter",
        "attempts",
        "client",
        "id",
        "message",
        "pick",
        "proxy",
        "relay",
        "request",
        "sent",
        "service",
        "started",
        "status",
    )

    def __init__(
        self,
        proxy: Proxy,
        client: ClientConnection,
        message: RawRequestMessage | None,
        payload: StreamReader,
    ) -> None:
        """``message``: None if the request could not be parsed."""
        self.proxy = proxy
        self.client = client
        self.message = message
        self._payload = payload
        self.started = monotonic()
        self.id = _next_request_id()
        self.request: ClientRequest | None = None
        self.pick: Pick | None = None
        self.relay: Relay | None = None
        self._upstream: UpstreamConnection | None = None
        """Where the latest attempt went; None if no connection could be made."""
        self._reused = True
        """Whether that connection had been kept alive."""
        self._tried: tuple[Endpoint, ...] = ()
        """Endpoints that are not to be picked again."""
        self._waiter: asyncio.Future[Exception | None] | None = None
        """How ``run`` learns of the answer; None while no task waits for it."""
        self._failure: Exception | None = None
        """What came of the attempt that ``begin`` made."""
        self.attempts: list[Attempt] = []
        """Endpoints that were contacted in vain."""
        self.status = 0
        """Status of an answer of our own; 0 if an endpoint answered."""
        self.sent = 0
        """Body bytes of an answer of our own."""
        self.service = ""
        """The service asked for."""

    # --- without a task ---

    def begin(self) -> bool:
        """Send the request off, if the whole of it is here and so is an idle connection to the
        endpoint that the balancer picks; the client is told by ``served`` or ``needs_task``.
        Returns False if that is not so; then ``run`` goes on from here."""
        proxy = self.proxy
        message = self.message
        assert message is not None
        upstream: UpstreamConnection | None = None
        try:
            request = self.request = ClientRequest(
                self.client.peer, message, self._payload, self.id
            )
            if request.upgrade is not None or (body := request.body_at_hand()) is None:
                return False
            route = proxy.table.match(request.host, request.target)
            if route is None or (cluster := route.cluster) is None:
                return False
            pick = self.pick = cluster.balancer.pick(request, ())
            if pick is None:
                return False
            pool: Pool = pick.endpoint.pool  # type: ignore[assignment]
            upstream = pool.take(replayable=request.replayable)
            if upstream is None:
                return False
            self.service = cluster.name
            self.relay = Relay(self, request, pick, proxy.info)
            self._send(request, route, upstream, body)
        except Exception:  # run() will meet the same, and handle it
            self.relay = None
            if upstream is not None:
                upstream.abandon()
            return False
        self._upstream = upstream
        return True

    def answered(self, error: Exception | None) -> None:
        """See ``relay.AwaitsAnswer``."""
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(error)
        elif error is not None:
            self._failure = error
            self.client.needs_task()
        else:
            self._log()
            assert self.relay is not None
            self.client.served(keep=not self.relay.close_client)

    def client_lost(self) -> None:
        """The client is gone, and no task is at work: nobody needs the answer."""
        upstream = self._upstream
        if upstream is not None and upstream.receiver is self.relay:
            upstream.abandon()
        self._log()

    def _log(self) -> None:
        if self.proxy.access_log is not None:
            self.proxy.access_log.write(self)

    # --- in a task ---

    async def run(self) -> bool:
        """Answer the request, whatever happens. Returns whether the client connection may serve
        another."""
        try:
            request = self.request
            if request is None:
                message = self.message
                assert message is not None
                request = ClientRequest(self.client.peer, message, self._payload, self.id)
                self.request = request
            return await self._forward(request)
        except BadRequest as error:
            self.answer(error.status, error.message, close=True)
            return False
        except Exception:
            log.exception("answering a request failed: this is a bug in stickyproxy")
            self._break_off()
            return False
        finally:
            self._log()

    async def _forward(self, request: ClientRequest) -> bool:
        """Attempt until there is an answer; see the top of this file for when there is another
        attempt. Returns whether the client connection may serve another request. Raises
        BadRequest."""
        deaths = 0
        request.body_at_hand()  # raises what is wrong with it, before an endpoint hears of it
        error = self._failure
        if error is None:
            error = await self._attempt(request, None, fresh=False)
        while error is not None:
            pick, relay = self.pick, self.relay
            assert pick is not None
            assert relay is not None
            if relay.status:
                # The client has a part of the answer: it must see that the rest is missing.
                self.client.abort()
                return False
            self.attempts.append(Attempt(pick.endpoint.address, monotonic() - relay.started))
            deaths += self._upstream is not None and not self._reused
            if deaths > 1 or not self._may_go_on(request, error):
                self._answer_failure(error)
                break
            if not self._reused:
                self._tried = (*self._tried, pick.endpoint)
            # A connection that was kept alive too long: ask the same endpoint anew.
            error = await self._attempt(request, error, fresh=self._reused)
        if self.status:
            return request.keep_alive
        assert self.relay is not None
        return not self.relay.close_client

    def _may_go_on(self, request: ClientRequest, error: Exception) -> bool:
        """Whether the request may be sent again; the top of this file says why."""
        if monotonic() - self.started > self.proxy.retry_seconds:
            return False
        upstream = self._upstream
        if upstream is None:
            return isinstance(error, ConnectError)
        return isinstance(error, UpstreamClosed) and request.replayable and not upstream.answered

    async def _attempt(
        self, request: ClientRequest, last: Exception | None, *, fresh: bool
    ) -> Exception | None:
        """Route, pick and send, or answer what can go nowhere. ``last``: what went wrong before;
        ``fresh``: on a new connection. Returns what went wrong."""
        proxy = self.proxy
        # Read anew for every attempt: what was tried may be gone from the table by now.
        route = proxy.table.match(request.host, request.target)
        if route is None:
            self._answer_unknown(request)
            return None
        cluster = route.cluster
        if cluster is None:
            self._answer_redirect(request, route)
            return None
        self.service = cluster.name
        if self.pick is None or last is not None:  # else begin() has picked
            self.pick = cluster.balancer.pick(request, self._tried)
        pick = self.pick
        if pick is None:
            self._answer_nobody(last)
            return None
        endpoint = pick.endpoint
        pool: Pool = endpoint.pool  # type: ignore[assignment]
        self.relay = Relay(self, request, pick, proxy.info)
        upstream = None if fresh else pool.take(replayable=request.replayable)
        self._reused = upstream is not None
        self._upstream = upstream
        try:
            if upstream is None:
                upstream = self._upstream = await pool.connect()
                if proxy.health is not None:
                    proxy.health.connected(endpoint)
            return await self._exchange(request, route, upstream, self.relay)
        except ConnectError as refused:
            if proxy.health is not None:
                proxy.health.failed(endpoint)
            return refused
        except OutOfResources as ours:
            return ours

    async def _exchange(
        self, request: ClientRequest, route: Route, upstream: UpstreamConnection, relay: Relay
    ) -> Exception | None:
        """Send the request and wait for the end of the answer; returns what went wrong."""
        if request.upgrade is not None and not route.may_upgrade(request.target):
            request.upgrade = None
        waiter = self._waiter = self.client.loop.create_future()
        body = request.body_at_hand()
        try:
            self._send(request, route, upstream, body)
            if body is None:
                error = await self._with_body(request, upstream, relay, waiter)
            else:
                error = await waiter
            if relay.tunnel is not None:
                relay.tunnel.open()
                await relay.tunnel.closed
        finally:
            # Nothing to do after a whole answer: the connection is back in its pool by now.
            if upstream.receiver is relay:
                upstream.abandon()
            elif relay.tunnel is not None:
                upstream.transport.close()
        return error

    def _send(
        self,
        request: ClientRequest,
        route: Route,
        upstream: UpstreamConnection,
        body: bytes | None,
    ) -> None:
        """``body``: None if it follows."""
        relay, cluster = self.relay, route.cluster
        assert relay is not None
        assert cluster is not None
        target = route.rewritten(request.target) if route.rewrite else request.target
        head = request.upstream_head(target, cluster.balancer.strips)
        self.client.source = upstream
        upstream.send_head(head + body if body else head, relay, body_follows=body is None)

    async def _with_body(
        self,
        request: ClientRequest,
        upstream: UpstreamConnection,
        relay: Relay,
        waiter: asyncio.Future[Exception | None],
    ) -> Exception | None:
        sending = asyncio.create_task(_send_body(request, upstream, relay), name="request body")
        try:
            return await waiter
        finally:
            # An endpoint may answer before it has the whole body; it need not get the rest.
            sending.cancel()
            await asyncio.wait((sending,))

    # --- answers of our own ---

    def answer(
        self, status: int, text: str, *, close: bool = False, fields: tuple[bytes, ...] = ()
    ) -> None:
        """Send a plain text answer. ``fields``: further header lines."""
        self.status = status
        request = self.request
        close = close or request is None or not request.keep_alive or self.client.draining
        body = text.encode("ascii", "backslashreplace") + b"\n"
        head = [
            b"HTTP/1.1 %d %b" % (status, _REASONS[status]),
            b"Date: " + formatdate(usegmt=True).encode(),
            b"Content-Type: text/plain; charset=utf-8",
            b"Content-Length: %d" % len(body),
            b"X-Content-Type-Options: nosniff",
            *fields,
            b"Connection: close" if close else b"Connection: keep-alive",
        ]
        if self.proxy.info is not None:
            head += (b"x-request-id: " + (request.id if request else self.id), self.proxy.info)
            if self.attempts:
                head.append(upstream_lines(self.attempts))
        if request is not None and request.method == "HEAD":
            body = b""
        self.sent = len(body)
        self.client.write(b"\r\n".join((*head, b"", body)))

    def _break_off(self) -> None:
        """After a bug: 500 if nothing has been sent yet, else reset the connection."""
        if self.relay is not None and self.relay.status:
            self.client.abort()
        else:
            self.answer(500, "stickyproxy failed to answer this request", close=True)

    def _answer_unknown(self, request: ClientRequest) -> None:
        host = printable(request.host)
        path = printable(request.target.partition(b"?")[0])
        self.answer(404, f'no service is published for host "{host}" and path "{path}"')

    def _answer_redirect(self, request: ClientRequest, route: Route) -> None:
        target = b"/" if request.target == b"*" else request.target
        location = (route.redirect or b"") + target
        self.answer(
            302,
            f"moved to {printable(location)}",
            fields=(b"Location: " + location,),
        )

    def _answer_nobody(self, error: Exception | None) -> None:
        if error is not None:
            self._answer_failure(error)
        else:
            text = f"service {self.service} has no usable endpoint"
            self.answer(503, text, fields=(b"Retry-After: 1",))

    def _answer_failure(self, error: Exception) -> None:
        if isinstance(error, BadRequest):
            raise error
        if isinstance(error, ClientStalled):
            raise BadRequest(408, "the request body did not come")
        self.proxy.complain(self.service, error)
        if isinstance(error, OutOfResources):
            self.answer(503, "this proxy is out of resources", fields=(b"Retry-After: 1",))
        elif isinstance(error, UpstreamTimeout):
            self.answer(504, f"service {self.service}: the endpoint did not answer in time")
        elif isinstance(error, ConnectError):
            self.answer(502, f"service {self.service}: no endpoint accepts connections")
        else:
            self.answer(502, f"service {self.service}: the endpoint gave no usable answer")


async def _send_body(request: ClientRequest, upstream: UpstreamConnection, relay: Relay) -> None:
    """Take the body from the client as fast as the endpoint takes it from us. The request counts
    as sent, and its connection as reusable, only if exactly what its head says has been sent."""
    payload = request.payload
    sent = 0
    try:
        while True:
            upstream.client_turn = True
            data = await payload.readany()
            upstream.client_turn = False
            request.body_touched = request.body_touched or bool(data)
            if upstream.receiver is not relay or not data:
                break
            sent += len(data)
            upstream.send_body(b"%x\r\n%b\r\n" % (len(data), data) if request.chunked else data)
            if upstream.writing_paused:
                await upstream.drain()
        if upstream.receiver is relay:
            if request.chunked:
                upstream.send_body(b"0\r\n\r\n")
            elif sent != request.length:
                raise BadRequest(400, "the request body is not as long as was announced")
            upstream.end_body()
    except (BadRequest, RequestPayloadError) as error:
        if upstream.receiver is relay:
            upstream.abandon()
            relay.failed(error if isinstance(error, BadRequest) else BadRequest(400, str(error)))
