"""What an engine says of a Swarm, and how to read single facts from it: pure.

The dicts are those of the Docker Engine API (1.30 and later): ``GET /services``, ``/tasks``,
``/networks``, ``/nodes``, ``/secrets`` and ``/configs``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

CONNECTOR_NETWORK = "com.stickyproxy.connector.network"
CONNECTOR_PROXY = "com.stickyproxy.connector.proxy"
"""Labels of a connector: the id of its network, and the name of the proxies' service."""

CUSTODIAN_PROXY = "com.stickyproxy.custodian.proxy"
"""Label of a custodian: the name of the service that it is made after."""


@dataclass(frozen=True, slots=True)
class SwarmState:
    """All that an engine lists of its Swarm at one moment."""

    realm: str
    """The id of the Swarm."""
    services: Sequence[Json]
    tasks: Sequence[Json]
    networks: Sequence[Json]
    nodes: Sequence[Json]
    secrets: Sequence[Json] = ()
    """Those that labels name."""
    configs: Sequence[Json] = ()
    """Those that labels name, with what is in them."""


@dataclass(frozen=True, slots=True)
class ProxyLocation:
    """Where the proxies are that will forward to what is listed."""

    networks: frozenset[str] | None = None
    """Ids of the networks they are on; None: not known, so that all count as reachable."""
    service: str = ""
    """Name of the Swarm service that they are the tasks of; empty: not known, or none."""
    container: str = ""
    """Id of the container this process runs in; empty: not known, or none."""
    host: str = ""
    """Name of the Swarm service that this very process, the provider's, is in a task of: the
    proxies' own or a controller's; empty: none."""


# --- services and tasks ----------------------------------------------------------------------


def name_of(service: Json) -> str:
    """The name of a service; its id if it has none."""
    spec = service.get("Spec")
    return str((isinstance(spec, dict) and spec.get("Name")) or service.get("ID"))


def labels_of(service: Json) -> Mapping[str, str]:
    """The labels of a service; none if it is too odd to have any."""
    spec = service.get("Spec")
    marks = spec.get("Labels") if isinstance(spec, dict) else None
    return marks if isinstance(marks, dict) else {}


def connected_networks(services: Iterable[Json], proxy: str) -> frozenset[str]:
    """Ids of the networks that the proxies of a service have connectors for."""
    marks = map(labels_of, services)
    ours = (each for each in marks if proxy and each.get(CONNECTOR_PROXY) == proxy)
    return frozenset(each.get(CONNECTOR_NETWORK, "") for each in ours)


def stack_of(service: Json) -> str:
    """The stack that a service was deployed with; empty: none."""
    return str((service["Spec"].get("Labels") or {}).get("com.docker.stack.namespace", ""))


def created_at(service: Json) -> str:
    """When a service was created: later is greater. Docker writes as many decimals as it needs."""
    whole, _, decimals = str(service.get("CreatedAt", "")).removesuffix("Z").partition(".")
    return f"{whole}.{decimals:0<9}"


def published_ports(service: Json) -> Sequence[Json]:
    """The TCP ports a service publishes, by the mesh or on its nodes."""
    ports = (service["Spec"].get("EndpointSpec") or {}).get("Ports") or ()
    return [port for port in ports if port.get("Protocol", "tcp") == "tcp"]


def is_host_published(port: int | None, ports: Iterable[Json]) -> bool:
    return any(p.get("PublishMode") == "host" and p["TargetPort"] == port for p in ports)


def has_state(task: Json, state: str) -> bool:
    """True if the task is in that state."""
    return bool((task.get("Status") or {}).get("State") == state)


def is_running(task: Json) -> bool:
    return has_state(task, "running") and bool(task["DesiredState"] == "running")


_WANTED = ("running", "ready", "accepted")
"""Desired states of tasks that are to run."""
_ENDED = frozenset(("complete", "shutdown", "failed", "rejected", "remove", "orphaned"))


def is_converging(service: Json, tasks: Sequence[Json]) -> bool:
    """True while the service is being updated, or one of its tasks is not in its desired state."""
    return is_updating(service) or any(map(_is_moving, tasks))


def _is_moving(task: Json) -> bool:
    state = task["Status"]["State"]
    if task["DesiredState"] in _WANTED:
        return bool(state != "running")
    return state not in _ENDED


def is_updating(service: Json) -> bool:
    """True while its tasks are being replaced, forwards or back."""
    state = (service.get("UpdateStatus") or {}).get("State")
    return state in ("updating", "rollback_started")


def is_outdated(service: Json, task: Json) -> bool:
    """True if the task is of another version than the service, and about to be replaced."""
    return is_updating(service) and task.get("Spec") != service["Spec"]["TaskTemplate"]


def slot_of(task: Json) -> str:
    """The place that it takes in its service: a replica has a number, and a task of a global
    service its node."""
    return str(task.get("Slot") or task.get("NodeID", ""))


def is_coming(task: Json) -> bool:
    """True if it does not run yet, but is meant to."""
    state = task["Status"]["State"]
    return task["DesiredState"] in _WANTED and state != "running" and state not in _ENDED


def hostname_of(node: Json) -> str:
    """What a node is called; empty: it is not known."""
    return str((node.get("Description") or {}).get("Hostname", ""))


def address_on(task: Json, network: str) -> str:
    for attachment in task.get("NetworksAttachments") or ():
        if attachment["Network"]["ID"] == network:
            return _without_prefix((attachment.get("Addresses") or [""])[0])
    return ""


def virtual_ip(service: Json, network: str) -> str:
    for address in (service.get("Endpoint") or {}).get("VirtualIPs") or ():
        if address["NetworkID"] == network:
            return _without_prefix(address.get("Addr", ""))
    return ""


def node_address(node: Json) -> str:
    """A manager may know itself only as 0.0.0.0; then its manager address is better."""
    address = str((node.get("Status") or {}).get("Addr", ""))
    if address in ("", "0.0.0.0", "::"):  # noqa: S104
        address = str((node.get("ManagerStatus") or {}).get("Addr", "")).rpartition(":")[0]
    return address.strip("[]")


def port_on_node(task: Json, port: int) -> int:
    """Where the task's ``port`` is published on its node; 0: nowhere (yet)."""
    for each in (task["Status"].get("PortStatus") or {}).get("Ports") or ():
        is_it = each.get("TargetPort") == port and each.get("Protocol", "tcp") == "tcp"
        if is_it and each.get("PublishMode") == "host":
            return int(each.get("PublishedPort", 0))
    return 0


def _without_prefix(address: str) -> str:
    return address.partition("/")[0]
