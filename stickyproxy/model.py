"""The nouns: what is declared (frozen specs), what is live (Endpoint, Pick), and the protocols
between the floors.

Specs are frozen and picklable: they come from providers, are compared to see what changed, and
can travel to another process. Live objects carry state and stay in the process that made them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

# --- declared -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One replica as a provider declares it."""

    id: str
    """Identity: the Swarm task id; for static services the address as written."""
    address: str
    """``host:port``, ``[v6]:port`` or ``unix:/path``."""
    draining: bool = False
    """True while the replica is being taken down: it keeps its sessions and gets no new ones."""

    def __reduce__(self) -> tuple[type[EndpointSpec], tuple[object, ...]]:
        """Workers get them by the thousand; what a dataclass does by default takes three times as
        long."""
        return EndpointSpec, tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service as a provider declares it. Field names are those of the ``com.docker.lb.*``
    labels and of ``[[services]]`` in the configuration; all values are validated."""

    name: str
    hosts: tuple[str, ...]
    """Lower-case host names without port or trailing dot; ``*.example.com`` is a wildcard."""
    endpoints: tuple[EndpointSpec, ...] = ()
    context_root: str = "/"
    """Path prefix, starting with a slash; ends with none unless it is ``/``."""
    context_root_rewrite: bool = False
    """Strip the context root from the target that the endpoint sees."""
    sticky_session_cookie: str | None = None
    ip_hash: bool = False
    hash_cookie: str | None = None
    hash_cookie_ttl: float | None = None
    """Seconds; None: never generate the cookie; 0: generate a session cookie."""
    hash_cookie_path: str | None = None
    hash_header: str | None = None
    hash_query: str | None = None
    hash_source_ip: bool = False
    websocket_endpoints: tuple[str, ...] | None = None
    """Paths that may upgrade; None: all."""
    redirects: tuple[tuple[str, str], ...] = ()
    """(source host, destination URL prefix): a 302 to destination + request target."""
    default_backend: bool = False
    """Also answers for hosts nobody claims."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a service that its owner should know. All text is fit for a terminal."""

    service: str
    reason: str
    """A sentence that names the value and what would mend it."""
    label: str = ""
    """The label it is about; empty if it is about none."""
    value: str = ""
    """The value of that label, quoted; empty if there is none."""
    remedy: str = ""
    """A command that would mend it; empty if there is none."""
    fatal: bool = False
    """True if because of it the service is not published as declared."""

    def __str__(self) -> str:
        about = f"service {self.service}: {self.label}".removesuffix(": ")
        end = f" (try: {self.remedy})" if self.remedy else ""
        return f"{about}: {self.reason}{end}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state of one provider at one moment."""

    provider: str
    services: tuple[ServiceSpec, ...]
    problems: tuple[Problem, ...] = ()
    realm: str = ""
    """What all proxies that see these services know alike, e.g. the id of the Swarm: pins are
    made from it where no secret is configured."""


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


EndpointKey = tuple[str, str]
"""The name of its service and its id: what an endpoint is called in all processes."""


class Endpoint:
    """One live replica: its identity, its address and what is prebuilt from them."""

    __slots__ = (
        "address",
        "address_lines",
        "has_connected",
        "id",
        "pin",
        "pool",
        "service",
        "state",
    )

    def __init__(self, service: str, spec: EndpointSpec, pin: bytes, pool: Connections) -> None:
        self.service = service
        self.id = spec.id
        self.address = spec.address
        self.address_lines = (
            b"x-upstream-addr: " + spec.address.encode() + b"\r\nx-upstream-response-time: "
        )
        self.pin = pin
        self.pool = pool
        self.state = EndpointState.DRAINING if spec.draining else EndpointState.USABLE
        self.has_connected = False
        """True once it has taken a connection."""

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


class Policy(Protocol):
    """The declared choice: frozen, validated, comparable."""

    def build(self, members: Members, previous: Balancer | None) -> Balancer:
        """A balancer over these members. ``previous`` is the one it replaces (of whatever
        policy): its cursor or slot table may be carried over."""

    def describe(self) -> str:
        """A few words for tables and logs, e.g. ``cookie session``."""
