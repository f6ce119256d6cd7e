"""CONTROL: snapshots of providers in, routing tables out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from stickyproxy.base import hashing
from stickyproxy.base.commons import Commons
from stickyproxy.control import certificates, changes, report
from stickyproxy.model.events import EventKind, tell
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.target import Target
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.model.tls import Certificate
from stickyproxy.routing import builder
from stickyproxy.routing.endpoint import Connections, Endpoint
from stickyproxy.routing.table import RoutingTable

log = logging.getLogger("stickyproxy")


class HoldsTable(Protocol):
    """What serves from the table: the proxy."""

    table: RoutingTable


class PoolFactory(Protocol):
    """Where an endpoint's connections come from."""

    def pool(self, target: Target) -> Connections:
        """A new pool, not shared with another endpoint."""


class ShowsCertificates(Protocol):
    """What shows clients the certificates: the data plane."""

    def use(self, certificates: Iterable[Certificate]) -> None:
        """Show these from now on, and no others. Of several for one name the first counts."""


class NoConnections:
    """Pools for a table that is looked at but forwards nothing."""

    def pool(self, _target: Target) -> NoConnections:
        """There is none to make."""
        return self

    def limit(self, timeouts: Timeouts | None) -> None:
        """There is nothing to wait for."""

    def keep_idle(self, keep: bool) -> None:
        """There is nothing to keep."""

    def close(self) -> None:
        """There is nothing to close."""


class Registry:
    """Merges the snapshots of all providers into one table and hands it over in one assignment.

    What a provider published last stays until it publishes again.
    """

    def __init__(
        self,
        proxy: HoldsTable,
        pools: PoolFactory,
        pin_secret: bytes | None,
        *,
        certificates: ShowsCertificates | None = None,
        awaits: Iterable[str] = (),
        tells_problems: bool = True,
        has_tls: bool = False,
        clear_only: bool = False,
        rebuilt: Callable[[], None] = lambda: None,
        commons: Commons | None = None,
    ) -> None:
        """``certificates`` takes those of all snapshots; None: this process has no clients.
        ``awaits``: the providers that will publish; until all of them have, unknown is not absent.
        ``tells_problems``: log them. Of processes with the same snapshots, one should. ``has_tls``:
        some listener has TLS, and a host without a certificate is a problem. ``clear_only``: nobody
        speaks TLS, and a service that needs it is one. ``rebuilt`` is called when there is a new
        table. ``commons``: what the workers of a proxy count together; None: there is one."""
        self._commons = commons
        self._rebuilt = rebuilt
        self._awaits = tuple(awaits)
        self._proxy = proxy
        self._pools = pools
        self._tells_problems = tells_problems
        self._has_tls = has_tls
        self._certificates = certificates
        self._shown: tuple[Certificate, ...] = ()
        self._clear_only = clear_only
        self._secret = pin_secret
        self._snapshots: dict[str, Snapshot] = {}
        self._keys: dict[str, bytes] = {}
        """Pin key by name of service."""
        self.published: dict[str, float] = {}
        """When each provider published last, in Unix time."""
        self.swaps = 0
        """How often there was a new table."""
        self.problems: tuple[Problem, ...] = ()
        """What all providers report, and what only shows when their services are merged."""

    def publish(self, snapshot: Snapshot) -> None:
        """Take a provider's whole state. What did not change keeps its cluster: connections,
        cursors and slot tables survive."""
        self.published[snapshot.provider] = time.time()
        before = self._snapshots.get(snapshot.provider)
        if before == snapshot:
            return
        self._snapshots[snapshot.provider] = snapshot
        if before is not None and self._tells_problems:
            changes.tell_changes(before, snapshot)
        if before is None or _routed(before) != _routed(snapshot):
            self._rebuild()
        if before is None or before.certificates != snapshot.certificates:
            self._show_certificates()
        if self._tells_problems:
            self._report()

    def review(self) -> None:
        """See which problems there are that come with time."""
        if self._tells_problems:
            self._report()

    @property
    def awaited(self) -> tuple[str, ...]:
        """The providers that have not published yet."""
        return tuple(name for name in self._awaits if name not in self._snapshots)

    def snapshots(self) -> list[Snapshot]:
        """The state of each provider, by its name."""
        return [self._snapshots[provider] for provider in sorted(self._snapshots)]

    def services(self) -> list[ServiceSpec]:
        """Those of all providers."""
        return [service for snapshot in self.snapshots() for service in snapshot.services]

    def _rebuild(self) -> None:
        """Pins depend on the realm of the provider that a service comes from. When that changes,
        because a proxy was moved to another Swarm, nothing of the old table can be used."""
        snapshots = self.snapshots()
        services = self.services()
        keys = {
            service.name: hashing.pin_key(self._secret, snapshot.realm)
            for snapshot in snapshots
            for service in snapshot.services
        }
        old = self._proxy.table
        rekeyed = any(keys[name] != self._keys[name] for name in keys.keys() & self._keys.keys())
        self._keys = keys
        self._proxy.table = builder.build(
            services,
            self._make_endpoint,
            None if rekeyed else old,
            self.awaited,
            _thumbprints(snapshots),
            slot_pin=lambda service, slot: hashing.slot_pin(keys[service], service, slot),
            commons=self._commons,
        )
        if rekeyed:
            for cluster in old.clusters():
                for endpoint in cluster.endpoints:
                    endpoint.pool.close()
        self.swaps += 1
        self._rebuilt()
        if self._tells_problems:
            self._tell_swap(services)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("routing table:\n%s", self._proxy.table.dump())

    def _tell_swap(self, services: Sequence[ServiceSpec]) -> None:
        endpoints = sum(len(service.endpoints) for service in services)
        text = f"a new routing table: {len(services)} services, {endpoints} endpoints"
        tell(EventKind.TABLE_SWAPPED, text, services=len(services), endpoints=endpoints)

    def _show_certificates(self) -> None:
        """If they are others than before."""
        if self._certificates is None:
            return
        found = tuple(certificates.preferred(self.snapshots(), time.time()))
        if found != self._shown:
            self._shown = found
            self._certificates.use(found)

    def _report(self) -> None:
        """Log problems when they appear and when they are resolved, but not while they last."""
        snapshots = self.snapshots()
        found = [problem for snapshot in snapshots for problem in snapshot.problems]
        services = [service for snapshot in snapshots for service in snapshot.services]
        found += report.conflicts(services)
        found += certificates.problems(snapshots, time.time())
        found += report.client_auths(services)
        if self._clear_only:
            found += report.without_tls(services)
        if not self.awaited:
            found += report.not_ordered(services, _thumbprints(snapshots))
            if self._has_tls:
                found += certificates.mismatches(snapshots)
        new, before = dict.fromkeys(found), dict.fromkeys(self.problems)
        ends = certificates.expiring(snapshots, time.time())
        for problem in new:
            if problem not in before:
                expires = ends.get((problem.certificate, problem.reason))
                changes.tell_problem(problem, expires)
        for problem in before:
            if problem not in new:
                changes.tell_resolved(problem)
        self.problems = tuple(new)

    def _make_endpoint(self, service: ServiceSpec, spec: EndpointSpec) -> Endpoint:
        name, tls, key = service.name, service.tls, self._keys[service.name]
        pin = hashing.pin(key, name, spec.id, spec.slot)
        former = hashing.pin(key, name, spec.id) if spec.slot else b""
        pool = self._pools.pool(spec.target(tls))
        return Endpoint(name, spec, pin, pool, tls, former_pin=former)


def _routed(snapshot: Snapshot) -> tuple[object, ...]:
    """What of a snapshot the routing table is made of."""
    return snapshot.services, snapshot.realm, snapshot.acme_thumbprints


def _thumbprints(snapshots: Iterable[Snapshot]) -> dict[str, str]:
    """Of the ACME accounts that order for hosts, by host. Whoever publishes both services and a
    thumbprint, a controller, orders for these services itself; for all others, this process or its
    supervisor does."""
    known = {each.provider: each.acme_thumbprints[:1] for each in snapshots}
    return {
        host: thumbprint
        for snapshot in snapshots
        for thumbprint in known[snapshot.provider] or known.get("acme", ())
        for service in snapshot.services
        if service.acme
        for host in service.hosts
    }
