"""Which requests a service takes, as declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests of a client in so much time."""

    requests: int
    seconds: int
    burst: int
    """Those that may come at once, after a pause."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests that an endpoint has at a time."""

    most: int
    queue: int
    """Those that may wait for it."""
    patience: float
    """Seconds for which they do."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is refused of a service's requests. By default nothing is."""

    allow_from: tuple[Network, ...] = ()
    """Only clients in these networks may ask; empty: all."""
    deny_from: tuple[Network, ...] = ()
    """Clients in these may not, even if they are allowed."""
    max_body: int | None = None
    """Bytes of a request's body."""
    rate: Rate | None = None
    """Of each client address."""
    in_flight: InFlight | None = None
    """At each endpoint."""
    users: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """(name, hash of the password) of those that may ask; empty: anybody."""
