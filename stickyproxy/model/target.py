"""Where connections to an endpoint go."""

from __future__ import annotations

from dataclasses import dataclass

from stickyproxy.model.tls import UpstreamTls


@dataclass(frozen=True, slots=True)
class Target:
    """This alone decides whether two connections lead to the same place in the same way. A
    connection pool belongs to a target: an endpoint whose target changes gets a new pool."""

    address: str
    """``host:port``, ``[v6]:port`` or ``unix:/path``."""
    network: str = ""
    """The network whose connector makes them; empty: this process does, by itself."""
    tls: UpstreamTls | None = None
    """None: in the clear."""

    def __str__(self) -> str:
        return self.address
