"""What a provider declares: services and their endpoints.

Specs are frozen and picklable: they come from providers, are compared to see what changed, and
can travel to another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from stickyproxy.model.target import Target

OptionValue = bool | str | float


class PolicySpec(Protocol):
    """How a service's requests are shared out among its endpoints, as it declares it: a frozen
    dataclass, comparable and picklable, from one of the files in ``routing/balancers/``."""

    kind: ClassVar[str]
    """Its name, unlike that of any other policy. It must not change: other versions of the program
    know it too."""
    affinity: ClassVar[bool]
    """True if a client is to keep reaching one endpoint."""

    def describe(self) -> str:
        """A few words for tables and logs, e.g. ``cookie session``."""

    def options(self) -> Mapping[str, OptionValue]:
        """The options that ask for it, by name; without those that are off, and without the
        context root."""


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

    @property
    def target(self) -> Target:
        """Where connections to it go."""
        return Target(self.address)

    def __reduce__(self) -> tuple[type[EndpointSpec], tuple[object, ...]]:
        """Workers get them by the thousand; what a dataclass does by default takes three times as
        long."""
        return EndpointSpec, tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service as a provider declares it. Field names are those of the ``com.docker.lb.*``
    labels and of ``[[services]]`` in the configuration, except for ``policy``, which several of
    these ask for; all values are validated."""

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
    default_backend: bool = False
    """Also serves hosts that no service claims."""

    def __reduce__(self) -> tuple[type[ServiceSpec], tuple[object, ...]]:
        """As for endpoints."""
        return ServiceSpec, tuple([getattr(self, name) for name in self.__slots__])


EndpointKey = tuple[str, str]
"""The name of its service and its id: what an endpoint is called in all processes."""
