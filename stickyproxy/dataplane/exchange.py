"""DATA PLANE: one request from route to response.

``Exchange`` is the walk of a request. Each step is decided by ``_next``, which finds the route,
lets the balancer pick an endpoint and says what to do: send on a connection that is idle, make a
new one, or give a reply of our own. All of that happens in the callback that brought the request,
and the response goes to the client in the callbacks that bring it; only a new connection takes a
task, because it has to be waited for. After an attempt that failed ``retry.decide`` says whether
there is another one, and the walk begins again with the current table.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from stickyproxy.base.errors import (
    BadRequest,
    ConnectError,
    OutOfResources,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from stickyproxy.dataplane import replies
from stickyproxy.dataplane.attempt import Attempt, upstream_lines
from stickyproxy.dataplane.compression import CompressingRelay, Encoders
from stickyproxy.dataplane.downstream.ports import ClientStream
from stickyproxy.dataplane.hashing import Hashing
from stickyproxy.dataplane.outcome import Outcome, outcome_of
from stickyproxy.dataplane.reasons import reason_edit, reason_of
from stickyproxy.dataplane.relay import EditingRelay, Relay
from stickyproxy.dataplane.replies import REASONS, Reply
from stickyproxy.dataplane.retry import Attempted, Failures, Verdict, decide
from stickyproxy.dataplane.tracing import Trace, Tracing
from stickyproxy.dataplane.tunnel import UpgradeTunnel
from stickyproxy.dataplane.upstream.connection import UpstreamConnection
from stickyproxy.dataplane.upstream.pool import Pool
from stickyproxy.routing.admit import Admit
from stickyproxy.routing.basic_auth import BasicAuth
from stickyproxy.routing.endpoint import (
    Affinity,
    Awaits,
    CookieIssue,
    Endpoint,
    HandsOver,
    Pick,
)
from stickyproxy.routing.slots import Slots
from stickyproxy.routing.table import Route, RoutingTable
from stickyproxy.routing.tally import TallySheet
from stickyproxy.routing.waiting import WaitingRoom
from stickyproxy.semantics.request import UNKNOWN, ClientRequest

_ASK_AGAIN = 0.25
"""Seconds until an endpoint that refused a connection is asked for one again by who waits."""

_COMPLETE = Outcome.COMPLETE  # looking up a member of an Enum takes its time

log = logging.getLogger("stickyproxy")
monotonic = time.monotonic


def _request_ids() -> Iterator[bytes]:
    """Random ids of 32 lower-case hex digits. Asking the kernel for many at once makes one cost
    a tenth."""
    while True:
        block = os.urandom(16 * 256).hex().encode()
        for start in range(0, len(block), 32):
            yield block[start : start + 32]


next_request_id = _request_ids().__next__


Step = UpstreamConnection | Pool | Reply | BasicAuth | Slots | WaitingRoom
"""What ``Exchange._next`` says."""


class WatchesEndpoints(Protocol):
    """Is told what speaks for and against endpoints, before the head of a response."""

    def connected(self, endpoint: Endpoint) -> None:
        """A new connection was made."""

    def failed(self, endpoint: Endpoint, error: ConnectError) -> None:
        """No connection could be made."""

    def broke(self, endpoint: Endpoint, error: Exception) -> None:
        """There was a connection, but no head of a response came."""


class Proxy:
    """Serves requests by the table it holds. ``table`` may be replaced at any moment."""

    def __init__(self, *, info: bytes | None) -> None:
        """``info``: header lines that are the same in all responses; None: no info fields."""
        self.table = RoutingTable({})
        self.info = info
        self.https_port = 443
        """Where requests in the clear are sent that must not be."""
        self.health: WatchesEndpoints | None = None
        self.on_finish: Callable[[Exchange], None] | None = None
        """Called once for every request that has ended; None: there is no observer."""
        self.hashing = Hashing()
        self.encoders = Encoders()
        self.confides_in: Callable[[str], bool] | None = None
        """Whether a client with this address is told why it reached its endpoint; None: nobody
        is."""
        self.tracing: Tracing | None = None
        """None: what clients say of traces passes as it is."""
        self._logged: dict[str, int] = {}

    def log_failure(self, service: str, error: Exception) -> None:
        """Log a failed request; at most one per service and second, as all of them may fail."""
        now = int(monotonic())
        if self._logged.get(service) != now:
            self._logged[service] = now
            log.warning("service %s: %s", service, error)

    def refuse(self, stream: ClientStream, error: BadRequest) -> None:
        """Respond to a request that could not be parsed."""
        Exchange(self, stream).refuse(error)


class Exchange:
    """One request under way: what has been decided and tried so far. Implements
    ``downstream.ports.StreamHandler``, ``relay.AwaitsResponse`` and ``waiting.Waits``."""

    __slots__ = (
        "_admitted",
        "_begun",
        "_body_at_hand",
        "_body_sent",
        "_connecting",
        "_proxy",
        "_room",
        "_route",
        "_slots",
        "_upstream",
        "_waits_until",
        "failures",
        "id",
        "outcome",
        "pick",
        "relay",
        "reply",
        "request",
        "reused",
        "service",
        "started",
        "stream",
        "strips",
        "tally",
        "trace",
        "tunnel",
    )

    _route: Route
    """The latest one, if there is a ``service``."""
    strips: frozenset[bytes]
    """Cookies whose pins the endpoint must not see."""

    def __init__(self, proxy: Proxy, stream: ClientStream) -> None:
        self._proxy = proxy
        self.stream = stream
        self.started = monotonic()
        self.id = next_request_id()
        self.request: ClientRequest | None = None
        """None if it could not be parsed, or must not be forwarded."""
        self.service = ""
        """The service asked for."""
        self.pick: Pick | None = None
        """The latest one; ``strips`` is of the same table."""
        self.relay: Relay | None = None
        """The latest attempt's."""
        self._upstream: UpstreamConnection | None = None
        """Where the latest attempt went; None if no connection could be made."""
        self._admitted = False
        """Whether the request has passed the checks of its route, each of which is asked once."""
        self.reused = False
        """Whether that connection had been kept alive."""
        self._connecting: asyncio.Task[None] | None = None
        """What has to be waited for: a connection, a slot, or a password that is being checked."""
        self._room: WaitingRoom | None = None
        """Where it waits for a successor; None: it does not."""
        self._waits_until = 0.0
        """How long at most; 0: it never had to."""
        self._begun = self.started
        """Since when it has been tried to send it without waiting."""
        self._slots: Slots | None = None
        """Those that one was taken of; None: there are none, or it was given back."""
        self.tally: TallySheet | None = None
        """Where the attempt under way is noted; None: there is none, or nobody counts."""
        self.failures: Failures | None = None
        """The attempts that failed; None: there was none."""
        self._body_sent = 0
        """Bytes of the request's body that an endpoint was sent as they came: they cannot be sent
        again."""
        self._body_at_hand = 0
        """Bytes of it that were sent together with its head."""
        self.trace: Trace | None = None
        """Where the request is in its trace; None: nobody asked."""
        self.tunnel: UpgradeTunnel | None = None
        """What took over after 101 Switching Protocols."""
        self.reply: Reply | None = None
        """A response of our own; None if an endpoint responded."""
        self.outcome: Outcome | None = None
        """How it ended; None until it has."""

    @property
    def body_bytes(self) -> int:
        """Bytes of the request's body that an endpoint was sent."""
        return self._body_at_hand + self._body_sent

    # --- downstream.ports.StreamHandler ---

    def begin(self) -> None:
        """Serve the request."""
        try:
            self.request = ClientRequest(self.stream, self.id)
            step = self._next()
            if isinstance(step, UpstreamConnection):
                self._send(step, reused=True)
            else:
                self._take(step)
        except BadRequest as error:
            self.refuse(error)
        except Exception:
            self._break_off()

    def refuse(self, error: BadRequest) -> None:
        """Answer a request that must not be forwarded. One in a protocol that nobody speaks here is
        what a health check sends that has no admin page to ask."""
        awaited = self._proxy.table.awaited
        if awaited and error.status == 505:
            self._reply(replies.starting(awaited, last=True))
        else:
            self._reply(replies.refusal(error))

    def body(self, data: bytes) -> None:
        """Pass a piece of the body on, as fast as the endpoint takes it."""
        upstream, request = self._upstream, self.request
        if request is None or upstream is None or not self._holds(upstream):
            return  # it has responded already, and does not need the rest
        self._body_sent += len(data)
        if request.length < 0:
            most = None if (admit := self._route.admit) is None else admit.max_body
            if most is not None and self._body_sent > most:
                self.body_failed(replies.too_large(most))
                return
            data = b"%x\r\n%b\r\n" % (len(data), data)
        upstream.send_body(data)
        if upstream.writing_paused:
            self.stream.pause_body()

    def body_ended(self) -> None:
        """The request counts as sent, and its connection as reusable, only if exactly what its
        head says has been sent."""
        upstream, request = self._upstream, self.request
        if request is None or upstream is None or not self._holds(upstream):
            return
        if request.length == UNKNOWN:
            upstream.send_body(b"0\r\n\r\n")
        elif self._body_sent != request.length:
            self.body_failed(BadRequest(400, "the request body is not as long as was announced"))
            return
        upstream.end_body()

    def body_failed(self, error: BadRequest) -> None:
        """The endpoint must not mistake what it has received for the whole request."""
        upstream = self._upstream
        if upstream is None or not self._holds(upstream):
            return
        self._abandon(upstream)
        if self.relay is not None and self.relay.status:
            self._cut(Outcome.BAD_REQUEST)
        else:
            self.refuse(error)

    def client_slow(self) -> None:
        """Read no more of the response."""
        upstream = self._upstream
        if upstream is not None and self._holds(upstream):
            upstream.pause_reading()

    def client_ready(self) -> None:
        """Read on."""
        upstream, relay = self._upstream, self.relay
        if upstream is None or not self._holds(upstream):
            return
        if relay is None or not relay.is_behind:
            upstream.resume_reading()

    def client_lost(self) -> None:
        """The client is gone: the response is not needed."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._room is not None:
            self._room.leave(self)
        upstream = self._upstream
        if upstream is not None and self._holds(upstream):
            self._abandon(upstream)
        elif self.relay is not None:
            self.relay.let_go()
        self._finish(Outcome.CLIENT_GONE)

    def _abandon(self, upstream: UpstreamConnection) -> None:
        """Give the attempt up."""
        upstream.abandon()
        if self.relay is not None:
            self.relay.let_go()  # each holds the other, which would be work for the collector

    def _holds(self, upstream: UpstreamConnection) -> bool:
        """Whether the connection is still ours: it may have gone back to its pool, or have died."""
        return upstream.receiver is self.relay or self.tunnel is not None

    # --- the walk ---

    def _take(self, step: Step) -> None:
        """Take a step."""
        if isinstance(step, UpstreamConnection):
            self._send(step, reused=True)
        elif isinstance(step, Reply):
            self._reply(step)
        elif isinstance(step, BasicAuth):
            name = "check a password"
            self._connecting = self.stream.loop.create_task(self._check_password(step), name=name)
        elif isinstance(step, Slots):
            name = "wait for an endpoint"
            self._connecting = self.stream.loop.create_task(self._wait_for(step), name=name)
        elif isinstance(step, WaitingRoom):
            self._enter(step)
        else:
            name = "connect for a request"
            self._connecting = self.stream.loop.create_task(self._connect(step), name=name)

    def _next(self) -> Step:
        """The next step: send on this connection, connect to this pool's target, reply, find out
        first whether the client is one of these users, wait for one of these slots, or in this
        room for something to change.
        Route and endpoint are of one table, the current one: what was tried may be gone from it.
        Raises BadRequest."""
        request = self.request
        assert request is not None
        table = self._proxy.table
        if table.acme is not None and (said := table.acme.answer(request.host, request.target)):
            return replies.acme_challenge(said)
        route = table.match(request.host, request.target)
        if route is None:
            return replies.starting(table.awaited) if table.awaited else replies.unknown(request)
        cluster = route.cluster
        if cluster is None:
            return replies.elsewhere(request, route.redirect, self._proxy.https_port)
        self.service, self._route = cluster.name, route
        if route.admit is not None and (step := self._stopped_by(route.admit)) is not None:
            return step
        failures = self.failures
        if failures is None and not self._waits_until:
            cluster.budget.requests += 1
        balancer = cluster.balancer
        pick = balancer.pick(request, failures.tried if failures else ())
        if pick is None:
            tried = failures.tried if failures else ()
            wait = balancer.worth_waiting(request, tried) if isinstance(balancer, Awaits) else 0.0
            if wait and self._may_wait(cluster.waiting, wait):
                return cluster.waiting
            if failures is not None:
                return self._failure(failures.error)
            return replies.no_endpoint(cluster.name)
        if pick.wait and self._may_wait(cluster.waiting, pick.wait):
            return cluster.waiting
        if failures is not None and failures.unpaid:
            failures.unpaid = False
            if not self._may_retry(failures.error):
                return self._failure(failures.error)
        if self._waits_until and pick.affinity is Affinity.SUCCESSOR:
            pick = replace(pick, affinity=Affinity.WAITED)
        self.strips, self.pick = balancer.strips, pick
        if (tally := pick.endpoint.tally) is not None:
            tally.begun += 1
            self.tally = tally
        if (slots := pick.endpoint.slots) is not None:
            if not slots.take():
                return replies.too_busy(cluster.name) if slots.is_crowded else slots
            self._slots = slots
        return self._connection_to(pick.endpoint, request)

    def _may_wait(self, room: WaitingRoom, seconds: float) -> bool:
        """Whether it may wait for something better; it does so once, for so many seconds in all."""
        now = monotonic()
        if not self._waits_until:
            self._waits_until = now + seconds
        return now < self._waits_until and not room.is_full

    def _enter(self, room: WaitingRoom) -> None:
        """Wait. Who refuses connections now is asked again soon: that it listens is no change that
        anybody tells of."""
        left = self._waits_until - monotonic()
        failures = self.failures
        if failures is not None:
            left = min(left, _ASK_AGAIN)
            failures.tried, failures.unpaid = (), False
        self._room = room
        room.enter(self, left)

    def resume(self) -> None:
        """Something has changed, or it has waited long enough."""
        self._room = None
        self._begun = monotonic()
        try:
            self._take(self._next())
        except BadRequest as refused:
            self.refuse(refused)
        except Exception:
            self._break_off()

    def _connection_to(
        self, endpoint: Endpoint, request: ClientRequest
    ) -> UpstreamConnection | Pool:
        failures = self.failures
        pool: Pool = endpoint.pool  # type: ignore[assignment]
        if failures is not None and failures.ask_anew:
            return pool
        return pool.take(replayable=request.idempotent and not self._body_sent) or pool

    def _stopped_by(self, admit: Admit) -> Reply | BasicAuth | None:
        """What comes before a request may pass; None: it may. Raises BadRequest."""
        request = self.request
        assert request is not None
        if admit.https_only and not (request.secure or replies.is_challenge(request)):
            return replies.to_https(request, self._proxy.https_port)
        if not admit.accepts(self.stream.peer.client_auth):
            raise replies.misdirected(request)
        if not self._admitted:
            if (denial := admit.refuses(request)) is not None:
                return replies.refused(denial)
            self._measure(request, admit.max_body)
            self._admitted = True
        return None if admit.users is None else self._stranger(admit.users, request)

    def _measure(self, request: ClientRequest, most: int | None) -> None:
        """Raises BadRequest if it is known already that the body is longer than ``most``."""
        if request.length and most is not None:
            length = request.length
            if length == UNKNOWN:
                length = len(self.stream.body_at_hand() or b"")
            if length > most:
                raise replies.too_large(most)

    def _stranger(self, users: BasicAuth, request: ClientRequest) -> Reply | BasicAuth | None:
        """What comes before the request of somebody who is not known; None: he is."""
        credentials = request.header("authorization")
        if credentials is None:
            return replies.unauthorised(self.service)
        if users.knows(credentials):
            return None
        return replies.too_many_passwords() if self._proxy.hashing.is_busy else users

    async def _check_password(self, users: BasicAuth) -> None:
        """Go on, if it is right."""
        request = self.request
        assert request is not None
        try:
            right = await self._proxy.hashing.check(users, request.header("authorization") or b"")
            self._connecting = None
            self._take(self._next() if right else replies.unauthorised(self.service))
        except BadRequest as refused:
            self.refuse(refused)
        except Exception:
            self._break_off()

    async def _wait_for(self, slots: Slots) -> None:
        """Go on with the endpoint that was picked, once it has room."""
        request, pick = self.request, self.pick
        assert request is not None
        assert pick is not None
        try:
            try:
                await slots.wait()
            except TimeoutError:
                self._connecting = None
                self._reply(replies.too_busy(self.service))
                return
            self._slots = slots
            self._connecting = None
            self._take(self._connection_to(pick.endpoint, request))
        except Exception:
            self._break_off()

    def _make_room(self) -> None:
        """The endpoint does not have the request any more."""
        if (slots := self._slots) is not None:
            self._slots = None
            slots.release()

    async def _connect(self, pool: Pool) -> None:
        """Make a new connection and send the request on it."""
        assert self.pick is not None
        endpoint, health = self.pick.endpoint, self._proxy.health
        started = monotonic()
        try:
            try:
                upstream = await pool.connect()
            except (ConnectError, OutOfResources) as error:
                self._connecting = None
                self._upstream, self.reused = None, False
                if health is not None and isinstance(error, ConnectError):
                    health.failed(endpoint, error)
                self._try_again(error, started)
            else:
                self._connecting = None
                if health is not None:
                    health.connected(endpoint)
                self._send(upstream, reused=False, started=started)
        except Exception:
            self._break_off()

    def _send(
        self, upstream: UpstreamConnection, *, reused: bool, started: float | None = None
    ) -> None:
        """Send the request. ``started``: when connecting began, if that was necessary."""
        request, route, pick = self.request, self._route, self.pick
        assert request is not None
        assert pick is not None
        self._upstream, self.reused = upstream, reused
        failures, info = self.failures, self._proxy.info
        attempts = failures.attempts if failures else ()
        edit = route.secure_response_edit if request.secure else route.response_edit
        confides_in = self._proxy.confides_in
        if confides_in is not None and confides_in(request.client_address):
            edit = reason_edit(pick, edit)
        if route.compression:
            relay: Relay = CompressingRelay(
                *(self, request, pick, info, attempts),
                edit=edit,
                offered=route.compression,
                encoders=self._proxy.encoders,
            )
        elif edit is None:
            relay = Relay(self, request, pick, info, attempts)
        else:
            relay = EditingRelay(self, request, pick, info, attempts, edit=edit)
        self.relay = relay
        if started is not None:
            relay.started = started
        if request.upgrade is not None and not route.may_upgrade(request.target):
            request.upgrade = None
        target = route.rewritten(request.target) if route.rewrite else request.target
        if route.request_edit is not None:
            request.edit(route.request_edit)
        if self._proxy.tracing is not None and self.trace is None:
            trusted = self.stream.peer.trusted
            self.trace = self._proxy.tracing.begin(request, trusted=trusted)
        head = request.upstream_head(target, self.strips)
        if request.length:
            self._send_with_body(upstream, head, relay, request.length)
        else:
            upstream.send_head(head, relay, body_follows=False)

    def _send_with_body(
        self, upstream: UpstreamConnection, head: bytes, relay: Relay, length: int
    ) -> None:
        body = self.stream.body_at_hand()
        if body is None:
            upstream.send_head(head, relay, body_follows=True)
            self.stream.start_body()
            return
        self._body_at_hand = len(body)
        if length == UNKNOWN:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        upstream.send_head(head + body, relay, body_follows=False)

    # --- relay.AwaitsResponse ---

    def wait_for_turn(self, turn: Callable[[], None]) -> None:
        """The relay has enough of the response for now."""
        upstream, pick = self._upstream, self.pick
        assert pick is not None
        if upstream is not None and self._holds(upstream):
            upstream.pause_reading()
        pool: Pool = pick.endpoint.pool  # type: ignore[assignment]
        pool.turns.wait(turn)

    def read_on(self) -> None:
        """It takes more."""
        upstream = self._upstream
        if upstream is not None and self._holds(upstream) and not self.stream.client_is_slow:
            upstream.resume_reading()

    def switched(self) -> None:
        """The endpoint has switched protocols, and the client knows."""
        upstream = self._upstream
        assert upstream is not None
        self.stream.flush()  # the head must be out before the first byte of the new protocol
        self.tunnel = UpgradeTunnel(self.stream, upstream, self._finish)
        self.tunnel.open()

    def responded(self) -> None:
        """The response is whole."""
        self._finish(_COMPLETE)
        self.stream.end()

    def failed(self, error: Exception) -> None:
        """The attempt has failed after a connection was there."""
        relay, upstream = self.relay, self._upstream
        assert relay is not None
        assert upstream is not None
        if relay.status:
            # The client has a part of the response: it must see that the rest is missing.
            self._cut(outcome_of(error, head_sent=True))
            return
        try:
            self._hold_against(upstream, error)
            self._try_again(error, relay.started)
        except Exception:
            self._break_off()

    def handed_over(self, to: bytes) -> CookieIssue | None:
        """The endpoint gives the session away. To whom, the current table says."""
        request, pick = self.request, self.pick
        assert request is not None
        assert pick is not None
        route = self._proxy.table.match(request.host, request.target)
        cluster = None if route is None else route.cluster
        if cluster is None or not isinstance(cluster.balancer, HandsOver):
            return None
        return cluster.balancer.hand_over(request, pick, to)

    def _hold_against(self, upstream: UpstreamConnection, error: Exception) -> None:
        """Let the endpoint's health know. That a kept-alive connection closes is nothing."""
        health, pick = self._proxy.health, self.pick
        if health is None or pick is None:
            return
        closed = isinstance(error, UpstreamClosed) and (upstream.responded or not self.reused)
        if closed or isinstance(error, UpstreamTimeout):
            health.broke(pick.endpoint, error)

    def _try_again(self, error: Exception, started: float) -> None:
        """Go on after an attempt that failed, or give up."""
        request, pick, upstream = self.request, self.pick, self._upstream
        assert request is not None
        assert pick is not None
        self._make_room()
        if (tally := self.tally) is not None:
            tally.failed += 1
            self.tally = None
        failures = self.failures
        if failures is None:
            failures = self.failures = Failures()
        pool: Pool = pick.endpoint.pool  # type: ignore[assignment]
        now = monotonic()
        died = upstream is not None and not self.reused
        failures.note(error, Attempt(pick.endpoint.address, now - started), died=died)
        verdict = decide(
            Attempted(
                error=error,
                connected=upstream is not None,
                reused=self.reused,
                replayable=request.idempotent and not self._body_sent,
                responded=upstream is not None and upstream.responded,
                deaths=failures.deaths,
                in_time=now - self._begun <= pool.retry_seconds,
            )
        )
        if verdict is Verdict.GIVE_UP:
            self._reply(self._failure(error))
            return
        if request.length:
            self.stream.keep_body()
        failures.ask_anew = verdict is Verdict.SAME_ENDPOINT
        if verdict is Verdict.OTHER_ENDPOINT:
            failures.tried, failures.unpaid = (*failures.tried, pick.endpoint), True
        try:
            self._take(self._next())
        except BadRequest as refused:
            self.refuse(refused)

    def _may_retry(self, error: Exception) -> bool:
        cluster = self._route.cluster
        if cluster is None or cluster.budget.take(monotonic()):
            return True
        spent = UpstreamError(f"{error}; not sent to another endpoint: it has had enough retries")
        self._proxy.log_failure(self.service, spent)
        return False

    # --- the end ---

    def _failure(self, error: Exception) -> Reply:
        reply = replies.failure(self.service, error)
        if reply.outcome is not Outcome.CLIENT_STALLED:
            self._proxy.log_failure(self.service, error)
        return reply

    def _reply(self, reply: Reply) -> None:
        """Send a response of our own."""
        if self.service and reply.status >= 400 and (page := self._route.error_page):
            reply = replace(reply, page=page)
        self.reply = reply
        request, info, stream = self.request, self._proxy.info, self.stream
        body = reply.body()
        fields = reply.head_fields(len(body))
        if info is not None:
            fields += (b"x-request-id: " + (request.id if request else self.id), info)
            if self.failures is not None:
                fields.append(upstream_lines(self.failures.attempts))
        if self._proxy.confides_in is not None:
            fields += self._confidence(self._proxy.confides_in)
        bodiless = stream.method == "HEAD"
        length = 0 if bodiless else len(body)
        stream.send_head(reply.status, REASONS[reply.status], fields, length, last=reply.last)
        if not bodiless:
            stream.send_data(body)
        self._finish(reply.outcome)
        stream.end()

    def _confidence(self, confides_in: Callable[[str], bool]) -> Iterator[bytes]:
        request, pick = self.request, self.pick
        if request is not None and pick is not None and confides_in(request.client_address):
            yield b"x-sticky-reason: " + reason_of(pick).encode()

    def _cut(self, outcome: Outcome) -> None:
        self._finish(outcome)
        self.stream.reset()

    def _break_off(self) -> None:
        """After a bug: 500 if nothing has been sent yet, else reset the connection."""
        log.exception("handling a request failed: this is a bug in stickyproxy")
        upstream = self._upstream
        if upstream is not None and self._holds(upstream):
            self._abandon(upstream)
        if self.outcome is not None:
            return
        if self.reply is not None or (self.relay is not None and self.relay.status):
            self._cut(Outcome.BUG)
        else:
            self._reply(replies.bug())

    def _finish(self, outcome: Outcome) -> None:
        """Every request ends here, exactly once."""
        assert self.outcome is None, f"ended twice: {self.outcome} and {outcome}"
        self.outcome = outcome
        if self._slots is not None:
            self._make_room()
        if (on_finish := self._proxy.on_finish) is not None:
            on_finish(self)
