"""What a provider declares: services and their endpoints.

Specs are frozen and picklable: they come from providers, are compared to see what changed, and
can travel to another process.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One replica as a provider declares it."""

    id: str
    """Identity: the Swarm task id; for static services the address as written."""
    address: str
    """``host:port``, ``[v6]:port`` or ``unix:/path``."""
    draining: bool = False
    """True while the replica is being taken down: it keeps its sessions and gets no new ones."""
    network: str = ""
    """The network whose connector makes connections to it; empty: the proxy reaches it itself."""

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


EndpointKey = tuple[str, str]
"""The name of its service and its id: what an endpoint is called in all processes."""
