"""Whether a provider's source can be reached: the same for all providers that use a network."""

from __future__ import annotations

import time

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ProviderError
from stickyproxy.model.events import EventKind, tell


class Contact:
    """Notes and logs when the source is lost and when it is back, and spaces out retries."""

    def __init__(self, provider: str, source: str, backoff: Backoff) -> None:
        """``provider`` and ``source`` are what they are called in log lines."""
        self.trouble = ""
        """Why the source cannot be reached; empty: all is well."""
        self.confirmed: float | None = None
        """When the source responded last, in Unix time; None: it never has."""
        self._provider = provider
        self._source = source
        self._backoff = backoff

    @property
    def is_lost(self) -> bool:
        """True if the last attempt failed."""
        return self._backoff.failures > 0

    def restored(self) -> None:
        """The source responded: what it says now is what is published."""
        self.confirmed = time.time()
        if self.is_lost:
            tell(
                EventKind.PROVIDER_BACK,
                f"{self._provider}: {self._source} answers again",
                provider=self._provider,
            )
            self._backoff.reset()
            self.trouble = ""

    def lost(self, error: ProviderError, *, has_routes: bool) -> float:
        """It did not; returns the seconds to wait before the next attempt. Nothing is published
        meanwhile; ``has_routes``: routes are known, and stay in use."""
        kept = "routes are kept" if has_routes else "no route is known yet"
        trouble = f"{error}; {kept}, trying again"
        if trouble != self.trouble:
            tell(
                EventKind.PROVIDER_LOST,
                f"{self._provider}: {trouble}",
                provider=self._provider,
                reason=trouble,
            )
            self.trouble = trouble
        return self._backoff.next()
