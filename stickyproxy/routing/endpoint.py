"""What is live: endpoints and picks, and the protocols between a proxy and its balancers.

Live objects carry state and stay in the process that made them. What an endpoint may be used for
follows from what is known of it. Whoever knows something notes that fact, and takes back that fact
alone:

    fact            who notes it                      while it holds, the endpoint
    --------------  --------------------------------  ------------------------------------
    draining        its provider                      keeps its sessions and gets none new
    asked_to_drain  the operator                      likewise
    in_maintenance  the operator                      gets nothing, whatever else is known
    ejected         Health: it takes no connections   likewise
    unhealthy       a check of what it answers        likewise
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from stickyproxy.model.service import EndpointSpec

# --- live -----------------------------------------------------------------------------------


class Connections(Protocol):
    """What an endpoint's connection pool must offer to whoever owns the endpoint."""

    def close(self) -> None:
        """Close idle connections now and busy ones when their exchange ends."""


class EndpointState(Enum):
    """What an endpoint may be used for."""

    USABLE = "usable"
    DRAINING = "draining"  # keeps its pins, gets no new sessions
    DOWN = "down"  # gets nothing


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an endpoint; any of it may hold at a time."""

    draining: bool = False
    asked_to_drain: bool = False
    in_maintenance: bool = False
    ejected: bool = False
    unhealthy: bool = False


def state_of(facts: Facts) -> EndpointState:
    """What an endpoint of which this is known may be used for."""
    if facts.in_maintenance or facts.ejected or facts.unhealthy:
        return EndpointState.DOWN
    if facts.draining or facts.asked_to_drain:
        return EndpointState.DRAINING
    return EndpointState.USABLE


_NOTHING_KNOWN, _DECLARED_DRAINING = Facts(), Facts(draining=True)


def declared_facts(spec: EndpointSpec) -> Facts:
    """What its provider says of an endpoint."""
    return _DECLARED_DRAINING if spec.draining else _NOTHING_KNOWN


class Endpoint:
    """One live replica: its identity, its address and what is prebuilt from them."""

    __slots__ = (
        "address",
        "address_lines",
        "facts",
        "has_connected",
        "id",
        "pin",
        "pool",
        "service",
        "state",
        "target",
    )

    def __init__(self, service: str, spec: EndpointSpec, pin: bytes, pool: Connections) -> None:
        self.service = service
        self.id = spec.id
        self.address = spec.address
        self.target = spec.target
        self.address_lines = (
            b"x-upstream-addr: " + spec.address.encode() + b"\r\nx-upstream-response-time: "
        )
        self.pin = pin
        self.pool = pool
        self.facts = declared_facts(spec)
        self.state = state_of(self.facts)
        self.has_connected = False
        """True once it has taken a connection."""

    def note(self, facts: Facts) -> bool:
        """From now on this is known. True if that changes the state: then the balancers of all
        clusters with this endpoint are out of date (``RoutingTable.note`` sees to them)."""
        self.facts = facts
        before, self.state = self.state, state_of(facts)
        return self.state is not before

    def __repr__(self) -> str:
        return f"<Endpoint {self.service}/{self.id} {self.address} {self.state.value}>"


class Affinity(Enum):
    """How a pick was decided: the word in the access log."""

    NONE = "none"  # no affinity asked for, or no key to hash
    NEW = "new"  # first request of a session: a pin is issued
    PINNED = "pinned"  # the client's pin named a usable endpoint
    HASHED = "hashed"  # a key of the request was hashed
    REPINNED_GONE = "repinned-gone"  # its pin names no endpoint that we know
    REPINNED_DOWN = "repinned-down"  # its pin names an endpoint that is not usable
    REPINNED_FAILED = "repinned-failed"  # its endpoint refused the connection just now


class CookieIssue(Protocol):
    """The cookies that a pick owes the client; asked once, when the response head is known."""

    @property
    def due(self) -> bool:
        """True if ``values`` must be asked even for a response that sets no cookie itself."""

    def values(self, answered: Sequence[bytes], secure: bool) -> Sequence[bytes]:
        """The Set-Cookie values to append to a response whose own ones are ``answered``.
        ``secure``: the client speaks TLS."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A balancer's answer. Prebuilt where it can be: it holds nothing of the request."""

    endpoint: Endpoint
    affinity: Affinity
    cookies: CookieIssue | None = None


# --- protocols ------------------------------------------------------------------------------


class Request(Protocol):
    """What a balancer may ask of a request. Values are bytes as they came over the wire."""

    @property
    def client_address(self) -> str:
        """IP address of the client as trusted proxies tell it; empty on a unix socket."""

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


@dataclass(frozen=True, slots=True)
class Members:
    """The endpoints of a cluster by what they may be used for; order is by (service, id)."""

    usable: tuple[Endpoint, ...] = ()
    draining: tuple[Endpoint, ...] = ()
    down: tuple[Endpoint, ...] = ()

    @property
    def accepting(self) -> tuple[Endpoint, ...]:
        """Who takes new sessions: a draining endpoint rather than nobody, for it still answers
        and the alternative is a 503."""
        return self.usable or self.draining
