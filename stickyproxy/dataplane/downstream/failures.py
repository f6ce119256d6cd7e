"""DATA PLANE: connections that came to nothing before there was a request: counted and logged, but
not each of them, as whoever makes one can make thousands."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable

from stickyproxy.dataplane.downstream.arrivals import GONE, LATE
from stickyproxy.dataplane.downstream.limits import TOO_MANY, TOO_MANY_OF_CLIENT

log = logging.getLogger("stickyproxy")

IN_THE_CLEAR = "it speaks in the clear where TLS is spoken"

LOG_SECONDS = 10.0
"""Between two lines about the same reason."""

_REASONS = {
    "UNSUPPORTED_PROTOCOL": "the client knows no version of TLS that is spoken here",
    "NO_SHARED_CIPHER": "the client knows no cipher that is used here",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client has no certificate",
    "CERTIFICATE_VERIFY_FAILED": "the client's certificate is not accepted",
}
"""OpenSSL's reasons for what happens most."""


def reason_of(error: BaseException) -> str:
    """Why a handshake failed, in words that do not depend on who the client is."""
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "UNKNOWN"
        if reason in _REASONS:
            return _REASONS[reason]
        _, alert, what = reason.partition("_ALERT_")
        words = (what or reason).lower().replace("_", " ")
        return f"the client refuses ({words})" if alert else f"the handshake failed ({words})"
    if isinstance(error, ConnectionAbortedError):  # so uvloop calls it
        return LATE
    return GONE


_KIND_OF = {
    LATE: "late",
    GONE: "gone",
    "the client knows no version of TLS that is spoken here": "version",
    "the client knows no cipher that is used here": "cipher",
    "the client has no certificate": "no-client-certificate",
    "the client's certificate is not accepted": "client-certificate",
    IN_THE_CLEAR: "in-the-clear",
    TOO_MANY: "too-many",
    TOO_MANY_OF_CLIENT: "too-many-of-client",
}

KINDS = (*_KIND_OF.values(), "refused-by-client", "handshake", "other")
"""What reasons are counted as: some of them hold numbers that clients choose."""


def kind_of(reason: str) -> str:
    """The one of ``KINDS`` that a reason belongs to."""
    if kind := _KIND_OF.get(reason):
        return kind
    if reason.startswith("the client refuses"):
        return "refused-by-client"
    return "handshake" if reason.startswith("the handshake failed") else "other"


class ConnectionFailures:
    """Those of one process."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        """How many there were, by reason."""
        self.on_failure: Callable[[str], None] | None = None
        """Called with the reason of each; None: there is no observer."""
        self._unsaid: Counter[str] = Counter()
        """Of those, how many came since the latest line about their reason."""
        self._resting: dict[str, asyncio.TimerHandle] = {}
        """When there may be another line about a reason."""

    def note(self, reason: str, client: str) -> None:
        """A connection of ``client`` (an IP address; empty on a unix socket) has failed."""
        self.total[reason] += 1
        if self.on_failure is not None:
            self.on_failure(reason)
        if reason in self._resting:
            self._unsaid[reason] += 1
            return
        log.log(_level(reason), "a connection of %s was closed: %s", client or "unix:", reason)
        self._rest(reason)

    def stop(self) -> None:
        """Say the rest."""
        for reason, timer in list(self._resting.items()):
            timer.cancel()
            self._say(reason)
        self._resting.clear()

    def _rest(self, reason: str) -> None:
        loop = asyncio.get_running_loop()
        self._resting[reason] = loop.call_later(LOG_SECONDS, self._rested, reason)

    def _rested(self, reason: str) -> None:
        del self._resting[reason]
        if self._say(reason):
            self._rest(reason)

    def _say(self, reason: str) -> int:
        count = self._unsaid.pop(reason, 0)
        if count:
            closed = "connection was closed" if count == 1 else "connections were closed"
            log.log(_level(reason), "%d more %s: %s", count, closed, reason)
        return count


def _level(reason: str) -> int:
    """That there are too many is news to whoever set the limit, not only to the client."""
    return logging.WARNING if reason in (TOO_MANY, TOO_MANY_OF_CLIENT) else logging.INFO
