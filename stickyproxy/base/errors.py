"""The exceptions stickyproxy raises, and nothing else.

StickyproxyError
├── ConfigError            the configuration file cannot be used; carries every problem found
├── ListenError            a listener cannot be opened (port taken, no permission)
├── ProviderError          a provider's source cannot be queried (engine or controller away)
├── OrderFailed            a certificate authority did not issue what was ordered
├── BadRequest             a request that is refused before anything is forwarded
│   └── InvalidHost        its Host field cannot be a host name
├── NotTls                 what a client began its connection with is no TLS handshake
├── HandshakeRefused       its TLS handshake is refused, and an alert says why
├── BadProxyHeader         a connection does not begin with the PROXY header that it must have
├── ClientStalled          the client neither sent nor took a byte of a body for too long
├── OutOfResources         we lack file descriptors, ports or memory: no endpoint's fault
│   └── NetworkUnavailable the connector of the endpoint's network is missing or silent
└── UpstreamError          an endpoint did not give a usable response
    ├── ConnectError       no connection: nothing was sent, another endpoint may be tried
    │   └── HandshakeError there was one, but TLS could not be agreed upon, or is not trusted
    ├── UpstreamClosed     the connection ended before the response was complete
    ├── UpstreamTimeout    the endpoint stayed silent for too long
    └── UpstreamProtocolError   the endpoint's response is not HTTP/1.x
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class StickyproxyError(Exception):
    """Base of everything raised on purpose by this package."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong in a configuration: where it is and how to fix it."""

    place: str
    """Dotted path of the key, e.g. ``services[0].port`` (with the service's name when known)."""
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}" if self.place else self.reason


class ConfigError(StickyproxyError):
    """A configuration that cannot be used. ``problems`` holds every one found, not the first."""

    def __init__(self, source: str, problems: Sequence[ConfigProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


class ListenError(StickyproxyError):
    """A listener cannot be opened; the message names the address and the remedy."""


class ProviderError(StickyproxyError):
    """A provider's source cannot be queried; the message says how to fix it."""


class OrderFailed(StickyproxyError):
    """No certificate was issued; the message says why in the authority's own words, and what to do
    about it."""

    def __init__(
        self, message: str, *, retry_after: float = 0.0, all_after: float | None = None
    ) -> None:
        """``retry_after``: seconds for which the authority will not hear of these names; 0: it did
        not say. ``all_after``: the same for all names; None: other orders are not concerned."""
        self.retry_after = retry_after
        self.all_after = all_after
        super().__init__(message)


class BadRequest(StickyproxyError):
    """A request refused before anything of it is forwarded; the connection is closed after."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


class InvalidHost(BadRequest):
    """The Host field cannot be a host name (RFC 9112 section 3.2)."""

    def __init__(self, host: bytes) -> None:
        super().__init__(400, "invalid Host: " + ascii(host[:200])[2:-1])


class NotTls(StickyproxyError):
    """What a client sent first on a TLS listener is no ClientHello; the message says why not, as
    the end of a sentence about the client, without anything that it sent."""


class HandshakeRefused(StickyproxyError):
    """A ClientHello that is not answered but with an alert, a number of RFC 8446 section 6; the
    message says why, without anything that the client sent."""

    def __init__(self, alert: int, message: str) -> None:
        self.alert = alert
        super().__init__(message)


class BadProxyHeader(StickyproxyError):
    """A trusted proxy did not begin its connection with a header of the PROXY protocol."""


class ClientStalled(StickyproxyError):
    """The client neither sent nor took a byte of a body for longer than the timeout."""


class OutOfResources(StickyproxyError):
    """No connection could be made because this process lacks file descriptors, ports or memory."""


class NetworkUnavailable(OutOfResources):
    """The endpoint is on a network that this node cannot reach at present; the message says
    what has become of the network's connector."""

    def __init__(self, network: str, message: str) -> None:
        self.network = network
        super().__init__(message)


class UpstreamError(StickyproxyError):
    """An endpoint did not give a usable response."""


class ConnectError(UpstreamError):
    """No connection could be made: the endpoint has seen nothing of the request."""


class HandshakeError(ConnectError):
    """The endpoint accepted a connection, but no TLS came of it that may be used."""

    def __init__(self, address: str, trouble: str) -> None:
        self.trouble = trouble
        """What is wrong."""
        super().__init__(f"{address}: no TLS: {trouble}")


class UpstreamClosed(UpstreamError):
    """The endpoint closed or reset the connection before its response was complete."""


class UpstreamTimeout(UpstreamError):
    """The endpoint stayed silent for longer than the configured timeout."""


class UpstreamProtocolError(UpstreamError):
    """What the endpoint sent is not an HTTP/1.x response."""
