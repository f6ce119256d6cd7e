"""CONTROL: an endpoint that comes back gets more and more new sessions, not its share at once.

Caches are cold then, and pools empty. Its turns grow by a tenth at a time (``Endpoint.tenths``),
and each step rebuilds the balancers of its clusters, so that a pick costs what it always does.
Sessions that it has, and what is hashed, go to it as ever: they have nowhere else to go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from stickyproxy.control.registry import HoldsTable
from stickyproxy.routing.endpoint import ALL_TENTHS, Endpoint, EndpointState


class SlowStart:
    """Lets endpoints warm up, each in the time that its service says."""

    def __init__(self, proxy: HoldsTable) -> None:
        self._proxy = proxy
        self._timers: dict[Endpoint, asyncio.TimerHandle] = {}

    def begin(self, endpoints: Iterable[Endpoint]) -> None:
        """These are about to come back. Balancers that are built from now on mind it."""
        for endpoint in endpoints:
            if endpoint.slow_start:
                self._end(endpoint)
                endpoint.tenths = 1
                self._wait(endpoint)

    def stop(self) -> None:
        """No more steps."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _wait(self, endpoint: Endpoint) -> None:
        seconds = endpoint.slow_start / ALL_TENTHS
        loop = asyncio.get_running_loop()
        self._timers[endpoint] = loop.call_later(seconds, self._step, endpoint)

    def _step(self, endpoint: Endpoint) -> None:
        del self._timers[endpoint]
        clusters = self._proxy.table.clusters_of(endpoint)
        if endpoint.state is not EndpointState.USABLE or not clusters:
            endpoint.tenths = ALL_TENTHS  # it begins anew when it comes back
            return
        endpoint.tenths += 1
        for cluster in clusters:
            cluster.rebuild()
        if endpoint.tenths < ALL_TENTHS:
            self._wait(endpoint)

    def _end(self, endpoint: Endpoint) -> None:
        if timer := self._timers.pop(endpoint, None):
            timer.cancel()
