"""How the endpoints of a service are reached: on which network, or at which node: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stickyproxy.base.addresses import join_host_port
from stickyproxy.base.text import shown
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.snapshot import Problem
from stickyproxy.providers.engine import labels
from stickyproxy.providers.engine.labels import LabelOptions
from stickyproxy.providers.swarm.state import (
    Json,
    ProxyLocation,
    SwarmState,
    address_on,
    connected_networks,
    hostname_of,
    is_coming,
    is_host_published,
    is_outdated,
    is_running,
    is_updating,
    name_of,
    node_address,
    port_on_node,
    slot_of,
    virtual_ip,
)


@dataclass(frozen=True, slots=True)
class Way:
    """How the endpoints of a service are reached: on ``network``, or at their node's address."""

    network: str = ""
    """Id of an overlay; empty: at the node's address."""
    via: str = ""
    """Name of the network, if it takes a connector to reach it."""
    published: bool = False
    """True: at the port that the task publishes on its node (``mode=host``)."""
    blocked: bool = False
    """True: it cannot be reached, see ``problems``."""
    problems: tuple[Problem, ...] = ()

    @property
    def hurdle(self) -> int:
        """How far it is from being usable. 0: it is; 1: its network is to be joined; 2: farther."""
        return 0 if not self.blocked else 1 if self.network else 2


class SwarmIndex:
    """The state of a Swarm, indexed."""

    def __init__(
        self, state: SwarmState, location: ProxyLocation, may_join: Callable[[Json], bool]
    ) -> None:
        self.location = location
        self._may_join = may_join
        self.own = next((s for s in state.services if name_of(s) == location.service), None)
        """The proxies' own service."""
        self._networks = {network["Id"]: network for network in state.networks}
        self._connected = connected_networks(state.services, location.service)
        self._names = frozenset(network.get("Name") for network in state.networks)
        self._nodes = {node["ID"]: node for node in state.nodes}
        self._tasks: dict[str, list[Json]] = {}
        for task in state.tasks:
            self._tasks.setdefault(task.get("ServiceID", ""), []).append(task)

    def tasks_of(self, service_id: str) -> Sequence[Json]:
        return self._tasks.get(service_id, ())

    # --- the way ---

    def way_to(self, service: Json, options: LabelOptions, ports: Sequence[Json]) -> Way:
        """An app published with ``mode=host`` needs no overlay, but one that the proxy is on
        already is better: some engines do not let a container reach a port of its own node."""
        name = service["Spec"]["Name"]
        choices = self._overlays(service)
        joined = choices.keys() & (self.location.networks or frozenset())
        wants_vip = options.backend_mode == "vip"
        no_effect = _without_vip(name, "is on no overlay") if wants_vip else ()
        on_node = options.network is None and not joined
        if on_node and is_host_published(options.port, ports) and not (wants_vip and choices):
            return Way(published=True, problems=no_effect)
        if not choices and self._is_on_host_network(service):
            return Way(problems=no_effect)
        network = self._choose(service, options, choices)
        if isinstance(network, Problem):
            return Way(blocked=True, problems=(network,))
        if wants_vip and not virtual_ip(service, network["Id"]):
            why = "has no virtual IP there (endpoint mode dnsrr)"
            return Way(blocked=True, problems=_without_vip(name, why, fatal=True))
        reachable = self.location.networks
        if reachable is not None and network["Id"] not in reachable:
            if network["Id"] in self._connected:
                return Way(network["Id"], via=str(network["Name"]))
            return Way(network["Id"], blocked=True, problems=(self._apart(name, network),))
        return Way(network["Id"])

    def _overlays(self, service: Json) -> dict[str, Json]:
        """The service's own networks by id; without ingress and anything that is not an overlay."""
        spec = service["Spec"]
        attached = spec["TaskTemplate"].get("Networks") or spec.get("Networks") or ()
        found = [self._networks.get(each["Target"]) for each in attached]
        return {n["Id"]: n for n in found if n and n.get("Scope") == "swarm" and not n["Ingress"]}

    def _is_on_host_network(self, service: Json) -> bool:
        """The host network has an id in the Swarm that the list of networks does not show."""
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
            joined = self.location.networks or frozenset()
            overlays = [n for n in self._networks.values() if n.get("Scope") == "swarm"]
            usable = [n for n in overlays if not n["Ingress"]]
            near = [n for n in usable if n["Id"] in joined] or usable
            remedy = self._join(name, min((str(n["Name"]) for n in near), default="apps"))
            reason = "is not on an overlay network, where a proxy could reach it"
            return Problem(name, reason, remedy=remedy, fatal=True)
        shared = [n for n in choices.values() if n["Id"] in (self.location.networks or ())]
        if len(choices) > 1 and not shared:
            reason = f"is on several networks ({names}): name the one that the proxy is to use"
            example = min(choices.values(), key=lambda n: str(n["Name"]))["Name"]
            remedy = f"docker service update --label-add {label}={example} {name}"
            return Problem(name, reason, label, remedy=remedy, fatal=True)
        return min(shared or choices.values(), key=lambda network: str(network["Name"]))

    def _join(self, name: str, network: str) -> str:
        """The command that puts a service on a network."""
        make = "" if network in self._names else f"docker network create -d overlay {network} && "
        return f"{make}docker service update --network-add {network} {name}"

    def _apart(self, name: str, network: Json) -> Problem:
        own = self.location
        if self._may_join(network) and own.service:  # nothing is to be typed
            reason = f'cannot be reached yet: the proxy is joining its network "{network["Name"]}"'
            return Problem(name, reason)
        if own.container and not own.service:
            if not network.get("Attachable"):
                reason = (
                    f'cannot be reached: its network "{network["Name"]}" accepts no single '
                    "containers, not being created with --attachable: run the proxy as a service"
                )
                return Problem(name, reason, fatal=True)
            remedy = f"docker network connect {network['Name']} {own.container[:12]}"
        else:  # the engine does not connect a task to a network that is not on its node yet
            proxy = own.service or "PROXY_SERVICE"
            remedy = f"docker service update --network-add {network['Name']} {proxy}"
        reason = f'cannot be reached: the proxy is not on its network "{network["Name"]}"'
        return Problem(name, reason, remedy=remedy, fatal=True)

    # --- the endpoints ---

    def endpoints(
        self, service: Json, options: LabelOptions, way: Way, tasks: Sequence[Json]
    ) -> tuple[EndpointSpec, ...]:
        if options.backend_mode == "vip" and way.network:
            address = virtual_ip(service, way.network)
            running = any(is_running(task) for task in tasks)
            if not address or not running:
                return ()
            address = join_host_port(address, options.port or 0)
            return (EndpointSpec(service["ID"], address, network=way.via),)
        found = (self._endpoint(service, task, options.port or 0, way) for task in tasks)
        return tuple(sorted((each for each in found if each), key=lambda each: each.id))

    def _endpoint(self, service: Json, task: Json, port: int, way: Way) -> EndpointSpec | None:
        if task["Status"]["State"] != "running":
            return None
        node = self._nodes.get(task.get("NodeID", ""), {})
        status = node.get("Status") or {}
        if status.get("State") == "down":
            return None  # its tasks stay "running" in the listing for as long as it is away
        if way.network:
            address = address_on(task, way.network)
        else:
            address = node_address(node)
            port = port_on_node(task, port) if way.published else port
        if not address or not port:
            return None
        return EndpointSpec(
            task["ID"],
            join_host_port(address, port),
            draining=task["DesiredState"] != "running",
            network=way.via,
            admin_state=labels.admin_state(_marks(node)) or "ready",
            node=hostname_of(node),
            slot=slot_of(task),
            outdated=is_outdated(service, task),
        )

    def coming(
        self, service: Json, tasks: Sequence[Json], endpoints: Sequence[EndpointSpec]
    ) -> tuple[str, ...]:
        """Slots without an endpoint that are about to have one: a task is on its way, or, while
        the service is updated, will be."""
        held = {endpoint.slot for endpoint in endpoints if not endpoint.draining}
        found = {slot_of(t) for t in tasks if is_coming(t) or (is_running(t) and t.get("Slot"))}
        if is_updating(service):
            mode = (service["Spec"].get("Mode") or {}).get("Replicated") or {}
            found.update(str(number + 1) for number in range(mode.get("Replicas") or 0))
        return tuple(sorted(found - held))

    def odd_nodes(self, name: str, tasks: Sequence[Json]) -> Iterator[Problem]:
        """Nodes whose label does not say what is wanted of the tasks there."""
        label = labels.ADMIN_STATE
        for used in sorted({task.get("NodeID", "") for task in tasks if is_running(task)}):
            node = self._nodes.get(used, {})
            if labels.admin_state(_marks(node)) is None:
                value = shown(_marks(node)[label])
                reason = (
                    f"runs on node {hostname_of(node) or used}, whose label {label} is {value}: "
                    'write "ready", "drain" or "maintenance"; it counts as ready'
                )
                yield Problem(name, reason, remedy=f"docker node update --label-rm {label} {used}")

    def odd_addresses(self, name: str, way: Way, tasks: Sequence[Json]) -> Iterator[Problem]:
        """Nodes whose own address is not one at which a proxy can reach them."""
        if way.network or way.blocked:
            return
        remedy = "docker swarm init --advertise-addr ADDRESS, or docker swarm join with the same"
        used = {task.get("NodeID", "") for task in tasks if is_running(task)}
        found = {node_address(self._nodes.get(node, {})) for node in used}
        if "" in found:
            yield Problem(name, f"runs on a node without an address: set one ({remedy})")
        in_container = self.location.container or self.location.service
        if in_container and any(each.startswith("127.") or each == "::1" for each in found):
            reason = (
                "runs on a node with a loopback address, which inside a container means "
                f"the container itself: give it another ({remedy})"
            )
            yield Problem(name, reason)


def _marks(node: Json) -> Mapping[str, str]:
    """The labels of a node."""
    return (node.get("Spec") or {}).get("Labels") or {}


def _without_vip(name: str, why: str, *, fatal: bool = False) -> tuple[Problem, ...]:
    label = labels.PREFIX + "backend_mode"
    remedy = f"docker service update --label-rm {label} {name}"
    reason = f"has no effect: the service {why}; remove it"
    return (Problem(name, reason, label, '"vip"', remedy, fatal),)
