"""DATA PLANE: responses of our own: plain text that says what is wrong, for a person to read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache

from stickyproxy.base.errors import (
    BadRequest,
    ClientStalled,
    ConnectError,
    OutOfResources,
    UpstreamTimeout,
)
from stickyproxy.dataplane.outcome import Outcome, outcome_of
from stickyproxy.semantics.headers import printable
from stickyproxy.semantics.request import ClientRequest

REASONS = {
    302: b"Found",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    414: b"URI Too Long",
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
    """What the client sends behind this request is not to be trusted."""

    def body(self) -> bytes:
        """The text, as it is sent."""
        return self.text.encode("ascii", "backslashreplace") + b"\n"

    def head_fields(self, length: int) -> list[bytes]:
        """The header lines, but for those about the request. ``length``: bytes of the body."""
        return [
            _date_line(int(time.time())),
            b"Content-Type: text/plain; charset=utf-8",
            b"Content-Length: %d" % length,
            b"X-Content-Type-Options: nosniff",
            *self.fields,
        ]


@lru_cache(1)
def _date_line(second: int) -> bytes:
    return b"Date: " + formatdate(second, usegmt=True).encode()


def refusal(error: BadRequest) -> Reply:
    """A request that must not be forwarded."""
    stalled = error.status == 408
    outcome = Outcome.CLIENT_STALLED if stalled else Outcome.BAD_REQUEST
    return Reply(error.status, error.message, outcome, last=True)


def unknown(request: ClientRequest) -> Reply:
    """Nobody answers for this host and path."""
    host = printable(request.host)
    path = printable(request.target.partition(b"?")[0])
    return Reply(
        404, f'no service is published for host "{host}" and path "{path}"', Outcome.NO_ROUTE
    )


def redirect(request: ClientRequest, destination: bytes) -> Reply:
    """The service says where to go instead."""
    location = destination + (b"/" if request.target == b"*" else request.target)
    text = f"moved to {printable(location)}"
    return Reply(302, text, Outcome.REDIRECTED, (b"Location: " + location,))


def nobody(service: str) -> Reply:
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
        case OutOfResources():
            return Reply(503, "this proxy is out of resources", outcome, _SOON)
        case UpstreamTimeout():
            return Reply(504, f"service {service}: the endpoint did not answer in time", outcome)
        case ConnectError():
            return Reply(502, f"service {service}: no endpoint accepts connections", outcome)
        case _:
            return Reply(502, f"service {service}: the endpoint gave no usable answer", outcome)


def bug() -> Reply:
    """We failed, and the log says how."""
    return Reply(500, "stickyproxy failed to answer this request", Outcome.BUG, last=True)
