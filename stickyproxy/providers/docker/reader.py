"""From the containers of an engine to a snapshot: pure, no Docker, no clock.

A container's labels never change. What changes is which containers there are, and for a moment
those of before and those of after an update run side by side: what a service asks for is what its
newest container says, while each is reached by its own labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.providers.docker.reach import address_of, relabel
from stickyproxy.providers.docker.state import Container, ContainersState, is_replica, number_of
from stickyproxy.providers.engine import labels, places
from stickyproxy.providers.engine.hints import LabelChange
from stickyproxy.providers.engine.labels import PREFIX, Declaration, LabelOptions

log = logging.getLogger("stickyproxy")

PROVIDER = "docker"


@dataclass(frozen=True, slots=True)
class _Replicas:
    """What the containers of one service come to."""

    spec: ServiceSpec | None = None
    problems: tuple[Problem, ...] = ()


class ContainerReader:
    """Reads one state after another; remembers what has run, and the last good labels of each
    service. A service whose containers have all stopped is still published, without endpoints,
    until they are removed; but not what stopped before it was ever seen to run."""

    def __init__(self, service_cluster: str | None = None) -> None:
        """``service_cluster``: publish only services of that cluster and of none; None: all."""
        self._service_cluster = service_cluster
        self._last_good: dict[str, LabelOptions] = {}
        self._has_run: frozenset[str] = frozenset()

    def read(self, state: ContainersState) -> Snapshot:
        """The snapshot of a state. A service that cannot be read affects no other."""
        services: dict[str, list[Container]] = {}
        for container in filter(is_replica, state.containers):
            services.setdefault(container.service, []).append(container)
        self._has_run = frozenset(
            name
            for name, containers in services.items()
            if name in self._has_run or any(each.running for each in containers)
        )
        self._last_good = {n: self._last_good[n] for n in self._last_good if n in self._has_run}
        found = [self._read_service(name, services[name], state) for name in sorted(self._has_run)]
        specs = places.shared_out(
            (each.spec, bool(each.spec.endpoints)) for each in found if each.spec
        )
        problems = (problem for each in found for problem in each.problems)
        return Snapshot(PROVIDER, tuple(specs), tuple(problems), state.realm)

    def _read_service(
        self, name: str, containers: Sequence[Container], state: ContainersState
    ) -> _Replicas:
        running = [each for each in containers if each.running]
        if not running:
            known = self._last_good.get(name)
            return _Replicas(known.spec(name, ()) if known and self._is_ours(known) else None)
        running.sort(key=lambda each: (each.created, each.id), reverse=True)
        declared = {each.id: _declared(each) for each in running}
        newest = running[0]
        odd = tuple(labels.lookalikes(name, newest.labels))
        ours = [each for each in running if declared[each.id] is not None]
        now = next((found for each in ours if (found := declared[each.id])), None)
        if now is None or (now.encrypted and not _is_passed(self._last_good.get(name))):
            self._last_good.pop(name, None)
        if now is None:
            return _Replicas(problems=odd)
        options = now.options or self._earlier(name, now, (declared[each.id] for each in ours))
        if options is not None and not self._is_ours(options):
            return _Replicas()
        problems = [*now.problems, *odd]
        if options is None:
            return _Replicas(problems=tuple(problems))
        if now.options is not None:
            self._last_good[name] = now.options
        if options.backend_mode == "vip":
            problems.append(_without_vip(name))
        if options.ssl_cert is not None:
            problems.append(_without_secrets(name, options.ssl_cert))
        endpoints, hurdles = _endpoints(ours, declared, options, state)
        problems += (replace(each, fatal=not endpoints) for each in hurdles)
        problems += _unhealthy(name, running)
        # What the newest one says of itself is not said of the others.
        spec = replace(options.spec(name, endpoints), admin_state="ready")
        return _Replicas(spec, tuple(problems))

    def _earlier(
        self, name: str, now: Declaration, declared: Iterable[Declaration | None]
    ) -> LabelOptions | None:
        """What older containers say, else what was said when it was last good."""
        good = next((each.options for each in declared if each and each.options), None)
        earlier = good or self._last_good.get(name)
        if earlier is None or (now.encrypted and not _is_passed(earlier)):
            return None
        return now.still_named(earlier)

    def _is_ours(self, options: LabelOptions) -> bool:
        ours = self._service_cluster
        return ours is None or options.service_cluster in (None, ours)


def _declared(container: Container) -> Declaration | None:
    ports = {each.target for each in container.ports}
    return labels.parse_service(container.service, container.labels, ports, relabel)


def _is_passed(options: LabelOptions | None) -> bool:
    """Whether nothing is ever served in the clear by these."""
    return options is not None and options.ssl_passthrough


def _fits(own: Declaration, options: LabelOptions) -> bool:
    """Whether a container may be served as its service's newest one says: it speaks TLS where that
    does, and is not served in the clear if it does not want to be."""
    asked = own.options
    if asked is None:
        return not own.encrypted
    spoken = asked.ssl_passthrough, asked.ssl_backend
    same = spoken == (options.ssl_passthrough, options.ssl_backend)
    return same and (options.ssl_only or not asked.ssl_only)


def _endpoints(
    containers: Sequence[Container],
    declared: dict[str, Declaration | None],
    options: LabelOptions,
    state: ContainersState,
) -> tuple[tuple[EndpointSpec, ...], list[Problem]]:
    """Of those that can be reached; and why others cannot, each reason once. ``options`` are for
    containers whose own labels are of no use."""
    endpoints: list[EndpointSpec] = []
    problems: dict[Problem, None] = {}
    for container in containers:
        own = declared[container.id]
        if container.health or own is None or not _fits(own, options):
            continue
        address = address_of(container, own.options or options, state)
        if isinstance(address, Problem):
            problems[address] = None
        elif address is not None:
            wanted, slot = (own.options or options).admin_state, number_of(container)
            endpoints.append(EndpointSpec(container.id, address, admin_state=wanted, slot=slot))
    endpoints.sort(key=lambda each: each.id)
    return tuple(endpoints), list(problems)


def _without_vip(name: str) -> Problem:
    label = f"{PREFIX}backend_mode"
    reason = "has no effect: containers have no virtual IP; remove it"
    return Problem(name, reason, label, '"vip"', relabel(name, LabelChange(remove=(label,))))


def _without_secrets(name: str, certificate: str) -> Problem:
    label = f"{PREFIX}ssl_cert"
    reason = (
        "names a secret, and only a Swarm has secrets: name the files of the certificate and its "
        "key in [[certificates]]"
    )
    change = LabelChange(remove=(label, f"{PREFIX}ssl_key"))
    return Problem(name, reason, label, f'"{certificate}"', relabel(name, change))


def _unhealthy(name: str, running: Sequence[Container]) -> Iterator[Problem]:
    found = [each.name for each in running if each.health == "unhealthy"]
    if found:
        reason = f"{len(found)} of {len(running)} containers are unhealthy and get no requests"
        remedy = f"docker inspect --format '{{{{json .State.Health}}}}' {min(found)}"
        yield Problem(name, reason, remedy=remedy)
