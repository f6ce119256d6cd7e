"""Whether a provider's source can be asked; the same for all that ask over a network."""

from __future__ import annotations

import logging

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ProviderError

log = logging.getLogger("stickyproxy")


class Contact:
    """Notes when the source stops and starts to answer, says so once, and spaces out the tries."""

    def __init__(self, provider: str, source: str, backoff: Backoff) -> None:
        """``provider`` and ``source`` are what they are called in log lines."""
        self.trouble = ""
        """Why nothing new is known; empty: all is well."""
        self._provider = provider
        self._source = source
        self._backoff = backoff

    @property
    def is_lost(self) -> bool:
        """True if the source did not answer when last asked."""
        return self._backoff.failures > 0

    def restored(self) -> None:
        """It answered."""
        if self.is_lost:
            log.info("%s: %s answers again", self._provider, self._source)
            self._backoff.reset()
            self.trouble = ""

    def lost(self, error: ProviderError, *, has_routes: bool) -> float:
        """It did not; returns the seconds until it should be asked again. Nothing is published
        meanwhile: ``has_routes`` tells whether there are routes that stay in use."""
        kept = "routes are kept" if has_routes else "no route is known yet"
        trouble = f"{error}; {kept}, trying again"
        if trouble != self.trouble:
            log.warning("%s: %s", self._provider, trouble)
            self.trouble = trouble
        return self._backoff.next()
