"""DATA PLANE: endpoints that were contacted for a request, as its response tells."""

from __future__ import annotations

from collections.abc import Sequence

from stickyproxy.semantics.headers import seconds


class Attempt:
    """An endpoint that was contacted and did not answer: its address and how long it took."""

    __slots__ = ("address", "seconds")

    def __init__(self, address: str, elapsed: float) -> None:
        self.address = address
        self.seconds = elapsed


def upstream_lines(attempts: Sequence[Attempt]) -> bytes:
    """The two fields that list the endpoints contacted, without the last line end."""
    addresses = ", ".join(attempt.address for attempt in attempts).encode()
    times = b", ".join(seconds(attempt.seconds) for attempt in attempts)
    return b"x-upstream-addr: %b\r\nx-upstream-response-time: %b" % (addresses, times)
