"""The least that the Engine API says of services, tasks, networks and nodes, for the pure parts.
What an engine really says is shown by tests/swarm."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from stickyproxy.providers.engine.labels import PREFIX
from stickyproxy.providers.swarm.state import Json, SwarmState

REALM = "swarm-1"


def labels(**values: str) -> dict[str, str]:
    """Labels of ours; on demo.local, port 80, if nothing else is said."""
    return {
        PREFIX + key: text for key, text in ({"hosts": "demo.local", "port": "80"} | values).items()
    }


def service(
    name: str = "shop",
    marks: Mapping[str, str] | None = None,
    networks: Sequence[str] = ("net-a",),
    ports: Sequence[Json] = (),
    **spec: Any,
) -> Json:
    """A service whose id is id-NAME."""
    return {
        "ID": f"id-{name}",
        "Spec": {
            "Name": name,
            "Labels": labels() if marks is None else dict(marks),
            "TaskTemplate": {
                "ContainerSpec": {},
                "Networks": [{"Target": network} for network in networks],
            },
            "EndpointSpec": {"Mode": "vip", "Ports": list(ports)},
        }
        | spec,
        "Endpoint": {
            "VirtualIPs": [{"NetworkID": network, "Addr": "10.0.0.2/24"} for network in networks]
        },
    }


def port(target: int, published: int, mode: str = "host") -> Json:
    """A published port."""
    return {
        "Protocol": "tcp",
        "TargetPort": target,
        "PublishedPort": published,
        "PublishMode": mode,
    }


def task(
    name: str = "t1",
    of: str = "shop",
    addresses: Mapping[str, str] | None = None,
    *,
    state: str = "running",
    desired: str = "running",
    node: str = "node-1",
    ports: Sequence[Json] = (),
) -> Json:
    """A task of a service; by default at 10.0.1.1 on net-a."""
    on = {"net-a": "10.0.1.1"} if addresses is None else addresses
    return {
        "ID": name,
        "ServiceID": f"id-{of}",
        "NodeID": node,
        "DesiredState": desired,
        "Status": {"State": state, "PortStatus": {"Ports": list(ports)}},
        "NetworksAttachments": [
            {"Network": {"ID": network}, "Addresses": [f"{address}/24"]}
            for network, address in on.items()
        ],
    }


def network(name: str, *, attachable: bool = False, **fields: Any) -> Json:
    """An overlay called NAME whose id is net-NAME."""
    return {
        "Id": f"net-{name}",
        "Name": name,
        "Scope": "swarm",
        "Driver": "overlay",
        "Ingress": False,
        "Attachable": attachable,
    } | fields


def node(name: str = "node-1", address: str = "192.0.2.1", state: str = "ready") -> Json:
    """A node."""
    return {"ID": name, "Status": {"State": state, "Addr": address}}


def secret(name: str, id: str = "") -> Json:  # noqa: A002
    """A secret whose id is id-NAME, if no other is given."""
    return {"ID": id or f"id-{name}", "Spec": {"Name": name}}


def config(name: str, data: str) -> Json:
    """A config whose id is id-NAME, with what is in it."""
    encoded = base64.b64encode(data.encode()).decode()
    return {"ID": f"id-{name}", "Spec": {"Name": name, "Data": encoded}}


def listing(
    services: Sequence[Json] = (),
    tasks: Sequence[Json] = (),
    networks: Sequence[Json] | None = None,
    nodes: Sequence[Json] | None = None,
    *,
    secrets: Sequence[Json] = (),
    configs: Sequence[Json] = (),
) -> SwarmState:
    """A whole listing; by default with the networks a and b and one node."""
    return SwarmState(
        REALM,
        services,
        tasks,
        [network("a"), network("b")] if networks is None else networks,
        [node()] if nodes is None else nodes,
        secrets,
        configs,
    )
