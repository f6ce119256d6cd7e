"""From the state of a Swarm to a snapshot: pure, no Docker, no clock.

state   what the engine says, and single facts in it
labels  what a service asks for
reach   how its endpoints are reached
certificates   which ones its clients are shown
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from stickyproxy.config.options import hashes_addresses
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.providers.engine import labels, places
from stickyproxy.providers.engine.labels import Declaration, LabelOptions
from stickyproxy.providers.swarm import sharing
from stickyproxy.providers.swarm.certificates import CertificateReader, CertificateRequest, Names
from stickyproxy.providers.swarm.reach import SwarmIndex, Way
from stickyproxy.providers.swarm.sharing import Claim
from stickyproxy.providers.swarm.state import (
    Json,
    ProxyLocation,
    SwarmState,
    created_at,
    is_converging,
    name_of,
    published_ports,
    stack_of,
)

log = logging.getLogger("stickyproxy")

PROVIDER = "swarm"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the state of a Swarm comes to."""

    snapshot: Snapshot
    converging: bool
    """True while tasks of a published service are starting or stopping: more will change soon."""
    wanted: Mapping[str, frozenset[str]]
    """Ids of the networks that published services are to be reached on -> their names."""
    secrets: Mapping[str, str]
    """Id -> name of the secrets that certificates are made of."""
    unread: frozenset[str]
    """Ids of those whose content is not known."""


class SwarmReader:
    """Reads one state after another, and remembers the last good labels of each service."""

    def __init__(
        self,
        service_cluster: str | None = None,
        may_join: Callable[[Json], bool] = lambda _: False,
    ) -> None:
        """``service_cluster``: publish only services of that cluster and of none; None: all.
        ``may_join``: whether the proxies join a network by themselves."""
        self._service_cluster = service_cluster
        self._may_join = may_join
        self._last_good: dict[str, LabelOptions] = {}
        self._certificates = CertificateReader()

    def read(
        self,
        state: SwarmState,
        location: ProxyLocation,
        contents: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Reading:
        """The snapshot of a state. A service that cannot be read affects no other. ``contents``:
        what is in secrets, by their id, as far as it is known."""
        swarm = SwarmIndex(state, location, self._may_join)
        finds = [self._find(service, swarm) for service in state.services]
        alive = {service.get("ID") for service in state.services}
        self._last_good = {key: self._last_good[key] for key in self._last_good if key in alive}
        wanted: dict[str, frozenset[str]] = {}
        settled, refused = sharing.settle(found.claim for found in finds if found.claim)
        finds = [_with_places(found, settled) for found in finds]
        for found in finds:
            for network in found.networks:
                wanted[network] = wanted.get(network, frozenset()) | {found.name}
        published = places.shared_out((f.spec, not f.blocked) for f in finds if f.spec)
        specs = sorted(published, key=lambda spec: spec.name)
        asked = (_with_spec(found.request, found.spec) for found in finds if found.spec)
        answer = self._certificates.read(filter(None, asked), state, contents)
        problems = [*(problem for found in finds for problem in found.problems), *refused]
        problems += answer.problems
        problems += [*_behind_ingress(swarm, specs), *_no_such_proxies(swarm)]
        problems.sort(key=lambda problem: (problem.service, problem.label, problem.reason))
        return Reading(
            Snapshot(PROVIDER, tuple(specs), tuple(problems), state.realm, answer.certificates),
            converging=bool(answer.unread) or any(found.converging for found in finds),
            wanted=wanted,
            secrets=answer.secrets,
            unread=answer.unread,
        )

    def _find(self, service: Json, swarm: SwarmIndex) -> _Found:
        try:
            return self._read_service(service, swarm)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            name = name_of(service)
            log.debug("service %s", name, exc_info=True)
            reason = f"the engine's response about it is not understood ({type(error).__name__})"
            return _Found(problems=(Problem(name, reason, fatal=True),))

    def _read_service(self, service: Json, swarm: SwarmIndex) -> _Found:
        """By its labels if they are good and its endpoints can be reached by them, else by its last
        good ones if those can."""
        spec = service["Spec"]
        name = str(spec["Name"])
        marks = spec.get("Labels") or {}
        ports = published_ports(service)
        declared = _declared(name, marks, ports)
        odd = _near_misses(name, spec, marks)
        if declared is None or (
            declared.encrypted and not _is_passed(self._last_good.get(service["ID"]))
        ):
            self._last_good.pop(service["ID"], None)
        if declared is None:
            return _Found(problems=odd)
        options, way = declared.options, Way(blocked=True)
        if options is not None:
            if self._is_for_others(options):
                return _Found()
            way = swarm.way_to(service, options, ports)
        problems = (*declared.problems, *odd, *way.problems)
        networks = {way.network}
        if options is not None and not way.blocked:
            self._last_good[service["ID"]] = options
        elif (earlier := self._earlier(service, declared, ports)) and (
            _is_passed(earlier) or not declared.encrypted
        ):
            other = swarm.way_to(service, earlier, ports)
            if options is None or other.hurdle < way.hurdle:
                options, way = earlier, other
                networks.add(way.network)
                problems = (*problems, *(each for each in way.problems if each not in problems))
        if options is None:
            return _Found(problems=problems)
        tasks = swarm.tasks_of(service["ID"])
        endpoints = () if way.blocked else swarm.endpoints(service, options, way, tasks)
        published = options.spec(name, endpoints)
        if not way.blocked and published.policy is not None and published.policy.affinity:
            published = replace(published, coming=swarm.coming(service, tasks, endpoints))
        return _Found(
            published,
            (*problems, *swarm.odd_addresses(name, way, tasks), *swarm.odd_nodes(name, tasks)),
            frozenset(networks - {""}),
            way.blocked,
            is_converging(service, tasks),
            stack_of(service),
            created_at(service),
            _request(service, published, options),
        )

    def _earlier(
        self, service: Json, now: Declaration, ports: Sequence[Json]
    ) -> LabelOptions | None:
        """What its labels said when they were good: as it was read here, else, in a process that
        began after that, as they were before the last update of the service."""
        options = self._last_good.get(service["ID"])
        if options is None:
            before = (service.get("PreviousSpec") or {}).get("Labels") or {}
            declared = _declared(service["Spec"]["Name"], before, ports)
            options = declared.options if declared else None
        if options is None or self._is_for_others(options):
            return None
        return now.still_named(options)

    def _is_for_others(self, options: LabelOptions) -> bool:
        ours = self._service_cluster
        return ours is not None and options.service_cluster not in (None, ours)


@dataclass(frozen=True, slots=True)
class _Found:
    spec: ServiceSpec | None = None
    problems: tuple[Problem, ...] = ()
    networks: frozenset[str] = frozenset()
    """Ids of the networks it is to be reached on, now or soon."""
    blocked: bool = False
    """True: it is published without endpoints, because none can be reached."""
    converging: bool = False
    stack: str = ""
    created: str = ""
    request: CertificateRequest | None = None
    """The certificate it asks for."""

    @property
    def name(self) -> str:
        return self.spec.name if self.spec else ""

    @property
    def claim(self) -> Claim | None:
        return Claim(self.spec, self.stack, self.created) if self.spec else None


def _with_places(found: _Found, settled: Mapping[str, ServiceSpec]) -> _Found:
    """With those that it gets; a service that gets none is not published."""
    if found.spec is None:
        return found
    spec = settled[found.name]
    if spec.hosts or spec.default_backend or spec.redirects:
        return replace(found, spec=spec)
    return _Found(problems=found.problems)


def _request(service: Json, spec: ServiceSpec, options: LabelOptions) -> CertificateRequest | None:
    """The certificate that a service asks for, by the labels that it is published by."""
    if options.ssl_cert is None:
        return None
    earlier = (service.get("PreviousSpec") or {}).get("Labels") or {}
    before = earlier.get(f"{labels.PREFIX}ssl_cert"), earlier.get(f"{labels.PREFIX}ssl_key")
    return CertificateRequest(
        service["ID"],
        spec,
        stack_of(service),
        Names(options.ssl_cert, options.ssl_key),
        Names(before[0], before[1]) if before[0] else None,
    )


def _with_spec(request: CertificateRequest | None, spec: ServiceSpec) -> CertificateRequest | None:
    """With the hosts that its service got."""
    return None if request is None else replace(request, spec=spec)


def _is_passed(options: LabelOptions | None) -> bool:
    """Whether nothing is ever served in the clear by these."""
    return options is not None and options.ssl_passthrough


def _declared(
    name: str, marks: Mapping[str, str], ports: Sequence[Json]
) -> labels.Declaration | None:
    return labels.parse_service(name, marks, [port["TargetPort"] for port in ports])


# --- known traps ----------------------------------------------------------------------------


def _near_misses(name: str, spec: Json, marks: Mapping[str, str]) -> tuple[Problem, ...]:
    container = (spec["TaskTemplate"].get("ContainerSpec") or {}).get("Labels") or {}
    lost = {label: container[label] for label in container if label not in marks}
    misplaced = labels.on_containers(name, lost)
    return (*labels.lookalikes(name, marks), *([misplaced] if misplaced else []))


def _no_such_proxies(swarm: SwarmIndex) -> list[Problem]:
    """Without the proxies' service it is not known which networks they are on."""
    name = swarm.location.service
    if not name or swarm.own is not None:
        return []
    reason = "is not a service of this Swarm: set proxy_service to the name of the proxies' service"
    return [Problem(name, reason)]


def _behind_ingress(swarm: SwarmIndex, specs: Iterable[ServiceSpec]) -> list[Problem]:
    """The ingress mesh hides client addresses: hashing them sends all clients to one endpoint."""
    if swarm.own is None:
        return []
    own = swarm.own["Spec"]["Name"]
    meshed = [p for p in published_ports(swarm.own) if p.get("PublishMode") != "host"]
    if not meshed:
        return []
    published, target = meshed[0].get("PublishedPort", 80), meshed[0]["TargetPort"]
    remedy = (
        f"docker service update --publish-rm {target} "
        f"--publish-add mode=host,published={published},target={target} {own}"
    )
    reason = (
        f"hashes client addresses, but {own} publishes port {published} through the ingress mesh, "
        "which hides all clients behind one address: publish it in host mode"
    )
    return [
        Problem(spec.name, reason, labels.PREFIX + key, '"true"', remedy)
        for spec in specs
        for key in hashes_addresses(spec)
    ]
