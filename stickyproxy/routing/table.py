"""The routing table: immutable, never empty-handed, replaced whole.

    RoutingTable   host -> routes, longest context root first
    Route          host + context root -> cluster (or a redirect)
    Cluster        the live side of the services on a route: endpoints and balancer

``build`` makes a table from service specs and takes over from the table it replaces whatever did
not change: clusters of unchanged services, and the endpoints (with their connections) of changed
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from stickyproxy.base.errors import InvalidHost
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.routing.balancers import policy_for
from stickyproxy.routing.endpoint import Balancer, Endpoint, EndpointState, Members, Policy
from stickyproxy.semantics.headers import normalise_host

MakeEndpoint = Callable[[str, EndpointSpec], Endpoint]


class Cluster:
    """The endpoints of one or several services that share a route, and their balancer.

    The policy is that of the first service by name. ``set_state`` rebuilds the balancer, so that
    a pick never has to filter.
    """

    def __init__(
        self,
        services: tuple[ServiceSpec, ...],
        endpoints: tuple[Endpoint, ...],
        previous: Balancer | None = None,
    ) -> None:
        self.services = services
        self.name = "+".join(service.name for service in services)
        self.endpoints = endpoints
        self.policy: Policy = policy_for(services[0])
        self.balancer: Balancer = self.policy.build(self._members(), previous)

    def set_state(self, endpoint: Endpoint, state: EndpointState) -> None:
        """Change what an endpoint may be used for; takes effect with the next pick."""
        endpoint.state = state
        self.balancer = self.policy.build(self._members(), self.balancer)

    def _members(self) -> Members:
        by_state: dict[EndpointState, list[Endpoint]] = {state: [] for state in EndpointState}
        for endpoint in self.endpoints:
            by_state[endpoint.state].append(endpoint)
        return Members(
            usable=tuple(by_state[EndpointState.USABLE]),
            draining=tuple(by_state[EndpointState.DRAINING]),
            down=tuple(by_state[EndpointState.DOWN]),
        )

    def __repr__(self) -> str:
        usable = sum(endpoint.state is EndpointState.USABLE for endpoint in self.endpoints)
        return (
            f"<Cluster {self.name} {usable}/{len(self.endpoints)} usable, {self.policy.describe()}>"
        )


class Route:
    """One context root of one host. ``cluster`` is None for a redirect."""

    __slots__ = ("cluster", "host", "redirect", "rewrite", "root", "websocket_paths")

    def __init__(self, host: str, service: ServiceSpec, cluster: Cluster) -> None:
        self.host = host
        self.cluster: Cluster | None = cluster
        self.redirect: bytes | None = None
        self.root = service.context_root.encode()
        self.rewrite = service.context_root_rewrite and self.root != b"/"
        self.websocket_paths = (
            None
            if service.websocket_endpoints is None
            else tuple(path.encode() for path in service.websocket_endpoints)
        )

    @classmethod
    def redirecting(cls, host: str, destination: str) -> Route:
        """A route that answers 302 to ``destination`` + request target."""
        route = cls.__new__(cls)
        route.host, route.cluster, route.redirect = host, None, destination.encode()
        route.root, route.rewrite, route.websocket_paths = b"/", False, None
        return route

    def covers(self, target: bytes) -> bool:
        """True if the target lies under the context root, on a segment boundary."""
        root = self.root
        if root == b"/":
            return True
        return target.startswith(root) and target[len(root) : len(root) + 1] in b"/?"

    def rewritten(self, target: bytes) -> bytes:
        """The target without the context root."""
        rest = target[len(self.root) :]
        return rest if rest.startswith(b"/") else b"/" + rest

    def may_upgrade(self, target: bytes) -> bool:
        """True if the target's path may switch protocols."""
        if self.websocket_paths is None:
            return True
        return target.partition(b"?")[0] in self.websocket_paths

    def __repr__(self) -> str:
        if self.redirect is not None:
            return f"<Route {self.host} redirects to {self.redirect.decode()}>"
        return f"<Route {self.host}{self.root.decode()} -> {self.cluster!r}>"


class RoutingTable:
    """Which route answers for a host and a target."""

    def __init__(
        self, hosts: dict[bytes, tuple[Route, ...]], default: tuple[Route, ...] = ()
    ) -> None:
        self._hosts = {host: hosts[host] for host in hosts if not host.startswith(b"*.")}
        self._wildcards = {host[2:]: hosts[host] for host in hosts if host.startswith(b"*.")}
        """By the part behind ``*.``."""
        self._default = default

    def match(self, host: bytes, target: bytes) -> Route | None:
        """The route for a Host field value as received and an origin-form target.

        Raises InvalidHost if ``host`` cannot be a host name.
        """
        routes = self._hosts.get(host)
        if routes is None:
            routes = self._find(host)
        for route in routes:
            if route.covers(target):
                return route
        return None

    def _find(self, host: bytes) -> tuple[Route, ...]:
        normal = normalise_host(host)
        if normal is None:
            raise InvalidHost(host)
        routes = self._hosts.get(normal)
        if routes is None and self._wildcards:
            routes = self._find_wildcard(normal)
        return self._default if routes is None else routes

    def _find_wildcard(self, host: bytes) -> tuple[Route, ...] | None:
        _, dot, parent = host.partition(b".")
        while dot:
            routes = self._wildcards.get(parent)
            if routes is not None:
                return routes
            _, dot, parent = parent.partition(b".")
        return None

    def routes(self) -> Iterator[Route]:
        """All routes, by host and then by context root, longest first; defaults last."""
        hosts = self._hosts | {
            b"*." + parent: self._wildcards[parent] for parent in self._wildcards
        }
        for host in sorted(hosts):
            yield from hosts[host]
        yield from self._default

    def clusters(self) -> Iterator[Cluster]:
        """Each cluster once."""
        seen: dict[int, Cluster] = {}
        for route in self.routes():
            if route.cluster is not None:
                seen.setdefault(id(route.cluster), route.cluster)
        yield from seen.values()

    def dump(self) -> str:
        """The table as a tree, for people."""
        lines: list[str] = []
        host = None
        for route in self.routes():
            if route.host != host:
                host = route.host
                lines.append(host)
            lines.extend(_dump_route(route))
        return "\n".join(lines) or "(no services)"


def _dump_route(route: Route) -> Iterator[str]:
    if route.cluster is None:
        yield f"  {route.root.decode()} -> 302 {(route.redirect or b'').decode()}"
        return
    rewrite = " (stripped)" if route.rewrite else ""
    cluster = route.cluster
    yield f"  {route.root.decode()}{rewrite} -> {cluster.name}, {cluster.policy.describe()}"
    for endpoint in cluster.endpoints:
        state = "" if endpoint.state is EndpointState.USABLE else f" {endpoint.state.value}"
        yield f"    {endpoint.address}{state}"
    if not cluster.endpoints:
        yield "    (no endpoints)"


DEFAULT_HOST = "(any other host)"


def build(
    services: Iterable[ServiceSpec], make_endpoint: MakeEndpoint, previous: RoutingTable | None
) -> RoutingTable:
    """A table for these services. Endpoints and clusters of ``previous`` that did not change are
    taken over; the pools of endpoints that are gone are closed."""
    builder = _Builder(make_endpoint, previous)
    table = builder.build(sorted(services, key=lambda service: service.name))
    builder.retire()
    return table


class _Builder:
    def __init__(self, make_endpoint: MakeEndpoint, previous: RoutingTable | None) -> None:
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
        by_place: dict[tuple[str, str], list[ServiceSpec]] = {}
        for service in services:
            hosts = service.hosts + ((DEFAULT_HOST,) if service.default_backend else ())
            for host in dict.fromkeys(hosts):
                by_place.setdefault((host, service.context_root), []).append(service)

        by_host: dict[str, list[Route]] = {}
        for (host, _), sharing in by_place.items():
            route = Route(host, sharing[0], self._cluster(tuple(sharing)))
            by_host.setdefault(host, []).append(route)
        for service in services:
            for source, destination in service.redirects:
                by_host.setdefault(source, [Route.redirecting(source, destination)])

        def longest_first(routes: list[Route]) -> tuple[Route, ...]:
            return tuple(sorted(routes, key=lambda route: (-len(route.root), route.root)))

        default = by_host.pop(DEFAULT_HOST, [])
        hosts_sorted = {host.encode(): longest_first(by_host[host]) for host in sorted(by_host)}
        return RoutingTable(hosts_sorted, longest_first(default))

    def retire(self) -> None:
        """Close the pools of endpoints that the new table does not use."""
        for key, endpoint in self._old_endpoints.items():
            if self._endpoints.get(key) is not endpoint:
                endpoint.pool.close()

    def _cluster(self, services: tuple[ServiceSpec, ...]) -> Cluster:
        name = "+".join(service.name for service in services)
        cluster = self._clusters.get(name)
        if cluster is None:
            endpoints = tuple(
                self._endpoint(service.name, spec)
                for service in services
                for spec in sorted(service.endpoints, key=lambda spec: spec.id)
            )
            old = self._old_clusters.get(name)
            if old is not None and old.services == services:
                cluster = old
            else:
                cluster = Cluster(services, endpoints, old.balancer if old else None)
            self._clusters[name] = cluster
        return cluster

    def _endpoint(self, service: str, spec: EndpointSpec) -> Endpoint:
        key = (service, spec.id)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            old = self._old_endpoints.get(key)
            if old is not None and old.address == spec.address:
                endpoint = old
                if spec.draining != (old.state is EndpointState.DRAINING):
                    endpoint.state = (
                        EndpointState.DRAINING if spec.draining else EndpointState.USABLE
                    )
            else:
                endpoint = self._make_endpoint(service, spec)
            self._endpoints[key] = endpoint
        return endpoint
