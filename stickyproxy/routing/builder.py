"""From service specs to a routing table, which takes over from the table it replaces whatever did
not change: clusters of unchanged services, and the endpoints (with their connections, and what is
known of them) of changed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from stickyproxy.base.commons import Commons
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.endpoint import Endpoint, declared_facts
from stickyproxy.routing.servernames import ServerNames
from stickyproxy.routing.table import AcmeAnswers, Route, RoutingTable, guard

MakeEndpoint = Callable[[ServiceSpec, EndpointSpec], Endpoint]
SlotPin = Callable[[str, str], bytes]
"""What pins have in common of all who hold a slot: by name of the service, and slot."""

DEFAULT_HOST = "(any other host)"


def build(
    services: Iterable[ServiceSpec],
    make_endpoint: MakeEndpoint,
    previous: RoutingTable | None,
    awaited: tuple[str, ...] = (),
    thumbprints: Mapping[str, str] | None = None,
    *,
    slot_pin: SlotPin | None = None,
    commons: Commons | None = None,
) -> RoutingTable:
    """A table for these services. Endpoints and clusters of ``previous`` that did not change are
    taken over; the pools of endpoints that are gone are closed. ``awaited``: the providers whose
    services are still unknown. ``thumbprints``: of ACME accounts, by the host that
    they order for. ``commons``: what the workers of a
    proxy count together; None: there is one."""
    encoded = {host.encode(): said.encode() for host, said in (thumbprints or {}).items()}
    acme = AcmeAnswers(encoded) if encoded else None
    builder = _Builder(make_endpoint, previous, awaited, acme, slot_pin=slot_pin, commons=commons)
    table = builder.build(sorted(services, key=lambda service: service.name))
    builder.retire()
    return table


class _Builder:
    def __init__(
        self,
        make_endpoint: MakeEndpoint,
        previous: RoutingTable | None,
        awaited: tuple[str, ...],
        acme: AcmeAnswers | None,
        *,
        slot_pin: SlotPin | None,
        commons: Commons | None,
    ) -> None:
        self._slot_pin = slot_pin
        self._buckets = None if commons is None else commons.buckets
        self._headcount = None if commons is None else commons.headcount
        self._awaited = awaited
        self._acme = acme
        old = list(previous.clusters()) if previous is not None else []
        self._make_endpoint = make_endpoint
        self._old_clusters = {cluster.name: cluster for cluster in old}
        self._old_endpoints = {
            (endpoint.service, endpoint.id): endpoint
            for cluster in old
            for endpoint in cluster.endpoints
        }
        self._clusters: dict[str, Cluster] = {}
        self._endpoints: dict[tuple[str, str], Endpoint] = {}

    def build(self, services: Sequence[ServiceSpec]) -> RoutingTable:
        passed: dict[str, list[ServiceSpec]] = {}
        by_place: dict[tuple[str, str], list[ServiceSpec]] = {}
        for service in services:
            if service.ssl_passthrough:
                for host in service.hosts:
                    passed.setdefault(host, []).append(service)
                continue
            hosts = service.hosts + ((DEFAULT_HOST,) if service.default_backend else ())
            for host in dict.fromkeys(hosts):
                by_place.setdefault((host, service.context_root), []).append(service)

        by_host: dict[str, list[Route]] = {}
        for (host, _), sharing in by_place.items():
            route = Route(host, sharing, self._cluster(tuple(sharing)))
            by_host.setdefault(host, []).append(route)
        for host in passed:
            by_host.setdefault(host, [Route.passed_through(host)])
        for service in services:
            for source, destination in service.redirects:
                by_host.setdefault(source, [Route.redirecting(source, destination)])

        def longest_first(routes: list[Route]) -> tuple[Route, ...]:
            found = sorted(routes, key=lambda route: (-len(route.root), route.root))
            guard(found)
            return tuple(found)

        default = by_host.pop(DEFAULT_HOST, [])
        hosts_sorted = {host.encode(): longest_first(by_host[host]) for host in sorted(by_host)}
        return RoutingTable(
            hosts_sorted,
            longest_first(default),
            self._awaited,
            self._acme,
            self._server_names(passed, by_host) if passed else None,
        )

    def _server_names(
        self, passed: dict[str, list[ServiceSpec]], served: Iterable[str]
    ) -> ServerNames:
        clusters = {host: self._cluster(tuple(passed[host])) for host in sorted(passed)}
        return ServerNames(clusters, served)

    def retire(self) -> None:
        """Close the pools of endpoints that the new table does not use."""
        for key, endpoint in self._old_endpoints.items():
            if self._endpoints.get(key) is not endpoint:
                endpoint.pool.close()
        for name, cluster in self._old_clusters.items():
            if self._clusters.get(name) is not cluster:
                cluster.waiting.wake()

    def _cluster(self, services: tuple[ServiceSpec, ...]) -> Cluster:
        name = "+".join(service.name for service in services)
        cluster = self._clusters.get(name)
        if cluster is None:
            endpoints = tuple(
                self._endpoint(service, service.settled(spec))
                for service in services
                for spec in sorted(service.endpoints, key=lambda spec: spec.id)
            )
            old = self._old_clusters.get(name)
            if old is not None and old.services == services:
                cluster = old
            else:
                before = old and (old.balancer, old.budget, old.limiters)
                cluster = Cluster(
                    services,
                    endpoints,
                    *(before or ()),
                    buckets=self._buckets,
                    waiting=None if old is None else old.waiting,
                    coming=self._coming(services),
                )
            self._clusters[name] = cluster
        return cluster

    def _coming(self, services: Iterable[ServiceSpec]) -> frozenset[bytes]:
        """``Members.coming``."""
        slot_pin = self._slot_pin
        if slot_pin is None:
            return frozenset()
        return frozenset(slot_pin(each.name, slot) for each in services for slot in each.coming)

    def _endpoint(self, service: ServiceSpec, spec: EndpointSpec) -> Endpoint:
        key = (service.name, spec.id)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            old = self._old_endpoints.get(key)
            if old is not None and (old.target, old.slot) == (spec.target(service.tls), spec.slot):
                endpoint = old
                endpoint.outdated = spec.outdated
                facts = declared_facts(spec, old.facts)
                if facts != old.facts:
                    # It belongs to another service now, whose clusters are rebuilt in any case.
                    old.note(facts)
            else:
                endpoint = self._make_endpoint(service, spec)
            endpoint.declare(service, self._headcount)
            self._endpoints[key] = endpoint
        return endpoint
