"""CONTROL: which endpoints are out, and until when.

What comes of requests, as far as it is seen here (passive ejection):

    two connects in a row fail           the endpoint is ejected until a probe connects
    three requests in a row get no head  (the connection closes, or stays silent for
                                         ``response_timeout``) it is ejected for a time
    so many responses in a row are 5xx   likewise, if its service asks for it (``Ejection``)

What comes of checks is told by whoever makes them, for all processes of a proxy (``use_checks``).
Either is a fact, and while one of them holds the endpoint is down: picks no longer see it, and its
sessions are re-pinned. A session is worth more than the time of another try: hence failures in a
row, and not the first one.

An ejection for a time lasts ten seconds, and every further one twice as long as the one before, up
to five minutes, until it has been in for five minutes; a probe has to connect at its end. Never is
more than a part of a service's endpoints (``Ejection.share``) out by then: what half of them answer
is rather the fault of a request, or of something that they all need. One that takes no connections
serves nobody, however many they are; only the last usable one of a cluster is never ejected.

One that never took a connection is most likely starting: Docker calls a task without a HEALTHCHECK
running before it listens. So it is probed more often at first, to be of use as soon as it can be.

A handshake that fails counts like a refusal: an endpoint whose certificate is not accepted may get
no request, and its sessions are better off elsewhere than with errors. It is back as soon as a
probe, which includes the handshake, succeeds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import (
    ConnectError,
    HandshakeError,
    OutOfResources,
    UpstreamTimeout,
)
from stickyproxy.control.registry import HoldsTable
from stickyproxy.control.slow_start import SlowStart
from stickyproxy.model.events import EventKind, tell
from stickyproxy.model.health import Outage
from stickyproxy.model.service import EndpointKey
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.endpoint import Endpoint, EndpointState, Facts, state_of
from stickyproxy.routing.table import RoutingTable

FAILURES = 2
"""Failed connects in a row that take an endpoint out."""
BREAKS = 3
"""Requests in a row without the head of a response that do."""
NOT_ITS_FAULT = frozenset((501, 505))
"""Statuses of 500 and more that say something of the request alone (RFC 9110 sections 15.6.2 and
15.6.6)."""
EJECTED = (10.0, 300.0)
"""Seconds for which an endpoint is ejected: the first time, and at most."""
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
    """Counts what speaks against endpoints, takes them out, and probes those that are out."""

    def __init__(
        self,
        proxy: HoldsTable,
        changed: Callable[[], None] = lambda: None,
        ejected: tuple[float, float] = EJECTED,
    ) -> None:
        """``changed`` is called when ``outages`` changes. ``ejected``: see EJECTED."""
        self._proxy = proxy
        self._changed = changed
        self._ejected = ejected
        self._refusals: dict[Endpoint, int] = {}
        self._streaks: dict[Endpoint, Streak] = {}
        self._terms: dict[Endpoint, _Term] = {}
        self._probes: dict[Endpoint, asyncio.Task[None]] = {}
        self.outages: dict[EndpointKey, Outage] = {}
        """The endpoints that are ejected, and why."""
        self.on_eject: Callable[[Endpoint], None] | None = None
        """Called with each endpoint that is ejected; None: there is no observer."""
        self._unhealthy: frozenset[EndpointKey] = frozenset()
        self._slow_start = SlowStart(proxy)

    def look(self) -> None:
        """There is a new table: forget what is gone from it, and watch what is new in it."""
        endpoints = {each for cluster in self._proxy.table.clusters() for each in cluster.endpoints}
        for gone in self._probes.keys() - endpoints:
            self._probes[gone].cancel()
        for known in (self._refusals, self._streaks, self._terms):
            for gone in known.keys() - endpoints:
                del known[gone]
        for endpoint in endpoints:
            if endpoint.ejection.after_5xx:
                self._watch(endpoint)
        self._note(facts_of_checks(self._proxy.table, self._unhealthy))

    # --- what comes of requests ---

    def connected(self, endpoint: Endpoint) -> None:
        """A connect succeeded."""
        endpoint.has_connected = True
        if self._refusals:
            self._refusals.pop(endpoint, None)

    def failed(self, endpoint: Endpoint, error: ConnectError) -> None:
        """A connect failed."""
        count = self._refusals[endpoint] = self._refusals.get(endpoint, 0) + 1
        if count >= FAILURES and self._may_go(endpoint):
            reason = "it accepts no connections"
            if isinstance(error, HandshakeError):
                reason = f"no TLS: {error.trouble}"
            self._eject(endpoint, reason, f"is down: {reason}")

    def broke(self, endpoint: Endpoint, error: Exception) -> None:
        """There was a connection, but no head of a response came."""
        self._watch(endpoint).broke(error)

    def responses_failed(self, endpoint: Endpoint, reason: str) -> None:
        """What it responds, or does not, speaks against it."""
        if not (self._may_go(endpoint) and self._share_allows(endpoint)):
            return
        term = self._terms.get(endpoint) or self._terms.setdefault(endpoint, _Term(*self._ejected))
        seconds = term.next()
        self._eject(endpoint, reason, f"is ejected for {seconds:.1f} s: {reason}", seconds)

    def _watch(self, endpoint: Endpoint) -> Streak:
        """What counts its responses; it does so for good if all of them are to be counted."""
        streak = self._streaks.get(endpoint)
        if streak is None:
            streak = self._streaks[endpoint] = Streak(self, endpoint)
        endpoint.watch = streak
        return streak

    def _may_go(self, endpoint: Endpoint) -> bool:
        """Whether all its clusters have another one."""
        if endpoint.state is not EndpointState.USABLE:
            return False
        clusters = self._proxy.table.clusters_of(endpoint)
        return bool(clusters) and not any(_has_no_other(cluster, endpoint) for cluster in clusters)

    def _share_allows(self, endpoint: Endpoint) -> bool:
        return all(
            out + 1 <= total * endpoint.ejection.share + 1e-9  # 29 of 100 are 29 %
            for out, total in (
                _out_of(cluster, endpoint.service)
                for cluster in self._proxy.table.clusters_of(endpoint)
            )
        )

    def _eject(self, endpoint: Endpoint, reason: str, told: str, seconds: float = 0.0) -> None:
        """Take it out: for that long if that is more than zero, and until a probe connects.
        ``told``: what is logged of it."""
        now = time.time()
        until = now + seconds if seconds else None
        self.outages[_key(endpoint)] = Outage(reason, now, until)
        tell(
            EventKind.ENDPOINT_EJECTED,
            f"{_name(endpoint)} {told}",
            **_details(endpoint),
            reason=reason,
            until=until,
        )
        if self.on_eject is not None:
            self.on_eject(endpoint)
        self._note({endpoint: replace(endpoint.facts, ejected=True)})
        name = f"probe of {endpoint.address}"
        probe = self._probes[endpoint] = asyncio.create_task(
            self._probe(endpoint, seconds), name=name
        )
        probe.add_done_callback(lambda _: self._is_over(endpoint, probe))
        self._changed()

    def _is_over(self, endpoint: Endpoint, probe: asyncio.Task[None]) -> None:
        """The probe has ended: it is in again, or gone from the table."""
        if self._probes.get(endpoint) is probe:
            del self._probes[endpoint]
            self.outages.pop(_key(endpoint), None)
            self._changed()

    async def _probe(self, endpoint: Endpoint, seconds: float) -> None:
        """Wait, then probe until it connects. ``look`` ends it when the endpoint is gone."""
        pool: Connects = endpoint.pool  # type: ignore[assignment]
        waits = _jittered(pauses(starting=not endpoint.has_connected))
        for pause in chain([seconds] if seconds else [], waits):
            await asyncio.sleep(pause)
            with suppress(ConnectError, OutOfResources):
                await pool.probe()
                break
        self._refusals.pop(endpoint, None)
        if term := self._terms.get(endpoint):
            term.is_over()
        endpoint.has_connected = True
        tell(EventKind.ENDPOINT_BACK, f"{_name(endpoint)} is back", **_details(endpoint))
        self._note({endpoint: replace(endpoint.facts, ejected=False)})

    async def stop(self) -> None:
        """End the probes."""
        self._slow_start.stop()
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    # --- what comes of checks ---

    def use_checks(self, unhealthy: frozenset[EndpointKey]) -> None:
        """These endpoints fail their checks, and no others."""
        self._unhealthy = unhealthy
        self._note(facts_of_checks(self._proxy.table, unhealthy))

    def _note(self, facts: Mapping[Endpoint, Facts]) -> None:
        self._slow_start.begin(
            endpoint
            for endpoint in facts
            if endpoint.state is EndpointState.DOWN
            and state_of(facts[endpoint]) is EndpointState.USABLE
        )
        self._proxy.table.note_all(facts)


def facts_of_checks(
    table: RoutingTable, unhealthy: frozenset[EndpointKey]
) -> dict[Endpoint, Facts]:
    """What is to be noted in the table if these endpoints fail their checks, and no others."""
    endpoints = {each for cluster in table.clusters() for each in cluster.endpoints}
    return {
        each: replace(each.facts, unhealthy=not each.facts.unhealthy)
        for each in endpoints
        if each.facts.unhealthy is not (_key(each) in unhealthy)
    }


class Streak:
    """Counts the responses of an endpoint in a row that speak against it. Implements
    ``endpoint.WatchesResponses``."""

    __slots__ = ("_breaks", "_endpoint", "_errors", "_health")

    def __init__(self, health: Health, endpoint: Endpoint) -> None:
        self._health = health
        self._endpoint = endpoint
        self._breaks = 0
        self._errors = 0

    def responded(self, status: int) -> None:
        """See ``endpoint.WatchesResponses``."""
        self._breaks = 0
        limit = self._endpoint.ejection.after_5xx
        if not limit:
            self._endpoint.watch = None  # until something speaks against it again
        elif status < 500 or status in NOT_ITS_FAULT:
            self._errors = 0
        else:
            self._errors += 1
            if self._errors >= limit:
                self._fails(f"{self._errors} responses in a row were 5xx, the last one {status}")

    def broke(self, error: Exception) -> None:
        """A request got no response."""
        self._breaks += 1
        if self._breaks >= BREAKS:
            silent = isinstance(error, UpstreamTimeout)
            how = "it stayed silent" if silent else "it closed the connection"
            self._fails(f"{self._breaks} requests in a row got no response: {how}")

    def _fails(self, reason: str) -> None:
        self._breaks = self._errors = 0
        self._health.responses_failed(self._endpoint, reason)


class _Term:
    """For how long an endpoint is ejected the next time."""

    def __init__(self, first: float, longest: float) -> None:
        """Both are in seconds."""
        self._forgets = longest
        self._backoff = Backoff(first, longest, jitter=0.25)
        self._over = time.monotonic()

    def next(self) -> float:
        """Seconds; longer than the last time, unless that is long ago."""
        if time.monotonic() - self._over > self._forgets:
            self._backoff.reset()
        return self._backoff.next()

    def is_over(self) -> None:
        """It is in again."""
        self._over = time.monotonic()


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


def _jittered(waits: Iterable[float]) -> Iterator[float]:
    for pause in waits:
        yield pause * random.uniform(0.75, 1.25)  # noqa: S311  # not secret


def _has_no_other(cluster: Cluster, endpoint: Endpoint) -> bool:
    return not any(
        other is not endpoint and other.state is EndpointState.USABLE for other in cluster.endpoints
    )


def _out_of(cluster: Cluster, service: str) -> tuple[int, int]:
    """How many endpoints of a service are down, and how many it has."""
    states = [each.state for each in cluster.endpoints if each.service == service]
    return states.count(EndpointState.DOWN), len(states)


def _key(endpoint: Endpoint) -> EndpointKey:
    return endpoint.service, endpoint.id


def _details(endpoint: Endpoint) -> dict[str, Any]:
    """What an event says of it."""
    return {
        "service": endpoint.service,
        "endpoint": endpoint.id,
        "address": endpoint.address,
    }


def _name(endpoint: Endpoint) -> str:
    return f"service {endpoint.service}: endpoint {endpoint.address}"
