"""DATA PLANE: what is counted in each process, and shown at ``/metrics`` by whoever has the admin
page.

Counting is adding integers in the row of a service (``base.ledger``), in the observers that the
access log uses too, which are None if nobody counts. Labels are words of this program and names of
services: no value of theirs comes from a client. Whatever a client was sent to the end has been
counted before it could see that.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Final, Protocol, TypeVar

from stickyproxy.base.errors import ConnectError, HandshakeError, UpstreamTimeout
from stickyproxy.base.ledger import Cells, Ledger
from stickyproxy.dataplane.downstream.failures import KINDS, kind_of
from stickyproxy.dataplane.exchange import Exchange, WatchesEndpoints
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.dataplane.passthrough import Passage
from stickyproxy.model.metrics import MICROSECONDS, Family, Layout
from stickyproxy.routing.endpoint import Affinity, Endpoint

monotonic = time.monotonic

T = TypeVar("T")

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Of the buckets for durations, in seconds."""
_BUCKETS = (*(f"{bound}" for bound in BOUNDS), "+Inf")

REQUESTS = Family(
    "stickyproxy_requests",
    'Requests that have ended, by the class of the status that the client was sent; "none": it '
    "was sent none.",
    label="code",
    values=("none", "1xx", "2xx", "3xx", "4xx", "5xx", "other"),
)
OUTCOMES = Family(
    "stickyproxy_request_outcomes",
    "Requests that have ended, by how: the word in the access log.",
    label="outcome",
    values=tuple(each.value for each in Outcome),
    sparse=True,
)
AFFINITY = Family(
    "stickyproxy_affinity_outcomes",
    "Requests that an endpoint was picked for, by how that was decided.",
    label="affinity",
    values=tuple(each.value for each in Affinity),
    sparse=True,
)
DURATION = Family(
    "stickyproxy_request_duration_seconds",
    "Time from the head of a request to its end.",
    kind="histogram",
    values=_BUCKETS,
)
UPSTREAM = Family(
    "stickyproxy_upstream_duration_seconds",
    "Time from contacting the endpoint that responded to the head of its response.",
    kind="histogram",
    values=_BUCKETS,
)
RECEIVED = Family(
    "stickyproxy_request_body_bytes", "Bytes of the bodies of requests that were passed on."
)
SENT = Family("stickyproxy_response_body_bytes", "Bytes of the bodies of responses.")
RETRIES = Family("stickyproxy_retries", "Attempts that followed one that had failed.")
CONNECTIONS = Family(
    "stickyproxy_upstream_connections",
    "Connections to endpoints that were made for requests, and requests that were sent on one "
    "that had been kept.",
    label="kind",
    values=("new", "reused"),
)
FAILURES = Family(
    "stickyproxy_upstream_failures",
    "Attempts that failed before the head of a response, by reason.",
    label="reason",
    values=("connect", "connect-timeout", "tls", "closed", "timeout-head"),
    sparse=True,
)
EJECTIONS = Family(
    "stickyproxy_ejections", "How often endpoints were ejected because of what came of requests."
)
PASSAGES = Family(
    "stickyproxy_passed_connections",
    "Connections whose TLS was passed through, by how they ended.",
    label="outcome",
    values=tuple(each.value for each in Outcome),
    sparse=True,
)
CLIENT_FAILURES = Family(
    "stickyproxy_client_connection_failures",
    "Connections of clients that came to nothing before there was a request, by reason.",
    label="reason",
    values=KINDS,
    per_service=False,
)
CLIENTS = Family(
    "stickyproxy_client_connections",
    "Connections of clients that are open, handshakes and TLS that is passed through not included.",
    kind="gauge",
    per_service=False,
)
OPEN = Family(
    "stickyproxy_upstream_open_connections",
    "Connections to endpoints that are open: those that serve a request or tunnel, and those that "
    "wait for one.",
    kind="gauge",
    label="state",
    values=("busy", "idle"),
)

LAYOUT = Layout(
    (
        *(REQUESTS, OUTCOMES, AFFINITY, DURATION, UPSTREAM, RECEIVED, SENT, RETRIES),
        *(CONNECTIONS, FAILURES, EJECTIONS, PASSAGES, CLIENT_FAILURES, CLIENTS, OPEN),
    )
)


def _cells_of(family: Family, words: type[Enum]) -> dict[int, int]:
    """Cells by the ``id`` of a word: hashing a member of an Enum takes its time."""
    return {id(word): LAYOUT.cell(family, word.value) for word in words}


_REQUESTS = LAYOUT.start(REQUESTS)
_OTHER = LAYOUT.cell(REQUESTS, "other") - _REQUESTS
_OUTCOMES = _cells_of(OUTCOMES, Outcome)
_AFFINITY = _cells_of(AFFINITY, Affinity)
_PASSAGES = _cells_of(PASSAGES, Outcome)
_DURATION, _DURATION_SUM = LAYOUT.start(DURATION), LAYOUT.start(DURATION) + len(_BUCKETS)
_UPSTREAM, _UPSTREAM_SUM = LAYOUT.start(UPSTREAM), LAYOUT.start(UPSTREAM) + len(_BUCKETS)
_RECEIVED, _SENT = LAYOUT.cell(RECEIVED), LAYOUT.cell(SENT)
_RETRIES, _EJECTIONS = LAYOUT.cell(RETRIES), LAYOUT.cell(EJECTIONS)
_CLIENTS, _BUSY, _IDLE = LAYOUT.cell(CLIENTS), LAYOUT.cell(OPEN, "busy"), LAYOUT.cell(OPEN, "idle")
_NEW, _REUSED = LAYOUT.cell(CONNECTIONS, "new"), LAYOUT.cell(CONNECTIONS, "reused")


Move = tuple[str, str, str]
"""The service of a session that moved, the word of ``Affinity`` that says why, and the id of the
endpoint that it was at; empty: it is not known."""
Moves = Mapping[Move, int]


class HasOpen(Protocol):
    """What is asked of an endpoint's pool."""

    @property
    def open(self) -> tuple[int, int]:
        """How many of its connections are busy, and how many idle."""


class Counters:
    """What one process counts."""

    def __init__(self, ledger: Ledger) -> None:
        """``ledger``: of ``LAYOUT.width``."""
        self._ledger = ledger
        self._rows: dict[str, Cells] = {}
        """By service; those without one are in the row with the empty name."""
        self._moves: Counter[Move] = Counter()
        self._open: set[str] = set()
        """Services whose open connections were noted last."""
        for service, row in ledger.rows():
            if row[_BUSY] or row[_IDLE]:
                self._open.add(service)
        self.note_open(0, ())  # those of a process that went on before died with it

    def row(self, service: str) -> Cells:
        """The cells of a service."""
        row = self._rows.get(service)
        if row is None:
            row = self._rows[service] = self._ledger.row(service)
        return row

    def finished(self, exchange: Exchange) -> None:
        """A request has ended."""
        pick, relay, reply = exchange.pick, exchange.relay, exchange.reply
        row = self.row(exchange.service if pick is None else pick.endpoint.service)
        elapsed = monotonic() - exchange.started
        row[_OUTCOMES[id(exchange.outcome)]] += 1
        row[_DURATION + bisect_left(BOUNDS, elapsed)] += 1
        row[_DURATION_SUM] += int(elapsed * MICROSECONDS)
        if pick is not None:
            row[_AFFINITY[id(pick.affinity)]] += 1
            if pick.left is not None:
                self._moves[pick.endpoint.service, pick.affinity.value, pick.left] += 1
        status = 0
        if reply is not None:
            status = reply.status
            if exchange.stream.method != "HEAD":
                row[_SENT] += len(reply.body())
        elif relay is not None and relay.status:
            status, head_seconds = relay.status, relay.head_seconds
            row[_UPSTREAM + bisect_left(BOUNDS, head_seconds)] += 1
            row[_UPSTREAM_SUM] += int(head_seconds * MICROSECONDS)
            row[_SENT] += relay.sent
            if exchange.reused:
                row[_REUSED] += 1
        row[_REQUESTS + min(status // 100, _OTHER)] += 1
        if received := exchange.body_bytes:
            row[_RECEIVED] += received
        if (tunnel := exchange.tunnel) is not None:
            row[_SENT] += tunnel.bytes_down
        if (failures := exchange.failures) is not None:
            row[_RETRIES] += len(failures.attempts) - (reply is not None)

    def passed(self, passage: Passage) -> None:
        """A connection that was passed through has ended."""
        pick = passage.pick
        row = self.row(passage.service if pick is None else pick.endpoint.service)
        row[_PASSAGES[id(passage.outcome)]] += 1
        row[_SENT] += passage.bytes_down
        row[_RECEIVED] += passage.bytes_up
        if pick is not None:
            row[_AFFINITY[id(pick.affinity)]] += 1

    def take_moves(self) -> Moves:
        """How many sessions have moved since the last time. Clients may make pins up, and so move
        at will: but the keys are words and names of ours."""
        found, self._moves = self._moves, Counter()
        return found

    def note_open(self, clients: int, endpoints: Iterable[Endpoint]) -> None:
        """How many connections there are now: those of clients, and those to these endpoints."""
        self.row("")[_CLIENTS] = clients
        found: dict[str, list[int]] = {service: [0, 0] for service in self._open}
        for endpoint in endpoints:
            pool: HasOpen = endpoint.pool  # type: ignore[assignment]
            busy, idle = pool.open
            tally = found.setdefault(endpoint.service, [0, 0])
            tally[0] += busy
            tally[1] += idle
        for service, (busy, idle) in found.items():
            row = self.row(service)
            row[_BUSY], row[_IDLE] = busy, idle
        self._open = {service for service, tally in found.items() if any(tally)}

    def ejected(self, endpoint: Endpoint) -> None:
        """An endpoint was ejected."""
        self.row(endpoint.service)[_EJECTIONS] += 1

    def client_failed(self, reason: str) -> None:
        """A connection of a client has come to nothing."""
        self.row("")[LAYOUT.cell(CLIENT_FAILURES, kind_of(reason))] += 1


class CountedEndpoints:
    """Counts what comes of attempts, and tells who watches the endpoints. Implements
    ``exchange.WatchesEndpoints``."""

    def __init__(self, counters: Counters, watch: WatchesEndpoints) -> None:
        self._counters = counters
        self._watch = watch

    def connected(self, endpoint: Endpoint) -> None:
        """A new connection was made."""
        self._counters.row(endpoint.service)[_NEW] += 1
        self._watch.connected(endpoint)

    def failed(self, endpoint: Endpoint, error: ConnectError) -> None:
        """No connection could be made."""
        reason = "connect"
        if isinstance(error, HandshakeError):
            reason = "tls"
        elif isinstance(error.__cause__, TimeoutError):
            reason = "connect-timeout"
        self._count(endpoint, reason)
        self._watch.failed(endpoint, error)

    def broke(self, endpoint: Endpoint, error: Exception) -> None:
        """There was a connection, but no head of a response came."""
        self._count(endpoint, "timeout-head" if isinstance(error, UpstreamTimeout) else "closed")
        self._watch.broke(endpoint, error)

    def _count(self, endpoint: Endpoint, reason: str) -> None:
        self._counters.row(endpoint.service)[LAYOUT.cell(FAILURES, reason)] += 1


def in_turn(
    first: Callable[[T], None] | None, second: Callable[[T], None] | None
) -> Callable[[T], None] | None:
    """Both observers as one; None: there is none."""
    if first is None or second is None:
        return first or second

    def both(seen: T) -> None:
        first(seen)
        second(seen)

    return both
