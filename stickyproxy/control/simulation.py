"""What a change of endpoints would do to sessions: made-up clients are served by copies of the
clusters, before the change and after it. Balancers are built and asked as for requests; nothing of
what is live is touched.

The sessions begin at the moment of the question, so none of them is at an endpoint that drains. The
ids of endpoints that are added are made up, and other ids own other keys: which keys move is an
example, how many is typical.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from stickyproxy.base import hashing
from stickyproxy.base.text import shown
from stickyproxy.control.registry import NoConnections
from stickyproxy.model.service import EndpointKey, EndpointSpec, ServiceSpec
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.endpoint import Endpoint, Pick
from stickyproxy.routing.policy import Policy
from stickyproxy.routing.table import RoutingTable

FIRST_CLIENT = int(IPv4Address("10.0.0.0"))

_PINS = hashing.pin_key(b"simulation")
"""Of endpoints that are added."""


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What is to be done."""

    scale: Mapping[str, int] = field(default_factory=dict)
    """How many endpoints services have then, by name."""
    remove: tuple[str, ...] = ()
    """Endpoints that go, by their id, by their address or as ``service/id``."""
    weight: Mapping[str, int] = field(default_factory=dict)
    """How many tenths of their share of new sessions endpoints get then, by what they are called
    likewise: less than ten, as while they warm up."""


@dataclass(slots=True)
class Visitor:
    """A client with a session. Implements ``routing.endpoint.Request``."""

    client_address: str
    value: bytes
    """What it sends wherever a policy looks for a key of its own."""
    jar: dict[bytes, bytes] = field(default_factory=dict)
    """Its cookies."""
    idempotent: bool = True

    def cookies(self, name: bytes) -> Sequence[bytes]:
        """Values of all cookies of that name."""
        return (self.jar[name],) if name in self.jar else ()

    def header(self, name: str) -> bytes | None:
        """Its key, whatever the field is called."""
        return self.value

    def query(self, name: bytes) -> bytes | None:
        """Its key, whatever the parameter is called."""
        return self.value

    def keep(self, pick: Pick) -> None:
        """Keep the cookies that come with a response to which the application adds none."""
        if pick.cookies is not None and pick.cookies.due:
            for cookie in pick.cookies.values((), secure=False):
                name, _, value = cookie.partition(b";")[0].partition(b"=")
                self.jar[name] = value


def visitors(policy: Policy, count: int) -> list[Visitor]:
    """Clients that have nothing in common, with what the policy's key is read from."""
    options = policy.options()
    # A cookie that is not ours to generate is the application's.
    own = options.get("hash_cookie") if "hash_cookie_ttl" not in options else None
    found = []
    for number in range(count):
        value = b"visitor-%d" % number
        jar = {str(own).encode(): value} if own else {}
        found.append(Visitor(str(IPv4Address(FIRST_CLIENT + number)), value, jar))
    return found


@dataclass(frozen=True, slots=True)
class Result:
    """What a change does to one cluster."""

    before: Cluster
    after: Cluster
    moves: Counter[tuple[Endpoint, Endpoint | None]]
    """How many sessions go from where to where; to None: nobody is left. Empty if the policy knows
    no sessions."""
    load_before: Counter[Endpoint]
    """Sessions by endpoint; requests, if the policy knows no sessions."""
    load_after: Counter[Endpoint]
    load_new: Counter[Endpoint]
    """How as many sessions would be spread that begin after the change."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """A cluster before a change and after it, ready to be asked."""

    before: Cluster
    after: Cluster

    def run(self, clients: Iterable[Visitor]) -> Result:
        """Serve each client once before and once after the change, and then as many others that are
        like them."""
        before: dict[int, Endpoint] = {}
        after: dict[int, Endpoint | None] = {}
        clients = list(clients)
        others = [replace(client, jar=dict(client.jar)) for client in clients]
        for number, client in enumerate(clients):
            pick = self.before.balancer.pick(client, ())
            if pick is not None:
                before[number] = pick.endpoint
                client.keep(pick)
        for number, client in enumerate(clients):
            pick = self.after.balancer.pick(client, ())
            after[number] = None if pick is None else pick.endpoint
        new = (self.after.balancer.pick(client, ()) for client in others)
        load_new = Counter(pick.endpoint for pick in new if pick is not None)
        moved = [(before[each], after[each]) for each in before if before[each] is not after[each]]
        return Result(
            self.before,
            self.after,
            Counter(moved) if self.before.policy.affinity else Counter(),
            Counter(before.values()),
            Counter(endpoint for endpoint in after.values() if endpoint is not None),
            load_new,
        )


def simulations(table: RoutingTable, change: PlannedChange) -> list[Simulation]:
    """The clusters that a change concerns. Raises ValueError for what cannot be changed."""
    clusters = list(table.clusters())
    services = {service.name: service for cluster in clusters for service in cluster.services}
    changed = dict(changed_services(services, change))
    weights = dict(changed_weights(services, change))
    touched = {*changed, *(service for service, _ in weights)}
    return [
        simulation(
            cluster, [changed.get(service.name, service) for service in cluster.services], weights
        )
        for cluster in clusters
        if any(service.name in touched for service in cluster.services)
    ]


def simulation(
    live: Cluster, services: Sequence[ServiceSpec], weights: Mapping[EndpointKey, int] | None = None
) -> Simulation:
    """A cluster, and what it becomes when its services are declared like this. ``weights``: tenths
    that endpoints have then; others have what they have."""
    copies: dict[EndpointKey, Endpoint] = {
        (each.service, each.id): _copy(each, live.services) for each in live.endpoints
    }
    coming = live.coming
    before = Cluster(live.services, tuple(copies.values()), live.balancer, coming=coming)
    endpoints = tuple(
        copies.get((service.name, spec.id)) or _added(service, spec)
        for service in services
        for spec in sorted(service.endpoints, key=lambda spec: spec.id)
    )
    for endpoint in endpoints:  # the balancer of before has been built
        endpoint.tenths = (weights or {}).get((endpoint.service, endpoint.id), endpoint.tenths)
    after = Cluster(tuple(services), endpoints, before.balancer, coming=coming)
    return Simulation(before, after)


def changed_weights(
    services: Mapping[str, ServiceSpec], change: PlannedChange
) -> Iterator[tuple[EndpointKey, int]]:
    """Endpoints, and how many tenths they have then. Raises ValueError."""
    for asked, tenths in change.weight.items():
        for name, spec in _called(services, asked):
            yield (name, spec.id), tenths


def _called(services: Mapping[str, ServiceSpec], asked: str) -> Sequence[tuple[str, EndpointSpec]]:
    """The endpoints that are called so, with the names of their services. Raises ValueError."""
    found = [
        (service.name, spec)
        for service in services.values()
        for spec in service.endpoints
        if asked in (spec.id, spec.address, f"{service.name}/{spec.id}")
    ]
    if not found:
        raise ValueError(
            f"no endpoint is called {shown(asked)}: stickyproxy services --json has their ids"
        )
    return found


def changed_services(
    services: Mapping[str, ServiceSpec], change: PlannedChange
) -> Mapping[str, ServiceSpec]:
    """Those that are declared differently then, by name. Raises ValueError."""
    changed: dict[str, ServiceSpec] = {}
    for asked in change.remove:
        for name, gone in _called(services, asked):
            service = changed.get(name, services[name])
            left = tuple(spec for spec in service.endpoints if spec != gone)
            changed[name] = replace(service, endpoints=left)
    for name, count in change.scale.items():
        if name not in services:
            known = ", ".join(sorted(services)) or "there is none"
            raise ValueError(f"no service is called {shown(name)}: write one of these: {known}")
        changed[name] = scaled(changed.get(name, services[name]), count)
    return changed


def scaled(service: ServiceSpec, count: int) -> ServiceSpec:
    """The service with so many endpoints besides those that drain. Those that are added are called
    ``new-1`` and so on; if some go, it is the last ones by their ids. Whoever scales it for real
    may choose others."""
    staying = sorted((e for e in service.endpoints if not e.draining), key=lambda e: e.id)
    draining = [each for each in service.endpoints if each.draining]
    taken = {each.id for each in service.endpoints}
    names = (f"new-{number}" for number in range(1, count + len(taken) + 1))
    free = [name for name in names if name not in taken]
    added = [EndpointSpec(name, name) for name in free[: max(0, count - len(staying))]]
    return replace(service, endpoints=(*staying[:count], *draining, *added))


def _copy(live: Endpoint, services: Iterable[ServiceSpec]) -> Endpoint:
    """One that serves nobody, of which the same is known."""
    spec = EndpointSpec(live.id, live.address, slot=live.slot, outdated=live.outdated)
    copy = Endpoint(live.service, spec, live.pin, NoConnections(), former_pin=live.former_pin)
    for service in services:
        if service.name == live.service:
            copy.declare(service)
    copy.tenths = live.tenths
    copy.note(live.facts)
    return copy


def _added(service: ServiceSpec, spec: EndpointSpec) -> Endpoint:
    pin = hashing.pin(_PINS, service.name, spec.id)
    added = Endpoint(service.name, spec, pin, NoConnections())
    added.declare(service)
    return added
