"""What TLS needs, on both sides of the proxy, as plain data: nothing here has been read from a file
by whoever uses it, and workers need no library to know what a certificate is for."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its chain and key."""

    name: str
    """Where it comes from, for messages: a file, a secret, an ACME order."""
    hosts: tuple[str, ...]
    """The names that it is for, in canonical form; ``*.example.com`` stands for one label. None at
    all: it is for those whom no other one is for."""
    chain: str
    """PEM, the certificate itself first."""
    key: str = field(repr=False)
    """PEM, not encrypted."""
    begins: float = 0.0
    expires: float = 0.0
    """From when to when it is valid: Unix time in seconds; 0: unknown."""
    caveat: str = ""
    """What some clients will not like about it, as a sentence; empty: nothing."""
    challenge: bool = False
    """It answers a challenge of tls-alpn-01 (RFC 8737), and nobody else gets it."""


@dataclass(frozen=True, slots=True)
class ClientAuth:
    """Clients are asked for a certificate."""

    ca: str
    """PEM: who must have issued it."""
    required: bool = True
    """No certificate, no connection; else the application is told whether there is one."""


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """TLS on a listener."""

    client_auth: ClientAuth | None = None
    """Of all hosts that have none of their own."""


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS to the endpoints of a service."""

    verify: bool = False
    """Endpoints must have a certificate that a known authority issued for ``server_name``."""
    ca: str = ""
    """PEM: that authority; empty: those that the system knows."""
    server_name: str = ""
    """Sent as SNI and verified; empty: the name that an endpoint was declared by, or else its IP
    address, which is only verified."""
    certificate: str = ""
    """PEM: what the proxy shows to endpoints that ask; empty: nothing."""
    key: str = field(default="", repr=False)
    """PEM: its key."""

    def describe(self) -> str:
        """A few words for tables, e.g. ``verified as shop.example.com``."""
        if not self.verify:
            return "not verified"
        return f"verified as {self.server_name}" if self.server_name else "verified"
