"""DATA PLANE: what is counted in each process, and shown at ``/metrics`` by whoever has the admin
page.

A request that has ended leaves a line in the ``TallySheet`` of its endpoint, in the observer that
the access log uses too, which is None if nobody counts. Once a second, and whenever somebody asks,
lines are added up (``Counters.add_up``) in the rows of services and endpoints (``base.ledger``),
which the main process reads. Labels are words of this program and names of services and endpoints:
no value of theirs comes from a client.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import add
from typing import Final, Protocol, TypeVar

from stickyproxy.base import visitors
from stickyproxy.base.errors import ConnectError, HandshakeError, UpstreamTimeout
from stickyproxy.base.ledger import OTHERS, Cells, Ledger, added_up
from stickyproxy.dataplane.downstream.failures import KINDS, kind_of
from stickyproxy.dataplane.exchange import Exchange, WatchesEndpoints
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.dataplane.passthrough import Passage
from stickyproxy.model.metrics import MICROSECONDS, Counts, Family, Layout
from stickyproxy.model.service import EndpointKey
from stickyproxy.routing.draining import session_key
from stickyproxy.routing.endpoint import Affinity, Endpoint
from stickyproxy.routing.tally import Line, TallySheet
from stickyproxy.semantics.request import ClientRequest

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
CUTS = Family(
    "stickyproxy_cut_responses",
    "Responses that their endpoint broke off: the client has a part of them, and knows.",
)
CLIENT_FAILURES = Family(
    "stickyproxy_client_connection_failures",
    "Connections of clients that came to nothing before there was a request, by reason.",
    label="reason",
    values=KINDS,
    per_service=False,
)
ACCEPTED = Family(
    "stickyproxy_client_connections_accepted", "Connections of clients.", per_service=False
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
        *(CONNECTIONS, FAILURES, EJECTIONS, CUTS, PASSAGES),
        *(CLIENT_FAILURES, ACCEPTED, CLIENTS, OPEN),
    )
)

ENDPOINT_REQUESTS = Family(
    "stickyproxy_endpoint_requests",
    "Requests that an endpoint was given and that have ended there, and connections that were "
    "passed through to it.",
)
ENDPOINT_FAILURES = Family(
    "stickyproxy_endpoint_failures",
    "Of those, that it failed: there was no response, it was a 5xx, or it broke off.",
)
ENDPOINT_IN_FLIGHT = Family(
    "stickyproxy_endpoint_requests_in_flight",
    "Requests that an endpoint has now, upgraded connections and those passed through included.",
    kind="gauge",
)
ENDPOINT_LAYOUT = Layout((ENDPOINT_REQUESTS, ENDPOINT_FAILURES, ENDPOINT_IN_FLIGHT))
"""Rows by ``key_of``."""
_ENDED, _FAILED, _IN_FLIGHT = range(3)


def _cells_of(family: Family, words: type[Enum]) -> dict[int, int]:
    """Cells by the ``id`` of a word: hashing a member of an Enum takes its time."""
    return {id(word): LAYOUT.cell(family, word.value) for word in words}


_REQUESTS = LAYOUT.start(REQUESTS)
_OTHER = LAYOUT.cell(REQUESTS, "other") - _REQUESTS
_OUTCOMES = _cells_of(OUTCOMES, Outcome)
_AFFINITY = _cells_of(AFFINITY, Affinity)
_PASSAGES = _cells_of(PASSAGES, Outcome)
_DURATION, _UPSTREAM = LAYOUT.start(DURATION), LAYOUT.start(UPSTREAM)
_RECEIVED, _SENT = LAYOUT.cell(RECEIVED), LAYOUT.cell(SENT)
_RETRIES, _EJECTIONS = LAYOUT.cell(RETRIES), LAYOUT.cell(EJECTIONS)
_CLIENTS, _BUSY, _IDLE = LAYOUT.cell(CLIENTS), LAYOUT.cell(OPEN, "busy"), LAYOUT.cell(OPEN, "idle")
_NEW, _REUSED = LAYOUT.cell(CONNECTIONS, "new"), LAYOUT.cell(CONNECTIONS, "reused")
_CUTS, _ACCEPTED = LAYOUT.cell(CUTS), LAYOUT.cell(ACCEPTED)

_CUT = frozenset(
    map(id, (Outcome.IDLE_TIMEOUT, Outcome.UPSTREAM_CLOSED, Outcome.UPSTREAM_MALFORMED))
)
"""How a response ends that an endpoint has broken off."""

MOST_LINES = 256
"""Of a tally, until they are added up: more would be in nobody's cache any more."""

MOST_ENDPOINTS = 4096
"""That have rows of their own in a process."""

_SEPARATOR = "\n"


def key_of(service: str, endpoint: str) -> str:
    """The name of an endpoint's row."""
    return service + _SEPARATOR + endpoint


class Memory:
    """Where one process counts, and another reads."""

    def __init__(self, descriptors: tuple[int, int] | None = None) -> None:
        """``descriptors``: of memory that is gone on with; None: it begins empty. Raises
        OSError."""
        services, endpoints = descriptors or (None, None)
        self.services = Ledger(LAYOUT.width, services)
        self.endpoints = Ledger(
            ENDPOINT_LAYOUT.width, endpoints, rows=MOST_ENDPOINTS, extra=visitors.CELLS
        )

    @property
    def descriptors(self) -> tuple[int, int]:
        """To be inherited by the process that counts."""
        return self.services.descriptor, self.endpoints.descriptor

    def close(self) -> None:
        """Close the descriptors; what is mapped stays."""
        self.services.close()
        self.endpoints.close()


def counts_of(memories: Iterable[Memory]) -> Counts:
    """What these processes have counted, added up."""
    memories = tuple(memories)
    endpoints: dict[EndpointKey, list[int]] = {}
    clients: dict[EndpointKey, list[bytes]] = {}
    for memory in memories:
        for name, cells, seen in memory.endpoints.counts():
            service, _, endpoint = name.rpartition(_SEPARATOR)
            key = service, endpoint
            before = endpoints.get(key)
            endpoints[key] = cells if before is None else list(map(add, before, cells))
            clients.setdefault(key, []).append(seen)
    services = added_up(memory.services for memory in memories)
    return Counts(services, endpoints, clients)


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

    def __init__(self, memory: Memory, window: float) -> None:
        """``window``: seconds within which clients are told apart."""
        self._ledger, self._endpoints = memory.services, memory.endpoints
        self._window = window
        self._page = 0
        """That newcomers are noted on."""
        self._rows: dict[str, Cells] = {}
        """By service; those without one are in the row with the empty name."""
        self._moves: Counter[Move] = Counter()
        self._without: dict[str, TallySheet] = {}
        """By service, of requests that no endpoint has."""
        self._counted: dict[EndpointKey, _Counted] = {}
        self._gone: set[EndpointKey] = set()
        """Those of them that there are no more."""
        self._left: set[str] = set()
        """Rows of endpoints that a process before this one has left, and that have not shown up
        here."""
        self._complete = False
        """There is nobody whose endpoints are still to come."""
        self._patience = 2
        """For so many pages more they may still show up."""
        self._accepted = 0
        """Connections that are counted already."""
        self._open: set[str] = set()
        """Services whose open connections were noted last."""
        for service, row, _ in self._ledger.counts():
            if row[_BUSY] or row[_IDLE]:
                self._open.add(service)
        for name, _, _ in self._endpoints.counts():
            self._endpoints.row(name)[_IN_FLIGHT] = 0  # they have died with it
            if name != OTHERS:
                self._left.add(name)
        self.note_open(0, 0, ())

    def row(self, service: str) -> Cells:
        """The cells of a service."""
        row = self._rows.get(service)
        if row is None:
            row = self._rows[service] = self._ledger.row(service)
        return row

    def use(self, endpoints: Iterable[Endpoint], *, complete: bool) -> None:
        """There are these endpoints now. The row of one that is gone is kept while a request of it
        is under way. ``complete``: no provider is waited for."""
        self._complete = complete
        self._gone = set(self._counted)
        for endpoint in endpoints:
            key = endpoint.service, endpoint.id
            counted = self._counted.get(key)
            if counted is None:
                name = key_of(*key)
                cells, clients = self._endpoints.row(name), self._endpoints.rest(name)
                counted = self._counted[key] = _Counted(TallySheet(), cells, clients)
                self._left.discard(name)
                self.row(endpoint.service)  # it is shown from the beginning
            endpoint.tally = counted.tally
            self._gone.discard(key)

    def finished(self, exchange: Exchange) -> None:
        """A request has ended."""
        pick, relay, tally = exchange.pick, exchange.relay, exchange.tally
        request, reply = exchange.request, exchange.reply
        status, head_seconds, kept, sent, received = 0, None, False, 0, 0
        if tally is None:
            tally = self._nobodys(exchange)
        elif request is not None:
            peer = exchange.stream.peer
            if peer.seen is not tally.page or peer.cookies != request.cookie_fields:
                self._note_client(tally, exchange, request)
        if reply is not None:
            status = reply.status
            if exchange.stream.method != "HEAD":
                sent = len(reply.body())
        elif relay is not None and relay.status:
            status, head_seconds, sent = relay.status, relay.head_seconds, relay.sent
            kept = exchange.reused
        if request is not None and request.length:
            received = exchange.body_bytes
        if exchange.tunnel is not None:
            sent += exchange.tunnel.bytes_down
        if exchange.failures is not None:
            retries = len(exchange.failures.attempts) - (reply is not None)
            self.row(_service_of(exchange))[_RETRIES] += retries
        if pick is not None and pick.left is not None:
            self._moves[pick.endpoint.service, pick.affinity.value, pick.left] += 1
        lines = tally.lines
        lines.append(
            (
                monotonic() - exchange.started,
                head_seconds,
                status,
                exchange.outcome,
                None if pick is None else pick.affinity,
                kept,
                sent,
                received,
            )
        )
        if len(lines) >= MOST_LINES:
            self._add_lines(_service_of(exchange), tally)

    def _nobodys(self, exchange: Exchange) -> TallySheet:
        """Where requests are noted that no endpoint has."""
        service = _service_of(exchange)
        tally = self._without.get(service)
        if tally is None:
            tally = self._without[service] = TallySheet()
        return tally

    def _note_client(self, tally: TallySheet, exchange: Exchange, request: ClientRequest) -> None:
        """Of a connection it is noted once on each page, unless its cookies change or it is a
        trusted proxy's, who may have a thousand clients."""
        tally.newcomers.append(session_key(request, exchange.strips))
        peer = exchange.stream.peer
        if not peer.trusted:
            peer.seen, peer.cookies = tally.page, request.cookie_fields

    def passed(self, passage: Passage) -> None:
        """A connection that was passed through has ended."""
        pick = passage.pick
        row = self.row(passage.service if pick is None else pick.endpoint.service)
        row[_PASSAGES[id(passage.outcome)]] += 1
        row[_SENT] += passage.bytes_down
        row[_RECEIVED] += passage.bytes_up
        if pick is not None:
            row[_AFFINITY[id(pick.affinity)]] += 1
        if (tally := passage.tally) is not None:
            tally.ended += 1
            tally.newcomers.append(session_key(passage, ()))

    def take_moves(self) -> Moves:
        """How many sessions have moved since the last time. Clients may make pins up, and so move
        at will: but the keys are words and names of ours."""
        found, self._moves = self._moves, Counter()
        return found

    def note_open(self, accepted: int, clients: int, endpoints: Iterable[Endpoint]) -> None:
        """How many connections of clients this process has accepted so far, and how many there are
        now: those of clients, and those to these endpoints."""
        ours = self.row("")
        ours[_ACCEPTED] += accepted - self._accepted
        ours[_CLIENTS], self._accepted = clients, accepted
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

    def add_up(self) -> None:
        """All that is noted so far is added up."""
        page = visitors.page_at(monotonic(), self._window)
        turned, self._page = page != self._page, page
        for service, tally in self._without.items():
            self._add_lines(service, tally)
        self._without.clear()
        for key, counted in tuple(self._counted.items()):
            self._add_endpoint(key[0], counted)
            if turned:
                visitors.turn(counted.clients, page)
                counted.tally.page = object()
            if key in self._gone and not counted.tally.in_flight:
                del self._counted[key]
                self._endpoints.release(key_of(*key))
        if turned and self._left:
            self._patience -= 1
            if self._patience < 0 and self._complete:
                for name in self._left:
                    self._endpoints.release(name)
                self._left.clear()

    def _add_lines(self, service: str, tally: TallySheet) -> None:
        lines, tally.lines = tally.lines, []
        if lines:
            tally.broken += _add(self.row(service), lines)
            tally.ended += len(lines)

    def _add_endpoint(self, service: str, counted: _Counted) -> None:
        tally, cells = counted.tally, counted.cells
        self._add_lines(service, tally)
        in_flight = tally.in_flight
        ended, failed = tally.failed + tally.ended, tally.failed + tally.broken
        if ended != counted.ended:
            cells[_ENDED] += ended - counted.ended
            cells[_FAILED] += failed - counted.failed
            counted.ended, counted.failed = ended, failed
        if in_flight != counted.in_flight:
            cells[_IN_FLIGHT] += in_flight - counted.in_flight
            counted.in_flight = in_flight
        if tally.newcomers:
            newcomers, tally.newcomers = tally.newcomers, []
            for key in newcomers:
                counted.clients[visitors.cell_of(key)] = self._page


@dataclass(slots=True)
class _Counted:
    """An endpoint, and what of its tally is in its row already, which it may share with others."""

    tally: TallySheet
    cells: Cells
    clients: memoryview
    """See ``visitors``."""
    ended: int = 0
    failed: int = 0
    in_flight: int = 0


def _service_of(exchange: Exchange) -> str:
    pick = exchange.pick
    return exchange.service if pick is None else pick.endpoint.service


def _add(row: Cells, lines: Sequence[Line]) -> int:
    """Add lines up in the row of a service; returns of how many of them the endpoint has failed."""
    seconds, heads, statuses, outcomes, affinities, kept, sent, received = zip(*lines, strict=True)
    answered = [head for head in heads if head is not None]
    _add_times(row, _DURATION, seconds)
    _add_times(row, _UPSTREAM, answered)
    row[_SENT] += sum(sent)
    row[_RECEIVED] += sum(received)
    row[_REUSED] += sum(kept)
    worst = 0
    for status, count in Counter(statuses).items():
        row[_REQUESTS + min(status // 100, _OTHER)] += count
        worst = max(worst, status)
    cut = False
    for outcome, count in _each(outcomes):
        row[_OUTCOMES[outcome]] += count
        cut = cut or outcome in _CUT
    for affinity, count in _each(affinities):
        if affinity in _AFFINITY:
            row[_AFFINITY[affinity]] += count
    if worst < 500 and not cut:
        return 0
    cuts = errors = 0
    for head, status, outcome in zip(heads, statuses, map(id, outcomes), strict=True):
        if head is not None:
            if outcome in _CUT:
                cuts += 1
            elif status >= 500:
                errors += 1
    row[_CUTS] += cuts
    return cuts + errors


def _each(words: Sequence[object]) -> Iterable[tuple[int, int]]:
    """How often there is each word, by its ``id``; mostly there is but one."""
    if words.count(words[0]) == len(words):
        return ((id(words[0]), len(words)),)
    return Counter(map(id, words)).items()


def _add_times(row: Cells, start: int, times: Sequence[float]) -> None:
    """Add times in seconds up in a histogram."""
    ordered = sorted(times)
    below = 0
    for bucket, bound in enumerate(BOUNDS):
        upto = bisect_right(ordered, bound, below)
        if upto > below:
            row[start + bucket] += upto - below
            below = upto
        if below == len(ordered):
            break
    row[start + len(BOUNDS)] += len(ordered) - below
    row[start + len(_BUCKETS)] += int(sum(ordered) * MICROSECONDS)


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
