"""What a provider declares: services and their endpoints.

Specs are frozen and picklable: they come from providers, are compared to see what changed, and
can travel to another process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, get_args

from stickyproxy.model.edits import Edits
from stickyproxy.model.health import Checks, Ejection
from stickyproxy.model.target import Target
from stickyproxy.model.terms import Terms
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.model.tls import ClientAuth, UpstreamTls

OptionValue = bool | str | float

Drain = Literal["none", "safe", "sticky"]
"""What a replica that is being stopped still gets, as long as there is another: nothing; the
idempotent requests of its sessions; all requests of its sessions."""

AdminState = Literal["ready", "drain", "maintenance"]
"""What an operator wants of an endpoint: all; that it keeps its sessions and gets no new ones;
nothing. Each is stricter than the one before."""
ADMIN_STATES: tuple[AdminState, ...] = get_args(AdminState)


CODINGS = ("zstd", "br", "gzip")
"""Content codings that responses can get, the preferred one first."""


class PolicySpec(Protocol):
    """How a service's requests are distributed over its endpoints, as declared: a frozen
    dataclass, comparable and picklable, from one of the files in ``routing/balancers/``."""

    kind: ClassVar[str]
    """Its name, unique among policies. It must not change: other versions of the program
    know it too."""
    affinity: ClassVar[bool]
    """True if a client is to keep reaching one endpoint."""

    def describe(self) -> str:
        """A few words for tables and logs, e.g. ``cookie session``."""

    def options(self) -> Mapping[str, OptionValue]:
        """The options that select it, by name; without those that are off, and without the
        context root."""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One replica as a provider declares it."""

    id: str
    """Identity: the Swarm task id; for static services the address as written."""
    address: str
    """``host:port``, ``[v6]:port`` or ``unix:/path``."""
    draining: bool = False
    """True while the replica is being taken down: it gets no new sessions, and keeps those that it
    has as its service's ``drain`` says."""
    network: str = ""
    """The network whose connector opens connections to it; empty: the proxy connects directly."""
    server_name: str = ""
    """The name that it was declared by, if its service speaks TLS to it; empty: none."""
    admin_state: AdminState = "ready"
    """What an operator wants of it."""
    node: str = ""
    """The name of the machine that it runs on; empty: it is not known."""
    slot: str = ""
    """The place in its service that it holds, and its successor will hold: a number for a replica
    of a Swarm service, the node's id for a task of a global one, the ``id`` of a static endpoint;
    empty: it has no successor."""
    outdated: bool = False
    """True if its service is being updated, and its turn to be replaced is still to come."""

    @property
    def machine(self) -> str:
        """What operators call the machine that it runs on: its name, or else its address; empty:
        it is this one."""
        if self.node or self.address.startswith("unix:"):
            return self.node
        return self.address.rpartition(":")[0].strip("[]")

    def target(self, tls: UpstreamTls | None) -> Target:
        """Where connections to it go. ``tls``: of its service."""
        if tls is not None and self.server_name and not tls.server_name:
            tls = replace(tls, server_name=self.server_name)
        return Target(self.address, self.network, tls)

    def __reduce__(self) -> tuple[type[EndpointSpec], tuple[object, ...]]:
        """Workers receive thousands of them; what a dataclass does by default takes three times as
        long."""
        return EndpointSpec, tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service as a provider declares it. Field names are those of the ``com.docker.lb.*``
    labels and of ``[[services]]`` in the configuration, except for ``policy``, which is selected
    by several of these; all values are validated."""

    name: str
    hosts: tuple[str, ...]
    """Lower-case host names without port or trailing dot; ``*.example.com`` is a wildcard."""
    endpoints: tuple[EndpointSpec, ...] = ()
    context_root: str = "/"
    """Path prefix, starting with a slash; ends with none unless it is ``/``."""
    context_root_rewrite: bool = False
    """Strip the context root from the target that the endpoint sees."""
    policy: PolicySpec | None = None
    """None: the endpoints take turns."""
    websocket_endpoints: tuple[str, ...] | None = None
    """Paths that may upgrade; None: all."""
    redirects: tuple[tuple[str, str], ...] = ()
    """(source host, destination URL prefix): a 302 to destination + request target."""
    share: bool = False
    """Meant to share its hosts with other services that say so too."""
    default_backend: bool = False
    """Also serves hosts that no service claims."""
    drain: Drain = "none"
    """What its replicas still get while they are being stopped."""
    admin_state: AdminState = "ready"
    """What an operator wants of all its endpoints."""
    coming: tuple[str, ...] = ()
    """Slots that are about to be filled: an endpoint for each is on its way."""
    timeouts: Timeouts | None = None
    """Those that are its own; None: it has none."""
    ejection: Ejection | None = None
    """When endpoints are taken out because of what came of requests; None: as by default."""
    checks: Checks | None = None
    """The requests by which its endpoints are checked; None: there are none."""
    slow_start: float = 0.0
    """Seconds in which an endpoint that comes back gets more and more new sessions; 0: all of its
    share at once."""
    ssl_only: bool = False
    """Requests in the clear are redirected to https."""
    ssl_passthrough: bool = False
    """Its endpoints speak TLS with clients themselves; which service is meant says SNI alone."""
    hsts: str = ""
    """Value of Strict-Transport-Security (RFC 6797) in responses over TLS; empty: none."""
    acme: bool = False
    """Certificates for its hosts are ordered by ACME."""
    client_auth: ClientAuth | None = None
    """Clients of its hosts are asked for a certificate; None: as the listener says."""
    terms: Terms | None = None
    """Which requests it takes; None: all."""
    edits: Edits | None = None
    """Header fields that are set and removed; None: none."""
    error_page: str = ""
    """HTML for the proxy's own error responses; empty: one line of plain text."""
    compression: tuple[str, ...] = ()
    """Content codings that responses may get, the preferred one first; empty: none."""
    tls: UpstreamTls | None = None
    """How its endpoints are spoken to; None: in the clear."""

    def __reduce__(self) -> tuple[type[ServiceSpec], tuple[object, ...]]:
        """As for endpoints."""
        return ServiceSpec, tuple([getattr(self, name) for name in self.__slots__])

    def settled(self, endpoint: EndpointSpec) -> EndpointSpec:
        """One of its endpoints, with the stricter one of what an operator wants of it and of all
        endpoints."""
        wanted = strictest(self.admin_state, endpoint.admin_state)
        if wanted == endpoint.admin_state:
            return endpoint
        return replace(endpoint, admin_state=wanted)

    def numbers(self) -> Sequence[int]:
        """What its endpoints are called by operators, in their order: their slots if all have
        numbers there, else their places in the list. Two have the same while one of them takes
        the other's place."""
        slots = [endpoint.slot for endpoint in self.endpoints]
        if all(slot.isdecimal() for slot in slots):
            return [int(slot) for slot in slots]
        return range(1, len(slots) + 1)


EndpointKey = tuple[str, str]
"""The name of its service and its id: what an endpoint is called in all processes."""


def strictest(*states: AdminState) -> AdminState:
    """The one of these under which an endpoint gets the least."""
    return max(states, key=ADMIN_STATES.index)
