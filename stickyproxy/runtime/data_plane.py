"""The data plane of one process, put together: from accepted connection to access log.

What it is given is picklable (``PlaneSettings``, and snapshots), so that it can run in the main
process or in a worker. It knows neither configuration files nor Docker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

from stickyproxy.base.commons import Commons
from stickyproxy.connector.wire import DIRECTORY
from stickyproxy.control.health import Health
from stickyproxy.control.newcomers import Newcomers
from stickyproxy.control.registry import Registry
from stickyproxy.dataplane.access_log import AccessLog
from stickyproxy.dataplane.admission import Admission
from stickyproxy.dataplane.counters import CountedEndpoints, Counters, Memory, Moves, in_turn
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.downstream.accept import Server
from stickyproxy.dataplane.downstream.certificates import Certificates
from stickyproxy.dataplane.downstream.heads import Limits
from stickyproxy.dataplane.downstream.limits import ConnectionLimits
from stickyproxy.dataplane.downstream.listeners import Listener
from stickyproxy.dataplane.downstream.server import ClientServer
from stickyproxy.dataplane.exchange import Exchange, Proxy, next_request_id
from stickyproxy.dataplane.passthrough import Passthrough
from stickyproxy.dataplane.spans import Spans
from stickyproxy.dataplane.tracing import Tracing
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.pool import Upstreams
from stickyproxy.model.health import Outage
from stickyproxy.model.service import EndpointKey
from stickyproxy.model.settings import AccessLogSettings, ProxySettings
from stickyproxy.routing.endpoint import Endpoint
from stickyproxy.routing.sessions import Remains
from stickyproxy.semantics.forwarded import TrustedProxies

log = logging.getLogger("stickyproxy")

ADDING_SECONDS = 1.0
"""How often what was counted is added up."""


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """What a data plane has to know before it begins."""

    proxy: ProxySettings
    access_log: AccessLogSettings
    info: bytes | None
    """Header lines that are the same in all responses; None: no info fields at all."""
    providers: tuple[str, ...] = ()
    """Names of those that will publish snapshots, besides the static one."""
    has_tls: bool = False
    """Some listener has TLS."""
    connectors: str = DIRECTORY
    """Where connectors have their sockets."""

    @property
    def clear_only(self) -> bool:
        """Nobody speaks TLS with clients, here or, as far as is known, in front of us."""
        proxy = self.proxy
        return not (self.has_tls or proxy.trusted_proxies or proxy.trust_unix)


class CountsBusy(Protocol):
    """What is asked of the pool of an endpoint that is to be empty."""

    @property
    def busy(self) -> int:
        """Connections with a request under way, or upgraded."""


class DataPlane:
    """Forwards requests by the snapshots that its ``registry`` gets."""

    def __init__(
        self,
        settings: PlaneSettings,
        *,
        tells_problems: bool = True,
        tries_newcomers: bool = True,
        health_changed: Callable[[], None] = lambda: None,
        rebuilt: Callable[[], None] = lambda: None,
        memory: Memory | None = None,
        commons: Commons | None = None,
    ) -> None:
        """``tries_newcomers``: if the settings ask for it. ``health_changed`` is called when
        ``outages`` or ``silent`` changes, ``rebuilt`` when there is a new table. ``memory``: what
        is counted goes there; None: nothing is. ``commons``: what the workers of a proxy share;
        None: it is one process. Raises ListenError if the access log cannot be opened."""
        self._rebuilt = rebuilt
        self._emptying: dict[EndpointKey, Endpoint] = {}
        """The endpoints that an operator wants to be empty."""
        proxy = settings.proxy
        self._access_log = open_access_log(settings.access_log)
        turns, descriptors = Turns(), Descriptors()
        self.upstreams = make_upstreams(settings, turns, descriptors)
        self.proxy = Proxy(info=settings.info)
        if proxy.reason_for:
            confidants = TrustedProxies(proxy.reason_for)
            self.proxy.confides_in = lru_cache(4096)(confidants.trusts)
        logs = None if self._access_log is None else self._access_log.write
        counters = self._counters = (
            None if memory is None else Counters(memory, proxy.session_window)
        )
        self._adding: asyncio.TimerHandle | None = None
        self._spans = self._begin_tracing(proxy)
        self.proxy.on_finish = in_turn(
            in_turn(logs, counters.finished if counters else None),
            self._spans.finished if self._spans else None,
        )
        self._health = self.proxy.health = Health(self.proxy, health_changed)
        if counters is not None:
            self._health.on_eject = counters.ejected
            self.proxy.health = CountedEndpoints(counters, self._health)
        self._newcomers = (
            Newcomers(self.proxy, self._health, health_changed)
            if tries_newcomers and proxy.probe_new_endpoints
            else None
        )
        certificates = Certificates()
        self.registry = Registry(
            self.proxy,
            self.upstreams,
            proxy.pin_secret,
            certificates=certificates,
            awaits=settings.providers,
            tells_problems=tells_problems,
            has_tls=settings.has_tls,
            clear_only=settings.clear_only,
            rebuilt=self._on_new_table,
            commons=commons,
        )
        trusted_proxies = TrustedProxies(proxy.trusted_proxies, unix=proxy.trust_unix)
        self._clients = ClientServer(
            partial(Exchange, self.proxy),
            self.proxy.refuse,
            _limits(proxy),
            trusted_proxies,
            turns=turns,
            descriptors=descriptors,
        )
        self.passthrough = Passthrough(
            self.proxy,
            turns,
            descriptors,
            proxy.client_timeout,
            in_turn(logs, counters.passed if counters else None),
        )
        self.server = Server(
            self._clients,
            descriptors,
            turns,
            admission=Admission(self.proxy),
            certificates=certificates,
            trusted_proxies=trusted_proxies,
            handshake_timeout=proxy.handshake_timeout,
            limits=_connection_limits(proxy, trusted_proxies, commons),
        )
        self.server.passthrough = self.passthrough.claim
        if counters is not None:
            self.server.failures.on_failure = counters.client_failed

    def _begin_tracing(self, settings: ProxySettings) -> Spans | None:
        """None: nothing is recorded."""
        tracing = settings.tracing
        if tracing is None:
            return None
        records = bool(tracing.endpoint)
        self.proxy.tracing = Tracing(tracing.sample, next_request_id, records=records)
        instance = f"{platform.node()}-{os.getpid()}"
        return Spans(tracing.endpoint, tracing.service_name, instance) if records else None

    @property
    def outages(self) -> dict[EndpointKey, Outage]:
        """The endpoints that are ejected, and why."""
        return self._health.outages

    @property
    def silent(self) -> frozenset[EndpointKey]:
        """The endpoints that have never been reached, though they were tried."""
        return self._newcomers.silent if self._newcomers else frozenset()

    def take_moves(self) -> Moves:
        """How many sessions have moved since the last time, as far as they are counted."""
        return self._counters.take_moves() if self._counters is not None else {}

    def remains(self) -> dict[EndpointKey, Remains]:
        """What endpoints still have that an operator wants to be empty."""
        found = ((key, self.remains_of(key)) for key in self._emptying)
        return {key: remains for key, remains in found if remains is not None}

    def remains_of(self, key: EndpointKey) -> Remains | None:
        """The same of one; None: nobody wants it to be empty."""
        endpoint = self._emptying.get(key)
        if endpoint is None or endpoint.sessions is None:
            return None
        return Remains(endpoint.sessions, _busy(endpoint))

    def _on_new_table(self) -> None:
        if self._counters is not None:
            self._counters.use(self._endpoints(), complete=not self.registry.awaited)
        self._emptying = {
            (endpoint.service, endpoint.id): endpoint
            for cluster in self.proxy.table.clusters()
            for endpoint in cluster.endpoints
            if endpoint.sessions is not None
        }
        self._health.look()
        if self._newcomers is not None:
            self._newcomers.look()
        self._rebuilt()

    def _endpoints(self) -> set[Endpoint]:
        """All that there are."""
        return {each for cluster in self.proxy.table.clusters() for each in cluster.endpoints}

    def add_up(self) -> None:
        """What is counted is in its memory from now on, as it is now."""
        if (counters := self._counters) is not None:
            accepted, clients = self.server.accepted, len(self._clients.connections)
            counters.note_open(accepted, clients, self._endpoints())
            counters.add_up()

    def _keep_adding_up(self) -> None:
        """Now and then, so that not much is lost with a process."""
        if self._counters is not None:
            loop = asyncio.get_running_loop()
            self._adding = loop.call_later(ADDING_SECONDS, self._keep_adding_up)
            self.add_up()

    def use_checks(self, unhealthy: frozenset[EndpointKey]) -> None:
        """These endpoints fail their checks, and no others."""
        self._health.use_checks(unhealthy)

    def start(self) -> None:
        """Begin, inside a running event loop."""
        self.upstreams.start()
        self._clients.start()
        if self._spans is not None:
            self._spans.start()
        self._keep_adding_up()

    def accept_on(self, listeners: Iterable[Listener]) -> None:
        """Serve clients that connect to these listeners, and to no others, from now on."""
        listeners = tuple(listeners)
        if listeners:
            self.proxy.https_port = _https_port(listeners)
        self.server.accept_on(listeners)

    async def drain(self, grace: float, patience: float = 0.0) -> None:
        """Accept nothing more and let requests under way finish for ``grace`` seconds. Snapshots
        are followed meanwhile. ``patience``: see ``ClientServer.drain``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        cut = await self.server.drain(grace, patience)
        cut += await self.passthrough.drain(max(0.0, until - loop.time()))
        if cut:
            log.warning("%d connections did not finish within %g s and were cut", cut, grace)

    async def stop(self) -> None:
        """End."""
        if self._newcomers is not None:
            await self._newcomers.stop()
        await self._health.stop()
        if self._adding is not None:
            self._adding.cancel()
        self.add_up()
        self._clients.stop()
        self.upstreams.close()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.stop)
        if self._access_log is not None:
            self._access_log.close()

    def reopen_log(self) -> None:
        """Reopen the access log, after it was rotated away. Raises ListenError."""
        if self._access_log is not None:
            self._access_log.reopen()


def _busy(endpoint: Endpoint) -> int:
    pool: CountsBusy = endpoint.pool  # type: ignore[assignment]
    return pool.busy + (endpoint.slots.waiting if endpoint.slots is not None else 0)


def make_upstreams(settings: PlaneSettings, turns: Turns, descriptors: Descriptors) -> Upstreams:
    """The connections to endpoints, of requests or of checks."""
    proxy = settings.proxy
    return Upstreams(
        connect_timeout=proxy.connect_timeout,
        response_timeout=proxy.response_timeout,
        client_timeout=proxy.client_timeout,
        idle_timeout=proxy.upstream_idle_timeout,
        response_idle_timeout=proxy.response_idle_timeout,
        upgrade_idle_timeout=proxy.upgrade_idle_timeout,
        turns=turns,
        connectors=settings.connectors,
        ca=proxy.upstream_ca,
        descriptors=descriptors,
    )


def open_access_log(settings: AccessLogSettings) -> AccessLog | None:
    """None if it is off. Raises ListenError."""
    return None if settings.format == "off" else AccessLog(settings.format, settings.path)


def _https_port(listeners: Iterable[Listener]) -> int:
    """Where TLS is spoken here; 443 if it is not, because then somebody in front of us may."""
    ports = [
        listener.spec.address.port or listener.sock.getsockname()[1]
        for listener in listeners
        if listener.spec.tls is not None and listener.spec.address.path is None
    ]
    return 443 if 443 in ports or not ports else ports[0]


def _connection_limits(
    settings: ProxySettings, trusted_proxies: TrustedProxies, commons: Commons | None
) -> ConnectionLimits | None:
    """None: there is none."""
    in_all, per_client = settings.max_connections, settings.max_connections_per_client
    if in_all is None and per_client is None:
        return None
    headcount = None if commons is None else commons.headcount
    return ConnectionLimits(
        trusted_proxies, in_all=in_all, per_client=per_client, headcount=headcount
    )


def _limits(settings: ProxySettings) -> Limits:
    return Limits(
        max_head=settings.max_head,
        max_head_line=settings.max_head_line,
        max_headers=settings.max_headers,
        head_timeout=settings.head_timeout,
        keepalive_timeout=settings.keepalive_timeout,
        client_timeout=settings.client_timeout,
    )
