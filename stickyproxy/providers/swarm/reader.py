"""From what a Swarm lists to a snapshot: pure, no Docker, no clock.

The dicts are those of the Docker Engine API (1.30 and later): ``GET /services``, ``/tasks``,
``/networks`` and ``/nodes``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.providers.swarm import labels
from stickyproxy.providers.swarm.labels import Declaration, LabelOptions

log = logging.getLogger("stickyproxy")

Json = dict[str, Any]

PROVIDER = "swarm"

CONNECTOR_NETWORK = "com.stickyproxy.connector.network"
CONNECTOR_PROXY = "com.stickyproxy.connector.proxy"
"""Labels of a connector: the id of its network, and the name of the proxies' service."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All that the engine says of the Swarm at one moment."""

    realm: str
    """The id of the Swarm."""
    services: Sequence[Json]
    tasks: Sequence[Json]
    networks: Sequence[Json]
    nodes: Sequence[Json]


@dataclass(frozen=True, slots=True)
class Standpoint:
    """Where the proxies stand that will forward to what is listed."""

    networks: frozenset[str] | None = None
    """Ids of the networks they are on; None: not known, and then every network will do."""
    service: str = ""
    """Name of the Swarm service that they are the tasks of; empty: not known, or none."""
    container: str = ""
    """Id of the container this process runs in; empty: not known, or none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a listing comes to."""

    snapshot: Snapshot
    converging: bool
    """True while tasks of a published service are on their way: more is to come soon."""
    wanted: Mapping[str, frozenset[str]]
    """Ids of the networks that published services are to be reached on -> their names."""


class SwarmReader:
    """Reads one listing after another, and remembers the last good labels of each service."""

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

    def read(self, listing: Listing, standpoint: Standpoint) -> Reading:
        """The snapshot of a listing. A service that cannot be read stops no other."""
        swarm = _Swarm(listing, standpoint, self._may_join)
        finds = [self._find(service, swarm) for service in listing.services]
        alive = {service.get("ID") for service in listing.services}
        self._last_good = {key: self._last_good[key] for key in self._last_good if key in alive}
        wanted: dict[str, frozenset[str]] = {}
        for found in finds:
            for network in found.networks:
                wanted[network] = wanted.get(network, frozenset()) | {found.name}
        specs = sorted(_published(finds), key=lambda spec: spec.name)
        problems = [problem for found in finds for problem in found.problems]
        problems += [*_behind_ingress(swarm, specs), *_no_such_proxies(swarm)]
        problems.sort(key=lambda problem: (problem.service, problem.label, problem.reason))
        return Reading(
            Snapshot(PROVIDER, tuple(specs), tuple(problems), listing.realm),
            converging=any(found.converging for found in finds),
            wanted=wanted,
        )

    def _find(self, service: Json, swarm: _Swarm) -> _Found:
        try:
            return self._read_service(service, swarm)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            name = name_of(service)
            log.debug("service %s", name, exc_info=True)
            reason = f"the engine's answer about it is not understood ({type(error).__name__})"
            return _Found(problems=(Problem(name, reason, fatal=True),))

    def _read_service(self, service: Json, swarm: _Swarm) -> _Found:
        """Its labels if they are good and lead to it; else those that were, if these do."""
        spec = service["Spec"]
        name = str(spec["Name"])
        marks = spec.get("Labels") or {}
        ports = _published_ports(service)
        declared = _declared(name, marks, ports)
        odd = _near_misses(name, spec, marks)
        if declared is None or declared.encrypted:
            self._last_good.pop(service["ID"], None)
        if declared is None:
            return _Found(problems=odd)
        options, way = declared.options, _Way(blocked=True)
        if options is not None:
            if self._is_for_others(options):
                return _Found()
            way = swarm.way_to(service, options, ports)
        problems = (*declared.problems, *odd, *way.problems)
        networks = {way.network}
        if options is not None and not way.blocked:
            self._last_good[service["ID"]] = options
        elif not declared.encrypted and (earlier := self._earlier(service, declared, ports)):
            other = swarm.way_to(service, earlier, ports)
            if options is None or other.hurdle < way.hurdle:
                options, way = earlier, other
                networks.add(way.network)
                problems = (*problems, *(each for each in way.problems if each not in problems))
        if options is None:
            return _Found(problems=problems)
        tasks = swarm.tasks_of(service["ID"])
        endpoints = () if way.blocked else swarm.endpoints(service, options, way, tasks)
        return _Found(
            options.spec(name, endpoints),
            (*problems, *swarm.odd_addresses(name, way, tasks)),
            frozenset(networks - {""}),
            way.blocked,
            is_converging(service, tasks),
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
    """Ids of those that it is to be reached on, now or soon."""
    blocked: bool = False
    """True: it is published without endpoints, as none can be reached."""
    converging: bool = False

    @property
    def name(self) -> str:
        return self.spec.name if self.spec else ""


@dataclass(frozen=True, slots=True)
class _Way:
    """How the endpoints of a service are reached: on ``network``, or at their node's address."""

    network: str = ""
    """Id of an overlay; empty: at the node's address."""
    via: str = ""
    """Name of the network, if it takes a connector to reach it."""
    published: bool = False
    """True: at the port that the task publishes on its node (``mode=host``)."""
    blocked: bool = False
    """True: not at all, see ``problems``."""
    problems: tuple[Problem, ...] = ()

    @property
    def hurdle(self) -> int:
        """How far it is from being open: not at all, a network that is not joined yet, more."""
        return 0 if not self.blocked else 1 if self.network else 2


class _Swarm:
    """A listing, indexed."""

    def __init__(
        self, listing: Listing, standpoint: Standpoint, may_join: Callable[[Json], bool]
    ) -> None:
        self.standpoint = standpoint
        self._may_join = may_join
        self.own = next((s for s in listing.services if name_of(s) == standpoint.service), None)
        """The proxies' own service."""
        self._networks = {network["Id"]: network for network in listing.networks}
        self._connected = _connected(listing, standpoint.service)
        self._names = frozenset(network.get("Name") for network in listing.networks)
        self._nodes = {node["ID"]: node for node in listing.nodes}
        self._tasks: dict[str, list[Json]] = {}
        for task in listing.tasks:
            self._tasks.setdefault(task.get("ServiceID", ""), []).append(task)

    def tasks_of(self, service_id: str) -> Sequence[Json]:
        return self._tasks.get(service_id, ())

    # --- the way ---

    def way_to(self, service: Json, options: LabelOptions, ports: Sequence[Json]) -> _Way:
        """An app published with ``mode=host`` needs no overlay, but one that the proxy is on
        already is better: some engines do not let a container reach a port of its own node."""
        name = service["Spec"]["Name"]
        choices = self._overlays(service)
        joined = choices.keys() & (self.standpoint.networks or frozenset())
        wants_vip = options.backend_mode == "vip"
        of_no_use = _without_vip(name, "is on no overlay") if wants_vip else ()
        on_node = options.network is None and not joined
        if on_node and _is_host_published(options.port, ports) and not (wants_vip and choices):
            return _Way(published=True, problems=of_no_use)
        if not choices and self._is_on_host_network(service):
            return _Way(problems=of_no_use)
        network = self._choose(service, options, choices)
        if isinstance(network, Problem):
            return _Way(blocked=True, problems=(network,))
        if wants_vip and not _virtual_ip(service, network["Id"]):
            why = "has no virtual IP there (endpoint mode dnsrr)"
            return _Way(blocked=True, problems=_without_vip(name, why, fatal=True))
        reachable = self.standpoint.networks
        if reachable is not None and network["Id"] not in reachable:
            if network["Id"] in self._connected:
                return _Way(network["Id"], via=str(network["Name"]))
            return _Way(network["Id"], blocked=True, problems=(self._apart(name, network),))
        return _Way(network["Id"])

    def _overlays(self, service: Json) -> dict[str, Json]:
        """The service's own networks by id; without ingress and what is no overlay."""
        spec = service["Spec"]
        attached = spec["TaskTemplate"].get("Networks") or spec.get("Networks") or ()
        found = [self._networks.get(each["Target"]) for each in attached]
        return {n["Id"]: n for n in found if n and n.get("Scope") == "swarm" and not n["Ingress"]}

    def _is_on_host_network(self, service: Json) -> bool:
        """The host network has an id in the Swarm that no listing of networks shows."""
        attached = service["Spec"]["TaskTemplate"].get("Networks") or ()
        return any(each["Target"] not in self._networks for each in attached)

    def _choose(
        self, service: Json, options: LabelOptions, choices: Mapping[str, Json]
    ) -> Json | Problem:
        name = service["Spec"]["Name"]
        label = labels.PREFIX + "network"
        names = ", ".join(sorted(network["Name"] for network in choices.values()))
        if options.network is not None:
            stack = (service["Spec"].get("Labels") or {}).get("com.docker.stack.namespace")
            meant = {options.network, f"{stack}_{options.network}"}
            for network in choices.values():
                if meant & {network["Id"], network["Name"]}:
                    return network
            reason = f'the service is not on a network "{options.network}"'
            reason += f": write one of {names}" if names else ", nor on any other overlay network"
            if choices and options.network not in self._names:
                example = min(str(network["Name"]) for network in choices.values())
                remedy = f"docker service update --label-add {label}={example} {name}"
            else:
                remedy = self._join(name, options.network)
            return Problem(name, reason, label, f'"{options.network}"', remedy, fatal=True)
        if not choices:
            joined = self.standpoint.networks or frozenset()
            overlays = [n for n in self._networks.values() if n.get("Scope") == "swarm"]
            usable = [n for n in overlays if not n["Ingress"]]
            near = [n for n in usable if n["Id"] in joined] or usable
            remedy = self._join(name, min((str(n["Name"]) for n in near), default="apps"))
            reason = "is on no overlay network, where a proxy could reach it"
            return Problem(name, reason, remedy=remedy, fatal=True)
        shared = [n for n in choices.values() if n["Id"] in (self.standpoint.networks or ())]
        if len(choices) > 1 and not shared:
            reason = f"is on several networks ({names}): say which one is for the proxy"
            example = min(choices.values(), key=lambda n: str(n["Name"]))["Name"]
            remedy = f"docker service update --label-add {label}={example} {name}"
            return Problem(name, reason, label, remedy=remedy, fatal=True)
        return min(shared or choices.values(), key=lambda network: str(network["Name"]))

    def _join(self, name: str, network: str) -> str:
        """The command that puts a service on a network."""
        make = "" if network in self._names else f"docker network create -d overlay {network} && "
        return f"{make}docker service update --network-add {network} {name}"

    def _apart(self, name: str, network: Json) -> Problem:
        own = self.standpoint
        if own.container and not own.service:
            if not network.get("Attachable"):
                reason = (
                    f'cannot be reached: its network "{network["Name"]}" takes no single '
                    "containers, as it was not made with --attachable: run the proxy as a service"
                )
                return Problem(name, reason, fatal=True)
            remedy = f"docker network connect {network['Name']} {own.container[:12]}"
        else:  # the engine does not plug a network into a task on whose node nobody is on it
            proxy = own.service or "PROXY_SERVICE"
            remedy = f"docker service update --network-add {network['Name']} {proxy}"
        if self._may_join(network) and own.service:
            reason = f'cannot be reached yet: the proxy is joining its network "{network["Name"]}"'
            return Problem(name, reason, remedy=remedy)
        reason = f'cannot be reached: the proxy is not on its network "{network["Name"]}"'
        return Problem(name, reason, remedy=remedy, fatal=True)

    # --- the endpoints ---

    def endpoints(
        self, service: Json, options: LabelOptions, way: _Way, tasks: Sequence[Json]
    ) -> tuple[EndpointSpec, ...]:
        if options.backend_mode == "vip" and way.network:
            address = _virtual_ip(service, way.network)
            running = any(_is_running(task) for task in tasks)
            if not address or not running:
                return ()
            address = _joined(address, options.port or 0)
            return (EndpointSpec(service["ID"], address, network=way.via),)
        found = (self._endpoint(task, options.port or 0, way) for task in tasks)
        return tuple(sorted((each for each in found if each), key=lambda each: each.id))

    def _endpoint(self, task: Json, port: int, way: _Way) -> EndpointSpec | None:
        if task["Status"]["State"] != "running":
            return None
        node = self._nodes.get(task.get("NodeID", ""), {})
        status = node.get("Status") or {}
        if status.get("State") == "down":
            return None  # its tasks stay "running" in the listing for as long as it is away
        if way.network:
            address = _address_on(task, way.network)
        else:
            address = _node_address(node)
            port = _port_on_node(task, port) if way.published else port
        if not address or not port:
            return None
        draining = task["DesiredState"] != "running"
        return EndpointSpec(task["ID"], _joined(address, port), draining, way.via)

    def odd_addresses(self, name: str, way: _Way, tasks: Sequence[Json]) -> Iterator[Problem]:
        """Nodes that do not know themselves by an address at which a proxy finds them."""
        if way.network or way.blocked:
            return
        remedy = "docker swarm init --advertise-addr ADDRESS, or docker swarm join with the same"
        used = {task.get("NodeID", "") for task in tasks if _is_running(task)}
        found = {_node_address(self._nodes.get(node, {})) for node in used}
        if "" in found:
            yield Problem(name, f"runs on a node without an address: give it one ({remedy})")
        in_container = self.standpoint.container or self.standpoint.service
        if in_container and any(each.startswith("127.") or each == "::1" for each in found):
            reason = (
                "runs on a node whose address is that of loopback, which to a container is the "
                f"container itself: give it another ({remedy})"
            )
            yield Problem(name, reason)


def _published(finds: Sequence[_Found]) -> Iterator[ServiceSpec]:
    """Clients of a service that cannot be reached are told so by 503; but not where it shares a
    host with others, on which it could only impose its policy."""
    open_ones = [found.spec for found in finds if found.spec and not found.blocked]
    taken = {(host, spec.context_root) for spec in open_ones for host in spec.hosts}
    defaults = {spec.context_root for spec in open_ones if spec.default_backend}
    for found in finds:
        if spec := found.spec:
            if found.blocked:
                root = spec.context_root
                hosts = tuple(host for host in spec.hosts if (host, root) not in taken)
                default = spec.default_backend and root not in defaults
                spec = replace(spec, hosts=hosts, default_backend=default)
            yield spec


# --- reading the engine's dicts -------------------------------------------------------------


def name_of(service: Json) -> str:
    """The name of a service; its id if it is too odd to have one."""
    spec = service.get("Spec")
    return str((isinstance(spec, dict) and spec.get("Name")) or service.get("ID"))


def labels_of(service: Json) -> Mapping[str, str]:
    """The labels of a service; none if it is too odd to have any."""
    spec = service.get("Spec")
    marks = spec.get("Labels") if isinstance(spec, dict) else None
    return marks if isinstance(marks, dict) else {}


def _connected(listing: Listing, proxy: str) -> frozenset[str]:
    """Ids of the networks that the proxies of a service have connectors for."""
    marks = map(labels_of, listing.services)
    ours = (each for each in marks if proxy and each.get(CONNECTOR_PROXY) == proxy)
    return frozenset(each.get(CONNECTOR_NETWORK, "") for each in ours)


def _declared(
    name: str, marks: Mapping[str, str], ports: Sequence[Json]
) -> labels.Declaration | None:
    return labels.parse_service(name, marks, [port["TargetPort"] for port in ports])


def _published_ports(service: Json) -> Sequence[Json]:
    """The TCP ports a service publishes, by the mesh or on its nodes."""
    ports = (service["Spec"].get("EndpointSpec") or {}).get("Ports") or ()
    return [port for port in ports if port.get("Protocol", "tcp") == "tcp"]


def _is_host_published(port: int | None, ports: Iterable[Json]) -> bool:
    return any(p.get("PublishMode") == "host" and p["TargetPort"] == port for p in ports)


def has_state(task: Json, state: str) -> bool:
    """True if that is how far the task has got."""
    return bool((task.get("Status") or {}).get("State") == state)


def _is_running(task: Json) -> bool:
    return has_state(task, "running") and bool(task["DesiredState"] == "running")


_ENDED = frozenset(("complete", "shutdown", "failed", "rejected", "remove", "orphaned"))


def is_converging(service: Json, tasks: Sequence[Json]) -> bool:
    """True while the service is being updated, or a task of it is not what is desired of it."""
    update = (service.get("UpdateStatus") or {}).get("State")
    return update in ("updating", "rollback_started") or any(map(_is_moving, tasks))


def _is_moving(task: Json) -> bool:
    state = task["Status"]["State"]
    if task["DesiredState"] in ("running", "ready", "accepted"):
        return bool(state != "running")
    return state not in _ENDED


def _address_on(task: Json, network: str) -> str:
    for attachment in task.get("NetworksAttachments") or ():
        if attachment["Network"]["ID"] == network:
            return _without_prefix((attachment.get("Addresses") or [""])[0])
    return ""


def _virtual_ip(service: Json, network: str) -> str:
    for address in (service.get("Endpoint") or {}).get("VirtualIPs") or ():
        if address["NetworkID"] == network:
            return _without_prefix(address.get("Addr", ""))
    return ""


def _node_address(node: Json) -> str:
    """A manager may know itself as 0.0.0.0 only; its manager address is better then."""
    address = str((node.get("Status") or {}).get("Addr", ""))
    if address in ("", "0.0.0.0", "::"):  # noqa: S104
        address = str((node.get("ManagerStatus") or {}).get("Addr", "")).rpartition(":")[0]
    return address.strip("[]")


def _port_on_node(task: Json, port: int) -> int:
    """Where the task's ``port`` is published on its node; 0: nowhere (yet)."""
    for each in (task["Status"].get("PortStatus") or {}).get("Ports") or ():
        is_it = each.get("TargetPort") == port and each.get("Protocol", "tcp") == "tcp"
        if is_it and each.get("PublishMode") == "host":
            return int(each.get("PublishedPort", 0))
    return 0


def _without_prefix(address: str) -> str:
    return address.partition("/")[0]


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# --- known traps ----------------------------------------------------------------------------


def _near_misses(name: str, spec: Json, marks: Mapping[str, str]) -> tuple[Problem, ...]:
    container = (spec["TaskTemplate"].get("ContainerSpec") or {}).get("Labels") or {}
    lost = {label: container[label] for label in container if label not in marks}
    misplaced = labels.on_containers(name, lost)
    return (*labels.lookalikes(name, marks), *([misplaced] if misplaced else []))


def _without_vip(name: str, why: str, *, fatal: bool = False) -> tuple[Problem, ...]:
    label = labels.PREFIX + "backend_mode"
    remedy = f"docker service update --label-rm {label} {name}"
    reason = f"is of no use: the service {why}; remove it"
    return (Problem(name, reason, label, '"vip"', remedy, fatal),)


def _no_such_proxies(swarm: _Swarm) -> list[Problem]:
    """Without the proxies' service nobody knows which networks they are on."""
    name = swarm.standpoint.service
    if not name or swarm.own is not None:
        return []
    reason = "is no service of this Swarm: write the name of the proxies' service in proxy_service"
    return [Problem(name, reason)]


def _behind_ingress(swarm: _Swarm, specs: Iterable[ServiceSpec]) -> list[Problem]:
    """The ingress mesh hides client addresses: hashing them sends everybody to one endpoint."""
    if swarm.own is None:
        return []
    own = swarm.own["Spec"]["Name"]
    meshed = [p for p in _published_ports(swarm.own) if p.get("PublishMode") != "host"]
    if not meshed:
        return []
    published, target = meshed[0].get("PublishedPort", 80), meshed[0]["TargetPort"]
    remedy = (
        f"docker service update --publish-rm {target} "
        f"--publish-add mode=host,published={published},target={target} {own}"
    )
    reason = (
        f"hashes client addresses, but {own} publishes port {published} through the ingress mesh, "
        "which shows all clients under one: publish it in host mode"
    )
    return [
        Problem(spec.name, reason, labels.PREFIX + key, '"true"', remedy)
        for spec in specs
        for key in ("ip_hash", "hash_source_ip")
        if getattr(spec, key)
    ]
