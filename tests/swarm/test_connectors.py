"""Publishing disturbs nobody: networks come and go without a proxy being replaced, on three
managers under steady load."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.swarm import images
from tests.swarm.engine import CommandError, Node, Swarm, at_once, eventually
from tests.swarm.load import Load
from tests.swarm.stage import (
    Reply,
    ask,
    create_demo,
    deploy,
    in_rotation,
    published,
    ready,
    service_settled,
    told,
)

TIMES = 5
SOON = 10.0
"""Seconds in which a new network is to be of use, and one that nobody needs is to be free: far more
than it takes (which is told), for a machine that is busy."""
CONNECTOR = "label=com.docker.swarm.service.name=stickyproxy-net-{}"


@pytest.fixture(scope="module")
def managers(archive: Path) -> Iterator[Swarm]:
    """Three managers with the stack, and application A on a plain network."""
    with Swarm(nodes=3, managers=3) as swarm:
        at_once(lambda node: images.load(node, archive), swarm.nodes)
        deploy(swarm)
        _publish(swarm, "a", replicas=6)
        eventually("A is in rotation", lambda: in_rotation(swarm, _all(swarm), 6, host="a.local"))
        yield swarm


def _all(swarm: Swarm) -> list[str]:
    return [node.address for node in swarm.nodes]


def _publish(swarm: Swarm, name: str, replicas: int = 3) -> None:
    """A service of that name on a plain network of that name and on the host NAME.local."""
    node = swarm.manager
    # The name of a network that has been removed is free again a moment later.
    eventually(f"network {name}", lambda: node.docker("network", "create", "-d", "overlay", name))
    labels = (f"hosts={name}.local", "sticky_session_cookie=session", "port=8080")
    create_demo(node, *labels, name=name, replicas=replicas, network=name)
    eventually(f"{name} listens", lambda: ready(swarm, name, replicas))


def _proxies(swarm: Swarm) -> set[str]:
    """The instances that proxies have had."""
    return {*swarm.manager.tasks("stickyproxy_proxy")}


def _first_answer(swarm: Swarm, address: str) -> str:
    """Ask until B answers; returns all statuses. Whoever asks meanwhile is told that it is not
    there yet (502: its task runs, but does not listen), and never refused."""
    statuses = ""

    def answers() -> bool:
        nonlocal statuses
        statuses += f"{ask(swarm, address, host='b.local').status} "
        return statuses.endswith("200 ")

    deadline = time.monotonic() + 60
    while not answers():  # not eventually(): that forgives a refusal
        assert time.monotonic() < deadline, statuses
        time.sleep(0.1)
    assert {*statuses.split()} <= {"200", "404", "502", "503"}
    return statuses


def _first_running(node: Node, service: str) -> float:
    """When the first of its tasks has begun to run, in seconds since the epoch."""
    states = [task["Status"] for task in node.tasks(service).values()]
    return min(_seconds(each["Timestamp"]) for each in states if each["State"] == "running")


def _name_is_free(swarm: Swarm, network: str) -> bool:
    return all(
        network not in node.docker("network", "ls", "--format", "{{.Name}}").split()
        for node in swarm.nodes
    )


def _seconds(stamp: str) -> float:
    """Since the epoch, of an engine's time."""
    return datetime.fromisoformat(stamp[:26].rstrip("Z") + "+00:00").timestamp()


def test_publishing_and_removing_disturbs_nobody(managers: Swarm) -> None:
    node = managers.manager
    proxies = _proxies(managers)
    with Load(managers, _all(managers), host="a.local") as load:
        load.watch(rounds=2)
        for _ in range(TIMES):
            node.docker("network", "create", "-d", "overlay", "b")
            labels = ("hosts=b.local", "port=8080")
            create_demo(node, *labels, name="b", replicas=3, network="b")
            answers = {_first_answer(managers, each.address) for each in managers.nodes}
            waited = time.time() - _first_running(node, "b")
            node.docker("service", "rm", "b")
            removed = time.monotonic()
            eventually("network rm", lambda: _remove_network(managers, "b"), within=SOON)
            lasted = time.monotonic() - removed
            told.append(
                f"B on a plain network: on all nodes {waited:.2f} s after its first running task "
                f"(meanwhile {sorted({*''.join(answers).split()} - {'200'})}); "
                f"network rm {lasted:.2f} s after service rm"
            )
            assert waited < SOON
            eventually("no connector", lambda: not _connectors(managers, "b"))
            eventually("the name is free", lambda: _name_is_free(managers, "b"), within=90)
            told.append(f"its name is free on all nodes {time.monotonic() - removed:.2f} s after")
        load.watch(rounds=2)
    told.append(f"A meanwhile: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []
    assert _proxies(managers) == proxies


def _remove_network(swarm: Swarm, name: str) -> bool:
    swarm.manager.docker("network", "rm", name)
    return True


def _connectors(swarm: Swarm, network: str) -> list[str]:
    """The services that are connectors of a network."""
    names = [each["Spec"]["Name"] for each in swarm.manager.api("/services")]
    return [name for name in names if name == f"stickyproxy-net-{network}"]


def test_a_connector_is_updated_and_nobody_notices(managers: Swarm) -> None:
    node = managers.manager
    with Load(managers, _all(managers), host="a.local") as load:
        load.watch(rounds=2)
        node.docker("service", "update", "--force", "--detach", "stickyproxy-net-a")
        eventually("updated", lambda: service_settled(node, "stickyproxy-net-a", 3), within=120)
        load.watch(rounds=3)
    told.append(f"connectors updated: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []


def test_a_connector_that_is_killed_comes_back(managers: Swarm) -> None:
    """GETs that went through it are sent again; who asks meanwhile waits for the next one."""
    node = managers.manager
    with Load(managers, [node.address], host="a.local") as load:
        load.watch(rounds=2)
        found = node.docker("ps", "-q", "--filter", CONNECTOR.format("a")).split()
        node.docker("kill", *found)
        load.watch(rounds=2)
        eventually("it is there", lambda: service_settled(node, "stickyproxy-net-a", 3))
        load.watch(rounds=2)
    told.append(f"connector killed: {load.report}")
    assert load.report.moves == []
    # None, unless this machine takes longer than the proxy waits to start the next one.
    said = {(failure.status, failure.reason.rstrip()) for failure in load.report.failures}
    assert said <= {(503, "service a: there is no way into its network a at present")}


def test_one_that_is_frozen_costs_only_its_network(managers: Swarm) -> None:
    """Who needs a new connection there is told so: 503 with Retry-After and the network's name."""
    node = managers.manager
    _publish(managers, "c")
    published(managers, *_all(managers), host="c.local")
    [frozen] = node.docker("ps", "-q", "--filter", CONNECTOR.format("c")).split()
    with Load(managers, _all(managers), host="a.local") as load:
        node.docker("pause", frozen)
        node.docker("service", "scale", "--detach", "c=6")  # nobody is connected to the new ones
        refused = eventually("503", lambda: _unavailable(managers, node.address, "c"))
        assert refused is not None
        load.watch(rounds=2)
        node.docker("unpause", frozen)
    assert "network c" in refused.body
    assert refused["retry-after"] == "1"
    assert load.report.failures == []
    assert load.report.moves == []
    eventually("it is as before", lambda: in_rotation(managers, _all(managers), 6, host="c.local"))
    node.docker("service", "rm", "c")
    eventually("network rm", lambda: _remove_network(managers, "c"))


def _unavailable(swarm: Swarm, address: str, name: str) -> Reply | None:
    """A 503 for NAME.local."""
    reply = ask(swarm, address, host=f"{name}.local")
    return reply if reply.status == 503 else None


def test_they_go_with_the_stack(managers: Swarm) -> None:
    node = managers.manager
    assert _connectors(managers, "a")
    node.docker("stack", "rm", "stickyproxy")
    eventually(
        "all proxies are gone",
        lambda: (
            not any(
                each.docker(
                    "ps", "-q", "--filter", "label=com.docker.swarm.service.name=stickyproxy_proxy"
                ).strip()
                for each in managers.nodes
            )
        ),
        within=120,
    )
    assert not _connectors(managers, "a")
    node.docker("service", "rm", "a")

    def removed() -> bool:
        try:
            return _remove_network(managers, "a")
        except CommandError:
            return False

    eventually("network rm", removed)
