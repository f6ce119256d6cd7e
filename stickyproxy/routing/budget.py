"""How many requests of a service may be sent to another endpoint after the first one failed.

If most of its endpoints are failing, sending every request several times makes things worse for
those that are left. So retries are paid for by requests: each one earns a fifth of a retry, and so
that a service with few of them is not left without, time earns some too.
"""

from __future__ import annotations

import time
from math import exp

SHARE = 0.2
"""Retries that a request earns."""
PER_SECOND = 2.0
"""Retries that a second earns."""
QUIET = 20.0
"""Retries that are saved up at first, and by time at most."""
SECONDS = 10.0
"""What requests have earned longer ago than about that is lost."""


class RetryBudget:
    """The retries of one service in one process."""

    __slots__ = ("_counted", "_left", "_recent", "_when", "requests")

    def __init__(self, now: float | None = None) -> None:
        """``now``: by the monotonic clock, in seconds; None: ask it."""
        self.requests = 0
        """Requests so far. Whoever sends one adds it, which is all that it costs."""
        self._counted = 0
        self._recent = 0.0
        """Requests within about the last SECONDS."""
        self._left = QUIET
        self._when = time.monotonic() if now is None else now

    def take(self, now: float) -> bool:
        """Take a retry; False: there is none left."""
        new, elapsed = self.requests - self._counted, max(now - self._when, 1e-9)
        self._counted, self._when = self.requests, now
        kept = exp(-elapsed / SECONDS)
        self._recent = self._recent * kept + new * (1 - kept) * SECONDS / elapsed
        earned = new * SHARE + elapsed * PER_SECOND
        self._left = min(self._left + earned, QUIET + self._recent * SHARE)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def __repr__(self) -> str:
        return f"<RetryBudget {self._left:.1f} after {self.requests} requests>"
