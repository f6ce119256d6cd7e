"""What is in the secrets that labels name, as far as it has been read."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ProviderError
from stickyproxy.model.snapshot import Problem
from stickyproxy.providers.swarm.custodian import NAME, custodian_of
from stickyproxy.providers.swarm.reader import Reading
from stickyproxy.providers.swarm.state import Json, ProxyLocation, SwarmState

PATIENCE = 20.0
"""Seconds for which a first snapshot waits for them, and after which it is a problem that they
cannot be read."""

RETRY = (0.5, 30.0)
"""Seconds before it is asked again after it could not be, which may hold up listings: the first
time, and at most."""


class CustodianAccess(Protocol):
    """What it takes to ask a custodian: an engine."""

    def read_secrets(self, custodian: Json, secrets: Collection[str]) -> Mapping[str, bytes]:
        """What is in these secrets, by their ids, as far as it can be had. Raises
        ProviderError."""


class SecretContents:
    """Reads secrets by way of the custodian on this node."""

    def __init__(
        self, engine: CustodianAccess, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self.known: Mapping[str, bytes] = {}
        """By the id of a secret."""
        self._engine = engine
        self._missing: tuple[str, ...] = ()
        """Names of those that are needed and not known."""
        self._missing_since = 0.0
        self._why = ""
        self._backoff = Backoff(*RETRY)
        self._due = 0.0
        """When the custodian may be asked again, after it could not be."""

    def read(self, state: SwarmState, location: ProxyLocation, secrets: Collection[str]) -> bool:
        """Ask for what is in these secrets, by their ids; True if that told something. Blocks."""
        if self._clock() < self._due:
            return False
        self._why = f"service {NAME} has no task on this node that has them"
        custodian = custodian_of(state, location)
        if custodian is None:
            return False
        try:
            found = self._engine.read_secrets(custodian, secrets)
        except ProviderError as error:
            self._why = str(error)
            self._due = self._clock() + self._backoff.next()
            return False
        self._backoff.reset()
        self.known = {**self.known, **found}
        return bool(found)

    def note(self, reading: Reading) -> None:
        """What is needed, and what of that is missing; the rest is forgotten."""
        self.known = {each: self.known[each] for each in reading.secrets if each in self.known}
        missing = tuple(sorted(reading.secrets[each] for each in reading.unread))
        if missing and not self._missing:
            self._missing_since = self._clock()
        self._missing = missing

    @property
    def are_late(self) -> bool:
        """True if some have been missing for long."""
        return bool(self._missing) and self._clock() - self._missing_since >= PATIENCE

    @property
    def are_awaited(self) -> bool:
        """True if some are missing, but not for long."""
        return bool(self._missing) and not self.are_late

    def problems(self, service: str) -> tuple[Problem, ...]:
        """Why they cannot be read. ``service``: the proxies'."""
        if not self.are_late:
            return ()
        names = ", ".join(self._missing)
        reason = f"secrets that labels name cannot be read ({names}): {self._why}"
        remedy = f"docker service ps --no-trunc {NAME}"
        return (Problem(service or "stickyproxy", reason, remedy=remedy, fatal=True),)
