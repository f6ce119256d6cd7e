"""CONTROL: endpoints that are new in the table are tried once, before a client is.

A port that nobody listens on looks like any other until then. A failure counts as one of a
request's would: ``health`` takes the endpoint out after two, unless it is the last usable one,
which is shown as not reachable and tried until it is reached. Of several processes of one proxy,
one does this for all.

The connection is closed again: an application that serves one connection at a time would wait on an
idle one, and let the requests of other proxies wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from stickyproxy.base.errors import ConnectError, HandshakeError, OutOfResources
from stickyproxy.control.health import Health, pauses
from stickyproxy.control.registry import HoldsTable
from stickyproxy.model.service import EndpointKey
from stickyproxy.routing.endpoint import Endpoint, EndpointState

log = logging.getLogger("stickyproxy")

AT_ONCE = 16
"""OpensConnections under way at a time."""
SPREAD = (0.01, 2.0)
"""Seconds over which the first tries are spread: for each endpoint, and at most."""


class Idle(Protocol):
    """A connection that nobody uses."""

    def retire(self) -> None:
        """Close it."""


class OpensConnections(Protocol):
    """What is asked of an endpoint's pool."""

    async def connect(self) -> Idle:
        """A new connection. Raises ConnectError, OutOfResources."""


class Newcomers:
    """Tries them, each in a task of its own."""

    def __init__(self, proxy: HoldsTable, health: Health, changed: Callable[[], None]) -> None:
        """``changed`` is called when ``silent`` changes."""
        self._proxy = proxy
        self._health = health
        self._changed = changed
        self._known: frozenset[Endpoint] = frozenset()
        self._tries: dict[Endpoint, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    @property
    def silent(self) -> frozenset[EndpointKey]:
        """Those that have not taken a connection yet, though they were asked to."""
        return frozenset((each.service, each.id) for each in self._tries if each.unreached)

    def look(self) -> None:
        """There is a new table: try what is new in it."""
        table = self._proxy.table
        now = frozenset(each for cluster in table.clusters() for each in cluster.endpoints)
        new = [each for each in now - self._known if each.state is EndpointState.USABLE]
        self._known = now
        for endpoint in new:
            delay = random.uniform(0, min(len(new) * SPREAD[0], SPREAD[1]))  # noqa: S311  # not secret
            name = f"first connect to {endpoint.address}"
            self._tries[endpoint] = asyncio.create_task(self._try(endpoint, delay), name=name)

    async def stop(self) -> None:
        """Try no more."""
        tries = list(self._tries.values())
        for each in tries:
            each.cancel()
        await asyncio.gather(*tries, return_exceptions=True)

    async def _try(self, endpoint: Endpoint, delay: float) -> None:
        """Until it connects, has been taken out, or is gone from the table."""
        pool: OpensConnections = endpoint.pool  # type: ignore[assignment]
        waits = pauses(starting=True)
        try:
            await asyncio.sleep(delay)
            while endpoint in self._known and not self._is_settled(endpoint):
                async with self._slots:
                    try:
                        (await pool.connect()).retire()
                    except OutOfResources:
                        pass
                    except ConnectError as error:
                        # One that does not listen may be about to; TLS does not mend by itself.
                        if isinstance(error, HandshakeError) and not endpoint.unreached:
                            log.warning("service %s: %s", endpoint.service, error)
                        self._note(endpoint, unreached=True)
                        self._health.failed(endpoint, error)
                    else:
                        self._health.connected(endpoint)
                        return
                await asyncio.sleep(next(waits) * random.uniform(0.75, 1.25))  # noqa: S311  # not secret
        finally:
            self._note(endpoint, unreached=False)
            del self._tries[endpoint]

    def _is_settled(self, endpoint: Endpoint) -> bool:
        return endpoint.has_connected or endpoint.state is not EndpointState.USABLE

    def _note(self, endpoint: Endpoint, *, unreached: bool) -> None:
        if endpoint.unreached is not unreached:
            endpoint.unreached = unreached
            self._changed()
