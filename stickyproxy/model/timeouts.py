"""How long an endpoint and its client may take."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. None of a service: what holds for all of them."""

    connect: float | None = None
    """Until an endpoint has accepted a connection."""
    response: float | None = None
    """Silence of the endpoint until the head of its response."""
    response_idle: float | None = None
    """Its silence between two reads of a body; None: ``response``, and no limit for server-sent
    events, which are silent by nature."""
    client: float | None = None
    """How long a client may neither send nor take a byte of a body."""
    upgrade_idle: float | None = None
    """Silence of both sides after an upgrade; None: no limit."""

    def over(self, others: Timeouts) -> Timeouts:
        """These, and those of ``others`` where there is none."""
        pairs = [(getattr(self, each.name), getattr(others, each.name)) for each in fields(self)]
        return Timeouts(*[theirs if mine is None else mine for mine, theirs in pairs])
