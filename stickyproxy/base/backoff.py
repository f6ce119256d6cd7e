"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Pauses after failures in a row: each twice as long as the one before, up to a limit."""

    def __init__(
        self,
        first: float,
        longest: float,
        *,
        jitter: float = 0.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``first`` and ``longest`` are in seconds. ``jitter`` is the part of each pause, from 0 to
        1, that is left to ``chance``, so that many that failed together do not all retry
        together too."""
        self.failures = 0
        """Failures in a row so far."""
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._chance = chance

    def __repr__(self) -> str:
        return f"<Backoff after {self.failures} failures>"

    def next(self) -> float:
        """Count a failure; returns the seconds to wait."""
        self.failures += 1
        doublings = min(self.failures - 1, 32)  # bounded: the power must not overflow
        pause = min(self._longest, self._first * 2.0**doublings)
        return pause * (1 - self._jitter * self._chance())

    def reset(self) -> None:
        """It worked: the next failure counts as the first."""
        self.failures = 0
