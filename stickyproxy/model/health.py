"""What keeps an endpoint from getting requests: how it is watched, and what was found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ejection:
    """When endpoints are taken out because of what came of requests."""

    after_5xx: int = 0
    """So many responses with a status of 500 or more in a row; 0: none is held against them."""
    share: float = 0.5
    """The part of a service's endpoints, from 0 to 1, that may be out for it at a time."""


DEFAULT_EJECTION = Ejection()


@dataclass(frozen=True, slots=True)
class Checks:
    """The requests by which endpoints are checked, and what follows from the responses. Times are
    in seconds."""

    path: str
    """The target of a GET."""
    host: str = ""
    """Its Host field; empty: the endpoint's address."""
    interval: float = 5.0
    """From one check to the next."""
    timeout: float = 3.0
    """Until the head of the response is there, connecting included."""
    rise: int = 2
    """Checks passed in a row that bring one back."""
    fall: int = 3
    """Checks failed in a row that take one out."""
    status: tuple[tuple[int, int], ...] = ((200, 399),)
    """(first, last) of the statuses that pass."""

    def passes(self, status: int) -> bool:
        """Whether a response with this status speaks for its endpoint."""
        return any(first <= status <= last for first, last in self.status)

    @property
    def wanted(self) -> str:
        """The statuses that pass, as they are configured."""
        return ",".join(
            str(first) if first == last else f"{first}-{last}" for first, last in self.status
        )


@dataclass(frozen=True, slots=True)
class Outage:
    """Why an endpoint gets nothing. Times are Unix times in seconds."""

    reason: str
    since: float
    until: float | None = None
    """When it is tried again; None: not by the clock, but when it has shown that it is well."""
