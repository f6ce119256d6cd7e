"""``make swarm-cost``: what it costs a proxy to watch a large Swarm in which nothing happens.

A Swarm of 200 services of 10 tasks each is too large to run on one machine. So the tasks wait for
a node with a label that none has: the engine lists them as it lists others, addresses included,
and the proxy reads and compares nearly as much text (1.2 kB a task, when it runs 1.3).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from stickyproxy.providers.swarm.provider import FAST_POLL_LIMIT
from tests.swarm import images, stage
from tests.swarm.engine import Node, Swarm, eventually, why_not

SERVICES = 200
REPLICAS = 10
MEASURED = 30.0
"""Seconds."""


def main() -> int:
    """Exit status: 0 if it could be measured."""
    if reason := why_not():
        print(f"This cannot be measured here: {reason}.", file=sys.stderr)
        return 1
    with Swarm() as swarm:
        images.load(swarm.manager, images.prepare(swarm.manager))
        stage.deploy(swarm)
        _measure(swarm.manager)
    return 0


def _measure(node: Node) -> None:
    print(f"over {MEASURED:g} s, in percent of a core:")
    settled = FAST_POLL_LIMIT + 5
    _print("no service", *_cost(node, settled))
    began = time.monotonic()
    _create(node)
    eventually("the proxy has read them", lambda: _published(node) == SERVICES, within=300)
    spent = time.monotonic() - began
    print(f"{SERVICES} services of {REPLICAS} tasks, created and read in {spent:.0f} s")
    _print("all of them waiting for a node", *_cost(node, settled))
    node.docker("stack", "rm", "stickyproxy")
    eventually("the proxy is gone", lambda: not node.docker("ps", "-q").strip())
    [engine] = _shares([lambda: node.cpu_seconds(node.engine_pid)])
    print(f"  the engine alone, without a proxy: {engine:.2f} %")


def _print(title: str, proxy: float, engine: float) -> None:
    print(f"  {title}: proxy {proxy:.2f} %, engine {engine:.2f} %")


def _create(node: Node) -> None:
    node.docker(
        *("network", "create", "-d", "overlay", "--attachable", "--subnet", "10.64.0.0/16", "many")
    )
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: _create_one(node, f"service{number}"), range(SERVICES)))
    expected = SERVICES * REPLICAS
    eventually(
        "the tasks are there",
        lambda: len(node.api("/tasks", **{"desired-state": "running"})) > expected,
        within=300,
    )


def _create_one(node: Node, name: str) -> None:
    labels = {"hosts": f"{name}.local", "port": "8080", "sticky_session_cookie": "session"}
    node.post(
        "/services/create",
        {
            "Name": name,
            "Labels": {f"com.docker.lb.{key}": value for key, value in labels.items()},
            "Mode": {"Replicated": {"Replicas": REPLICAS}},
            "TaskTemplate": {
                "ContainerSpec": {"Image": images.DEMO_IMAGE},
                "Placement": {"Constraints": ["node.labels.there==nowhere"]},
                "Networks": [{"Target": "many"}],
            },
        },
    )


def _proxy(node: Node) -> str:
    [container] = node.running("stickyproxy_proxy")
    return container


def _published(node: Node) -> int:
    rows = json.loads(node.docker("exec", _proxy(node), "stickyproxy", "services", "--json"))
    return len([row for row in rows if row["state"] == "no endpoint"])


def _cost(node: Node, settled: float) -> tuple[float, float]:
    """What the proxy takes, all of its processes together, and the engine. Health checks, which
    are processes of their own, are not counted. Until the proxy has seen nothing new for a while
    it looks more often: hence ``settled``."""
    time.sleep(settled)
    listed = node.api(f"/containers/{_proxy(node)}/top?ps_args=-eo%20pid,args")["Processes"]
    pids = [int(pid) for pid, command in listed if "healthcheck" not in command]
    proxy, engine = _shares(
        [
            lambda: sum(node.cpu_seconds(pid) for pid in pids),
            lambda: node.cpu_seconds(node.engine_pid),
        ]
    )
    return proxy, engine


def _shares(of: list[Callable[[], float]]) -> list[float]:
    """The percentage of a core that each of these took for a while."""
    before = [ask() for ask in of]
    began = time.monotonic()
    time.sleep(MEASURED)
    spent = time.monotonic() - began
    return [100 * (ask() - start) / spent for ask, start in zip(of, before, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
