"""CONTROL: passive ejection: an endpoint that refuses connections gets no requests until it can.

    two connects in a row fail     the endpoint is ejected, and so down: picks no longer see it, and
                                   its sessions are re-pinned
    a probe connects               it is no longer ejected; other facts about it still hold

One that never took a connection is most likely starting: Docker calls a task without a HEALTHCHECK
running before it listens. So it is probed more often at first, to be of use as soon as it can be.

A handshake that fails counts like a refusal: an endpoint whose certificate is not accepted may get
no request, and its sessions are better off elsewhere than with errors. It is back as soon as a
probe, which includes the handshake, succeeds.

One failure alone does nothing: the request that met it has gone elsewhere, and a session is worth
more than the time of another try. The last usable endpoint of a cluster is never taken out: one
that may respond is better than none.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ConnectError, HandshakeError, OutOfResources
from stickyproxy.control.registry import HoldsTable
from stickyproxy.model.service import EndpointKey
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.endpoint import Endpoint, EndpointState

log = logging.getLogger("stickyproxy")

FAILURES = 2
"""Failed connects in a row that take an endpoint out."""
PROBE = (0.25, 5.0)
"""Seconds until a probe: until the first, and at most."""
PROBE_STARTING = (0.1, 1.0)
"""The same for an endpoint that never took a connection, for STARTING seconds."""
STARTING = 30.0


class Connects(Protocol):
    """What probes ask of an endpoint's pool."""

    async def probe(self) -> None:
        """Make a connection and keep it for a request. Raises ConnectError."""


class Health:
    """Counts what happens to connects, and probes what is down."""

    def __init__(self, proxy: HoldsTable, changed: Callable[[], None] = lambda: None) -> None:
        """``changed`` is called when ``down`` changes."""
        self._proxy = proxy
        self._changed = changed
        self._failures: dict[Endpoint, int] = {}
        self._probes: dict[Endpoint, asyncio.Task[None]] = {}

    @property
    def down(self) -> frozenset[EndpointKey]:
        """The endpoints that are down."""
        return frozenset((endpoint.service, endpoint.id) for endpoint in self._probes)

    def connected(self, endpoint: Endpoint) -> None:
        """A connect succeeded."""
        endpoint.has_connected = True
        if self._failures:
            self._failures.pop(endpoint, None)

    def failed(self, endpoint: Endpoint, error: ConnectError) -> None:
        """A connect failed."""
        count = self._failures[endpoint] = self._failures.get(endpoint, 0) + 1
        if count < FAILURES or endpoint.state is not EndpointState.USABLE:
            return
        table = self._proxy.table
        clusters = table.clusters_of(endpoint)
        if not clusters or any(_has_no_other(cluster, endpoint) for cluster in clusters):
            return
        why = (
            f"no TLS: {error.trouble}"
            if isinstance(error, HandshakeError)
            else "it accepts no connections"
        )
        log.warning("%s is down: %s", _name(endpoint), why)
        table.note(endpoint, replace(endpoint.facts, ejected=True))
        name = f"probe of {endpoint.address}"
        self._probes[endpoint] = asyncio.create_task(self._probe(endpoint), name=name)
        self._changed()

    async def stop(self) -> None:
        """End the probes."""
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    async def _probe(self, endpoint: Endpoint) -> None:
        """Probe until it connects, or the endpoint has left the table."""
        pool: Connects = endpoint.pool  # type: ignore[assignment]
        waits = pauses(starting=not endpoint.has_connected)
        try:
            while endpoint.facts.ejected and self._proxy.table.clusters_of(endpoint):
                await asyncio.sleep(next(waits) * random.uniform(0.75, 1.25))  # noqa: S311  # not secret
                try:
                    await pool.probe()
                except (ConnectError, OutOfResources):
                    continue
                endpoint.has_connected = True
                log.info("%s is back", _name(endpoint))
                self._proxy.table.note(endpoint, replace(endpoint.facts, ejected=False))
        finally:
            self._failures.pop(endpoint, None)
            del self._probes[endpoint]
            self._changed()


def pauses(*, starting: bool) -> Iterator[float]:
    """Seconds until one probe after the other: doubling, up to a limit."""
    backoff = Backoff(*PROBE)
    if starting:
        early, waited = Backoff(*PROBE_STARTING), 0.0
        while waited < STARTING:
            yield (pause := early.next())
            waited += pause
        backoff = Backoff(2 * PROBE_STARTING[1], PROBE[1])
    while True:
        yield backoff.next()


def _has_no_other(cluster: Cluster, endpoint: Endpoint) -> bool:
    return not any(
        other is not endpoint and other.state is EndpointState.USABLE for other in cluster.endpoints
    )


def _name(endpoint: Endpoint) -> str:
    return f"service {endpoint.service}: endpoint {endpoint.address}"
