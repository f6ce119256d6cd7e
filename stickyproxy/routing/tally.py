"""What one process notes of an endpoint's requests until it is added up.

The path of a request pays for noting alone: one number, and one line in a list. What can be said of
all lines together is worked out together, once a second, in a fraction of the time.
"""

from __future__ import annotations

from typing import Any

Line = tuple[float, float | None, int, Any, Any, bool, int, int]
"""Of a request that has ended: seconds from its head to its end; from contacting the endpoint to
the head of its response, None if there was none; the status that the client was sent, 0: none; the
``Outcome``; the ``Affinity``, None if no endpoint was picked; whether the connection had been kept;
bytes of the response's body, and of the request's."""


class TallySheet:
    """Of one endpoint, or of the requests of a service that no endpoint has got."""

    __slots__ = ("begun", "broken", "ended", "failed", "lines", "newcomers", "page")

    def __init__(self) -> None:
        self.begun = 0
        """Attempts, since counting began."""
        self.failed = 0
        """Of those, how many failed before the head of a response."""
        self.ended = 0
        """Of those, how many ended otherwise, ``lines`` not included."""
        self.broken = 0
        """Of those that ended otherwise, how many the endpoint has failed all the same."""
        self.lines: list[Line] = []
        self.newcomers: list[bytes] = []
        """The keys of clients that have shown up."""
        self.page = object()
        """Replaced from time to time, when all clients count as newcomers again."""

    @property
    def in_flight(self) -> int:
        """Requests that the endpoint has now."""
        return self.begun - self.failed - self.ended - len(self.lines)

    def __repr__(self) -> str:
        return f"<TallySheet {self.begun} begun, {self.in_flight} in flight>"
