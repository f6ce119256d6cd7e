"""What is published and what is not: wrong labels, and several services on one host."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from tests.swarm.engine import Swarm, eventually
from tests.swarm.load import Load
from tests.swarm.stage import ask, create_demo, deploy, published, service_settled, told


@pytest.fixture(scope="module")
def deployed(shared_swarm: Swarm) -> Swarm:
    """A Swarm with the stack, and a network for services."""
    deploy(shared_swarm)
    shared_swarm.manager.docker("network", "create", "-d", "overlay", "demo")
    return shared_swarm


def _services(swarm: Swarm, *options: str) -> str:
    """What ``stickyproxy services`` prints in the proxy's container."""
    node = swarm.manager
    [container] = node.docker(
        "ps", "-q", "--filter", "label=com.docker.swarm.service.name=stickyproxy_proxy"
    ).split()
    return node.docker("exec", container, "stickyproxy", "services", *options)


def test_a_bad_label_stops_only_its_own_service(deployed: Swarm) -> None:
    node = deployed.manager
    create_demo(node, "hosts=good.local", "port=8080", name="good", replicas=1)
    create_demo(node, "hosts=bad.local", "port=http", name="bad", replicas=1)
    published(deployed, host="good.local")
    eventually("both tasks run", lambda: service_settled(node, "bad", 1))

    assert ask(deployed, node.address, host="bad.local").status == 404
    shown = _services(deployed)
    print(shown)
    assert "com.docker.lb.port" in shown
    rows: list[dict[str, Any]] = json.loads(_services(deployed, "--json"))
    assert {row["service"] for row in rows} >= {"good", "bad"}
    logged = node.shell("docker service logs stickyproxy_proxy 2>&1 | grep com.docker.lb.port")
    print(logged)
    assert re.search('service bad: com.docker.lb.port: .*"http" is not a port', logged)

    node.docker("service", "update", "--label-add=com.docker.lb.port=8080", "--detach", "bad")
    published(deployed, host="bad.local", within=10)
    assert ask(deployed, node.address, host="good.local").status == 200


def test_a_canary_gets_its_share_of_sessions_and_keeps_them(deployed: Swarm) -> None:
    node = deployed.manager
    labels = ("hosts=demo.local", "sticky_session_cookie=session", "port=8080")
    create_demo(node, *labels, name="stable", replicas=4, options=["--env=VERSION=stable"])
    create_demo(node, *labels, name="canary", replicas=1, options=["--env=VERSION=canary"])
    eventually("the stable ones run", lambda: service_settled(node, "stable", 4))
    eventually("the canary runs", lambda: service_settled(node, "canary", 1))
    eventually(
        "all five are in rotation",
        lambda: len({ask(deployed, node.address).address for _ in range(5)}) == 5,
    )
    with Load(deployed, [node.address], sessions=200) as load:
        eventually("every session has asked ten times", lambda: load.beats >= 10)
    told.append(f"canary: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []
    cohorts = Counter(version for [version] in load.report.versions.values())
    told.append(f"sessions by version: {dict(cohorts)}")
    assert cohorts == {"stable": 160, "canary": 40}
