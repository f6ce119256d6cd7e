"""Two hundred sessions that ask steadily while the service under them changes.

No request may fail except while no task is left, and a session moves only when its task has gone.
Each test prints its table of moves: session, from, to, why.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.swarm.engine import Node, Swarm, eventually
from tests.swarm.load import Load, Report
from tests.swarm.stage import (
    HEALTH,
    Instances,
    ask,
    create_demo,
    in_rotation,
    moves_table,
    published,
    ready,
    service_settled,
    told,
    unjustified,
)

LABELS = ("hosts=demo.local", "sticky_session_cookie=session", "port=8080")


@pytest.fixture(scope="module")
def demo(deployed: Swarm) -> Swarm:
    """A Swarm with the stack and the demo service, five replicas with a health check."""
    _create(deployed.manager)
    published(deployed)
    return deployed


def _create(node: Node) -> None:
    start_first = ("--update-order=start-first", "--update-parallelism=2")
    create_demo(node, *LABELS, options=[*HEALTH, *start_first])


def _settles(node: Node, replicas: int) -> None:
    eventually(
        f"the service settles at {replicas}", lambda: service_settled(node, "demo", replicas)
    )


def _under_load(
    swarm: Swarm, title: str, replicas: int, change: Callable[[Load, Instances], None]
) -> Report:
    """Make the change under load, print the table, and require that every move had a reason.
    ``replicas``: how many there are at the beginning. Each of them has sessions when it begins."""
    node = swarm.manager
    eventually("every replica listens", lambda: ready(swarm, "demo", replicas))
    eventually("every replica is in rotation", lambda: in_rotation(swarm, [node.address], replicas))
    instances = Instances(swarm)
    with Load(swarm, [node.address]) as load:
        change(load, instances)
        instances.note()
        load.watch(rounds=2)
    told.append(moves_table(title, load.report, instances))
    assert unjustified(load.report, instances) == []
    return load.report


@pytest.mark.parametrize("whom", ["a proxy", "the engine"])
def test_what_explain_says_of_a_session(demo: Swarm, whom: str) -> None:
    node = demo.manager
    eventually("every replica listens", lambda: ready(demo, "demo", 5))
    eventually("every replica is in rotation", lambda: in_rotation(demo, [node.address], 5))
    [proxy] = node.running("stickyproxy_proxy")
    for _ in range(5):
        first = ask(demo, node.address)
        set_ = [value for name, value in first.headers if name == "set-cookie"]
        cookie = "; ".join(value.partition(";")[0] for value in set_)
        asked = ["explain", "demo.local/ping", "--cookie", cookie, "--json"]
        asked += ["--config", "/etc/stickyproxy/config.toml"]
        asked += ["--engine"] if whom == "the engine" else []
        said = json.loads(node.docker("exec", proxy, "stickyproxy", *asked))
        again = ask(demo, node.address, "--cookie", cookie)
        assert said["affinity"] == "pinned"
        assert said["endpoint"]["address"] == again.address == first.address


def test_scaling_up_and_down(demo: Swarm) -> None:
    node = demo.manager

    def change(load: Load, instances: Instances) -> None:
        for replicas in (10, 3):
            node.docker("service", "scale", "--detach", f"demo={replicas}")
            _settles(node, replicas)
            instances.note()
            load.watch(rounds=2)

    report = _under_load(demo, "scale 5 -> 10 -> 3", 5, change)
    assert report.failures == []
    assert len(report.instances) <= 3


def test_a_rolling_update(demo: Swarm) -> None:
    before = demo.manager.running("demo")

    def change(_load: Load, _instances: Instances) -> None:
        demo.manager.docker("service", "update", "--force", "--detach", "demo")
        eventually(
            "other tasks run than before",
            lambda: (
                service_settled(demo.manager, "demo", len(before))
                and not before.keys() & demo.manager.running("demo").keys()
            ),
        )

    report = _under_load(demo, "service update --force, start first", len(before), change)
    assert report.failures == []
    assert {move.came_from for move in report.moves} >= before.keys()
    assert not before.keys() & report.instances.keys()


def test_a_killed_task(demo: Swarm) -> None:
    before = demo.manager.running("demo")
    victim = next(iter(before))

    def change(_load: Load, instances: Instances) -> None:
        demo.manager.docker("kill", victim)
        eventually("the kill is known", lambda: _is_gone(victim, instances))
        _settles(demo.manager, len(before))

    report = _under_load(demo, "docker kill of a task", len(before), change)
    assert report.failures == []
    assert {move.came_from for move in report.moves} == {victim}


def _is_gone(instance: str, instances: Instances) -> bool:
    instances.note()
    return instance in instances.gone


def test_removing_and_creating_again(demo: Swarm) -> None:
    node = demo.manager
    before = node.running("demo")
    back: list[float] = []

    def change(load: Load, _instances: Instances) -> None:
        node.docker("service", "rm", "demo")
        _create(node)
        _settles(node, 5)
        # Not the first good answer: the proxy has several processes, and sessions on all of them.
        good = eventually(
            "nobody is refused any more",
            lambda: [each for each in load.watch() if each.failed == 0],
        )
        back.append(good[0].began)

    report = _under_load(demo, "service rm, service create", len(before), change)
    assert [failure for failure in report.failures if failure.at >= back[0]] == []
    # While there is no task, the proxy itself says so, at once. Nothing else may go wrong.
    assert {(failure.status, failure.reason.split(" ")[0]) for failure in report.failures} <= {
        (404, "no"),
        (503, "service"),
    }
    assert {move.came_from for move in report.moves} == before.keys()
    assert report.instances.keys() <= node.running("demo").keys()
