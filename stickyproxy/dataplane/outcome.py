"""DATA PLANE: how a request ended: which side ended it, and why."""

from __future__ import annotations

from enum import Enum

from stickyproxy.base.errors import (
    ClientStalled,
    ConnectError,
    NetworkUnavailable,
    OutOfResources,
    UpstreamClosed,
    UpstreamTimeout,
)


class Outcome(Enum):
    """The word in the access log. Every request has exactly one."""

    COMPLETE = "complete"  # the endpoint's response reached the client's transport whole
    SWITCHED = "switched"  # a tunnel after 101 that either side has closed
    PASSED = "passed"  # TLS that was passed through, until both sides had ended
    REDIRECTED = "redirected"  # a response of our own, as configured
    ACME = "acme"  # the answer to a challenge of a certificate authority
    BAD_REQUEST = "bad-request"  # malformed or not allowed
    REFUSED = "refused"  # more, or from elsewhere, than the service takes
    NO_ROUTE = "no-route"
    NO_ENDPOINT = "no-endpoint"  # the service has no usable endpoint
    CLIENT_GONE = "client-gone"
    CLIENT_STALLED = "timeout-client"  # neither sent its body nor took the response
    RETRIES_SPENT = "retries-spent"  # no connection to any endpoint that was tried
    HEAD_TIMEOUT = "timeout-head"  # the endpoint did not respond in time
    IDLE_TIMEOUT = "timeout-idle"  # it stopped in the middle of its response
    UPSTREAM_CLOSED = "upstream-reset"  # it closed the connection before its response was whole
    UPSTREAM_MALFORMED = "upstream-malformed"
    NO_RESOURCES = "no-resources"  # here: file descriptors, ports or memory
    NO_NETWORK = "no-network"  # no way into the endpoint's network: its connector is wanting
    BUG = "internal-error"


def outcome_of(error: Exception, *, head_sent: bool) -> Outcome:
    """The outcome of an exchange that failed so. ``head_sent``: the client has the head of the
    response."""
    match error:
        case ClientStalled():
            return Outcome.CLIENT_STALLED
        case UpstreamTimeout():
            return Outcome.IDLE_TIMEOUT if head_sent else Outcome.HEAD_TIMEOUT
        case UpstreamClosed():
            return Outcome.UPSTREAM_CLOSED
        case ConnectError():
            return Outcome.RETRIES_SPENT
        case NetworkUnavailable():
            return Outcome.NO_NETWORK
        case OutOfResources():
            return Outcome.NO_RESOURCES
        case _:
            return Outcome.UPSTREAM_MALFORMED
