"""What is live: endpoints and picks, and the protocols between a proxy and its balancers.

Live objects carry state and stay in the process that made them. What an endpoint may be used for
follows from the facts known about it. Each component notes its own fact, and withdraws only that
one:

    fact            who notes it                      while it holds, the endpoint
    --------------  --------------------------------  ------------------------------------
    draining        its provider                      gets no new sessions; keeps those that it
                                                      has as its service's ``drain`` says
    asked_to_drain  the operator                      gets no new sessions, and keeps all of those
                                                      that it has
    in_maintenance  the operator                      gets nothing, whatever else is known
    ejected         Health: what came of requests     likewise, while there is another
    unhealthy       Health: what came of checks       likewise, while there is another
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol, runtime_checkable

from stickyproxy.base.commons import Headcount
from stickyproxy.base.hashing import slot_of_pin
from stickyproxy.model.health import DEFAULT_EJECTION, Ejection
from stickyproxy.model.service import Drain, EndpointSpec, ServiceSpec
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.model.tls import UpstreamTls
from stickyproxy.routing.sessions import Sessions
from stickyproxy.routing.slots import Slots
from stickyproxy.routing.tally import TallySheet

# --- live -----------------------------------------------------------------------------------


class Connections(Protocol):
    """What an endpoint's connection pool must offer to the endpoint's owner."""

    def limit(self, timeouts: Timeouts | None) -> None:
        """From now on these hold for its connections; None: those of the proxy."""

    def keep_idle(self, keep: bool) -> None:
        """Whether connections wait for another request. If not, idle ones are closed now and busy
        ones when their exchange ends."""

    def close(self) -> None:
        """Close idle connections now and busy ones when their exchange ends."""


class WatchesResponses(Protocol):
    """Is told how an endpoint responds."""

    def responded(self, status: int) -> None:
        """The head of a final response is here."""


class EndpointState(Enum):
    """What an endpoint may be used for."""

    USABLE = "usable"
    DRAINING = "draining"  # gets no new sessions, and perhaps none of its own
    DOWN = "down"  # gets nothing


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about an endpoint; any of them may hold at the same time."""

    draining: bool = False
    asked_to_drain: bool = False
    in_maintenance: bool = False
    ejected: bool = False
    unhealthy: bool = False

    @property
    def drains(self) -> bool:
        """True if it is about to be taken down, whatever else is known."""
        return self.draining or self.asked_to_drain

    @property
    def by_hand(self) -> bool:
        """True if an operator wants it to be empty."""
        return self.asked_to_drain or self.in_maintenance


def state_of(facts: Facts) -> EndpointState:
    """What an endpoint with these facts may be used for."""
    if facts.in_maintenance or facts.ejected or facts.unhealthy:
        return EndpointState.DOWN
    if facts.drains:
        return EndpointState.DRAINING
    return EndpointState.USABLE


ALL_TENTHS = 10
"""``Endpoint.tenths`` of one that is warm."""

_NOTHING_KNOWN = Facts()


def declared_facts(spec: EndpointSpec, known: Facts = _NOTHING_KNOWN) -> Facts:
    """What its provider and the operator say about an endpoint, and what else is ``known``."""
    return replace(
        known,
        draining=spec.draining,
        asked_to_drain=spec.admin_state == "drain",
        in_maintenance=spec.admin_state == "maintenance",
    )


class Endpoint:
    """One live replica: its identity, its address and what is prebuilt from them."""

    __slots__ = (
        "address",
        "address_lines",
        "drain",
        "ejection",
        "facts",
        "former_pin",
        "has_connected",
        "id",
        "outdated",
        "pin",
        "pool",
        "service",
        "sessions",
        "slot",
        "slot_pin",
        "slots",
        "slow_start",
        "state",
        "tally",
        "target",
        "tenths",
        "unreached",
        "watch",
    )

    def __init__(
        self,
        service: str,
        spec: EndpointSpec,
        pin: bytes,
        pool: Connections,
        tls: UpstreamTls | None = None,
        *,
        former_pin: bytes = b"",
    ) -> None:
        """``pool``: of connections to where ``spec`` and ``tls`` say. ``former_pin``: the one that
        names no slot, if ``pin`` does."""
        self.service = service
        self.id = spec.id
        self.slot = spec.slot
        self.outdated = spec.outdated
        """It is to be replaced soon."""
        self.address = spec.address
        self.target = spec.target(tls)
        self.address_lines = (
            b"x-upstream-addr: " + spec.address.encode() + b"\r\nx-upstream-response-time: "
        )
        self.pin = pin
        self.slot_pin = slot_of_pin(pin)
        """The part of it that names the slot; empty: it has none."""
        self.former_pin = former_pin
        """What pins of it were like before they named slots."""
        self.pool = pool
        self.drain: Drain = "none"
        """What it still gets while it drains."""
        self.ejection: Ejection = DEFAULT_EJECTION
        """When it is taken out because of what came of requests."""
        self.slots: Slots | None = None
        """For the requests that it has; None: as many as there are."""
        self.slow_start = 0.0
        """Seconds that it takes to warm up when it comes back."""
        self.tenths = ALL_TENTHS
        """How much of its share of new sessions it gets; less while it warms up."""
        self.watch: WatchesResponses | None = None
        """None unless its responses matter to somebody besides the client."""
        self.facts = declared_facts(spec)
        self.state = state_of(self.facts)
        self.sessions: Sessions | None = Sessions() if self.facts.by_hand else None
        """Those that it still has; None unless an operator wants it to be empty."""
        self.tally: TallySheet | None = None
        """Where its requests are noted; None: nobody counts them."""
        self.has_connected = False
        """True once it has taken a connection."""
        self.unreached = False
        """True while it has taken none, though it was tried."""

    def declare(self, service: ServiceSpec, headcount: Headcount | None = None) -> None:
        """From now on this is what its service says of all its endpoints. ``headcount``: what all
        workers have; None: there is one."""
        self.drain = service.drain
        self.ejection = service.ejection or DEFAULT_EJECTION
        self.slow_start = service.slow_start
        in_flight = None if service.terms is None else service.terms.in_flight
        if in_flight is None:
            self.slots = None
        elif self.slots is None:
            self.slots = Slots(in_flight, headcount, f"{self.service} {self.id}".encode())
        else:
            self.slots.declare(in_flight)
        self.pool.limit(service.timeouts)
        self._tell_pool()

    @property
    def keeps(self) -> Drain:
        """What it still gets if it drains now. An operator who drains it waits for its sessions,
        but does not hold up a provider that stops it."""
        return "sticky" if self.facts.asked_to_drain and not self.facts.draining else self.drain

    def note(self, facts: Facts) -> bool:
        """Note these facts. True if that changes the state: then the balancers of all
        clusters with this endpoint are out of date (``RoutingTable.note`` sees to them)."""
        self.facts = facts
        before, self.state = self.state, state_of(facts)
        if facts.by_hand is not (self.sessions is not None):
            self.sessions = Sessions() if facts.by_hand else None
        self._tell_pool()
        return self.state is not before

    def _tell_pool(self) -> None:
        """Servers that stop gracefully wait for idle connections, or close them while the next
        request is on its way."""
        gives_up = self.facts.drains and self.keeps == "none"
        self.pool.keep_idle(not (gives_up or self.facts.in_maintenance))

    def __repr__(self) -> str:
        return f"<Endpoint {self.service}/{self.id} {self.address} {self.state.value}>"


class Affinity(Enum):
    """How a pick was decided: the word in the access log."""

    NONE = "none"  # no affinity asked for, or no key to hash
    NEW = "new"  # first request of a session: a pin is issued
    PINNED = "pinned"  # the client's pin named a usable endpoint
    HASHED = "hashed"  # a key of the request was hashed
    REPINNED_GONE = "repinned-gone"  # its pin names an unknown endpoint
    REPINNED_DOWN = "repinned-down"  # its pin names an endpoint that is not usable
    REPINNED_DRAINING = "repinned-draining"  # its pin names an endpoint that is being stopped
    REPINNED_FAILED = "repinned-failed"  # its endpoint has just refused the connection
    SUCCESSOR = "successor"  # its endpoint was replaced: re-pinned to who holds the slot now
    WAITED = "waited"  # likewise, after it had waited for that one
    VISIT = "visit"  # its slot is empty for the moment: elsewhere, and the pin is kept


class CookieIssue(Protocol):
    """The cookies that a pick owes the client; asked once, when the response head is known."""

    @property
    def due(self) -> bool:
        """True if ``values`` must be asked even for a response that sets no cookie itself."""

    def values(self, answered: Sequence[bytes], secure: bool) -> Sequence[bytes]:
        """The Set-Cookie values to append to a response whose own are ``answered``.
        ``secure``: the client speaks TLS."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A balancer's choice. Prebuilt where possible: it holds nothing of the request."""

    endpoint: Endpoint
    affinity: Affinity
    cookies: CookieIssue | None = None
    left: str | None = None
    """The session moves here from the endpoint with this id, or, if it is empty, from one that is
    not known; None: it does not move."""
    wait: float = 0.0
    """Seconds for which it is worth waiting, as a better choice is on its way; picked again after
    every change until then."""


class Meaning(Enum):
    """What a balancer makes of something in a request."""

    PIN = "pin"  # names an endpoint that keeps its sessions
    PIN_LEAVING = "pin of an endpoint that is being stopped"
    PIN_DOWN = "pin of an endpoint that is down"
    PIN_SUCCEEDED = "pin of a slot that another endpoint holds now"
    PIN_AWAITED = "pin of a slot that is about to be filled"
    PIN_UNKNOWN = "pin of no endpoint of this service"
    KEY = "key"  # it is hashed
    NOTHING = "nothing"  # neither a pin nor a key


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something in a request that a balancer looks at."""

    source: str
    """Where it is, such as ``cookie session``."""
    value: bytes
    meaning: Meaning
    decides: bool = False
    """The endpoint is chosen by it."""
    endpoint: Endpoint | None = None
    """The one that it names, or that owns it; None: there is none."""
    slot: int | None = None
    """Of a key: its slot in the table of slots."""


# --- protocols ------------------------------------------------------------------------------


class Request(Protocol):
    """What a balancer may read of a request. Values are bytes as received."""

    @property
    def idempotent(self) -> bool:
        """True if doing it twice is doing it once (RFC 9110 section 9.2.2)."""

    @property
    def client_address(self) -> str:
        """IP address of the client as reported by trusted proxies; empty on a unix socket."""

    def cookies(self, name: bytes) -> Sequence[bytes]:
        """Values of all cookies of that name, in the order sent, quotes kept."""

    def header(self, name: str) -> bytes | None:
        """First value of the header field (name without case), None if absent."""

    def query(self, name: bytes) -> bytes | None:
        """First value of the query parameter as sent (not decoded), None if absent."""


class Balancer(Protocol):
    """Built from a policy for one set of endpoints; replaced whole when the set changes."""

    strips: frozenset[bytes]
    """Names of cookies whose pins are the proxy's own and are not shown to the endpoint."""

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        """Choose an endpoint that is not in ``tried``; None if there is none. No I/O."""


@runtime_checkable
class ReadsRequests(Protocol):
    """A balancer that can say what it looks at."""

    def evidence(self, request: Request) -> Sequence[Evidence]:
        """What it looks at in a request, in its order of precedence."""


@runtime_checkable
class Awaits(Protocol):
    """A balancer that knows of endpoints that are about to be."""

    def worth_waiting(self, request: Request, tried: Collection[Endpoint]) -> float:
        """Seconds for which it is worth waiting where ``pick`` found nobody; see ``Pick.wait``."""


@runtime_checkable
class HandsOver(Protocol):
    """A balancer whose sessions can be given to another endpoint."""

    def hand_over(self, request: Request, pick: Pick, to: bytes) -> CookieIssue | None:
        """What is owed to the client that ``pick`` was made for when its session goes to the
        endpoint with the slot ``to``, or to ``any`` other; None: there is none."""


@dataclass(frozen=True, slots=True)
class Members:
    """The endpoints of a cluster by what they may be used for; order is by (service, id)."""

    usable: tuple[Endpoint, ...] = ()
    draining: tuple[Endpoint, ...] = ()
    """They keep their sessions."""
    leaving: tuple[Endpoint, ...] = ()
    """They drain too, and get nothing: their sessions are re-pinned."""
    down: tuple[Endpoint, ...] = ()
    coming: frozenset[bytes] = frozenset()
    """``slot_pin`` of the slots that are about to be filled."""

    @property
    def accepting(self) -> tuple[Endpoint, ...]:
        """Endpoints for new sessions: draining ones rather than none, as they still respond
        and the alternative is a 503; but never those that an operator wants to be empty."""
        return self.usable or tuple([e for e in self.draining if not e.facts.asked_to_drain])
