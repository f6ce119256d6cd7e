"""DATA PLANE: responses of our own: plain text that says what is wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from html import escape

from stickyproxy.base.errors import (
    BadRequest,
    ClientStalled,
    ConnectError,
    InvalidHost,
    NetworkUnavailable,
    OutOfResources,
    UpstreamTimeout,
)
from stickyproxy.dataplane.outcome import Outcome, outcome_of
from stickyproxy.routing.admit import Denial
from stickyproxy.routing.table import challenge_token
from stickyproxy.semantics.headers import normalise_host, printable
from stickyproxy.semantics.request import ClientRequest

REASONS = {
    200: b"OK",
    302: b"Found",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    421: b"Misdirected Request",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}

_SOON = (b"Retry-After: 1",)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response that no endpoint gave."""

    status: int
    text: str
    outcome: Outcome
    fields: tuple[bytes, ...] = ()
    """Further header lines."""
    last: bool = False
    """Nothing that the client sends after this request can be trusted."""
    end: bytes = b"\n"
    """What follows the text."""

    page: str = ""
    """HTML that the text becomes a part of; empty: it is sent as it is."""

    def body(self) -> bytes:
        """The text, as it is sent."""
        if self.page:
            return self._on_page().encode()
        return self.text.encode("ascii", "backslashreplace") + self.end

    def head_fields(self, length: int) -> list[bytes]:
        """The header lines, except those about the request. ``length``: bytes of the body."""
        return [
            _date_line(int(time.time())),
            b"Content-Type: text/%b; charset=utf-8" % (b"html" if self.page else b"plain"),
            b"Content-Length: %d" % length,
            b"X-Content-Type-Options: nosniff",
            *self.fields,
        ]

    def _on_page(self) -> str:
        said = {
            "status": str(self.status),
            "reason": REASONS[self.status].decode(),
            "message": escape(self.text.encode("ascii", "backslashreplace").decode()),
        }
        return _PLACES.sub(lambda place: said[place[1]], self.page)


_PLACES = re.compile(r"\{(status|reason|message)\}")


@lru_cache(1)
def _date_line(second: int) -> bytes:
    return b"Date: " + formatdate(second, usegmt=True).encode()


def refusal(error: BadRequest) -> Reply:
    """A request that must not be forwarded."""
    outcome = _OUTCOMES.get(error.status, Outcome.BAD_REQUEST)
    return Reply(error.status, error.message, outcome, last=True)


_OUTCOMES = {408: Outcome.CLIENT_STALLED, 413: Outcome.REFUSED}


def refused(refusal: Denial) -> Reply:
    """The service does not take the request."""
    after = refusal.retry_after
    fields = () if after is None else (b"Retry-After: %d" % after,)
    return Reply(refusal.status, refusal.text, Outcome.REFUSED, fields)


def unauthorised(service: str) -> Reply:
    """The client has to say who it is (RFC 7617)."""
    challenge = f'WWW-Authenticate: Basic realm="{service}", charset="UTF-8"'
    fields = (challenge.encode(),)
    return Reply(401, f"service {service} asks for a name and a password", Outcome.REFUSED, fields)


def too_many_passwords() -> Reply:
    """There are more to be checked than can be."""
    return Reply(503, "too many passwords are being checked", Outcome.NO_RESOURCES, _SOON)


def too_busy(service: str) -> Reply:
    """Too many requests wait for the endpoint, or this one has waited for too long."""
    return Reply(503, f"service {service} has too many requests", Outcome.REFUSED, _SOON)


def too_large(most: int) -> BadRequest:
    """``most``: bytes that the service takes."""
    return BadRequest(413, f"the request body is longer than {most} bytes")


def unknown(request: ClientRequest) -> Reply:
    """No service is published for this host and path."""
    host = printable(request.host)
    path = printable(request.target.partition(b"?")[0])
    return Reply(
        404, f'no service is published for host "{host}" and path "{path}"', Outcome.NO_ROUTE
    )


def starting(awaited: Sequence[str], *, last: bool = False) -> Reply:
    """Nobody answers for this host and path yet. Why the providers are silent concerns only those
    who run the proxy: the log and the admin page say it."""
    silent = " and ".join(_SOURCES.get(name, name) for name in awaited)
    return Reply(
        503,
        f"starting: not all services are known yet; waiting for {silent}",
        Outcome.NO_ROUTE,
        _SOON,
        last=last,
    )


_SOURCES = {
    "swarm": "the Swarm",
    "docker": "the Docker engine",
    "controller": "the controller",
    "acme": "stored certificates",
}


def acme_challenge(authorization: bytes) -> Reply:
    """The answer to a challenge of http-01 (RFC 8555 section 8.3)."""
    return Reply(200, authorization.decode("ascii"), Outcome.ACME, end=b"")


def redirect(request: ClientRequest, destination: bytes) -> Reply:
    """The service redirects the client elsewhere."""
    location = destination + (b"/" if request.target == b"*" else request.target)
    text = f"moved to {printable(location)}"
    return Reply(302, text, Outcome.REDIRECTED, (b"Location: " + location,))


def is_challenge(request: ClientRequest) -> bool:
    """Whether it asks for the answer to a challenge of http-01 (RFC 8555 section 8.3), which is
    given in the clear."""
    return challenge_token(request.target) is not None


def to_https(request: ClientRequest, port: int) -> Reply:
    """The same over TLS. Raises InvalidHost."""
    host = normalise_host(request.host)
    if not host:
        raise InvalidHost(request.host)
    authority = host if port == 443 else b"%b:%d" % (host, port)
    target = b"/" if request.target == b"*" else request.target
    location = b"https://" + authority + target
    text = f"moved to {printable(location)}"
    return Reply(308, text, Outcome.REDIRECTED, (b"Location: " + location,))


def elsewhere(request: ClientRequest, destination: bytes | None, https_port: int) -> Reply:
    """Nobody answers here. ``destination``: where the service redirects clients to; None: it
    speaks TLS with them itself. Raises BadRequest."""
    if destination is not None:
        return redirect(request, destination)
    if not request.secure:
        return to_https(request, https_port)
    host = printable(request.host)
    raise BadRequest(
        421,
        f"connections for {host} are passed through by the name that TLS begins with, "
        "which is another one on this connection",
    )


def misdirected(request: ClientRequest) -> BadRequest:
    """RFC 9110 section 15.5.20: on a connection of its own the client will be asked."""
    host = printable(request.host)
    return BadRequest(
        421, f"{host} asks for client certificates in another way than this connection did"
    )


def no_endpoint(service: str) -> Reply:
    """The service has no endpoint that may be used."""
    return Reply(503, f"service {service} has no usable endpoint", Outcome.NO_ENDPOINT, _SOON)


def failure(service: str, error: Exception) -> Reply:
    """No endpoint gave a usable response."""
    outcome = outcome_of(error, head_sent=False)
    match error:
        case BadRequest():
            return refusal(error)
        case ClientStalled():
            return refusal(BadRequest(408, "the request body did not come"))
        case NetworkUnavailable(network=network):
            text = f"service {service}: there is no way into its network {network} at present"
            return Reply(503, text, outcome, _SOON)
        case OutOfResources():
            return Reply(503, "this proxy is out of resources", outcome, _SOON)
        case UpstreamTimeout():
            return Reply(504, f"service {service}: the endpoint did not respond in time", outcome)
        case ConnectError():
            return Reply(502, f"service {service}: no endpoint accepts connections", outcome)
        case _:
            return Reply(502, f"service {service}: the endpoint gave no usable response", outcome)


def bug() -> Reply:
    """The proxy failed, and the log says how."""
    return Reply(500, "stickyproxy failed to handle this request", Outcome.BUG, last=True)
