"""Two hundred sessions that ask steadily while the service under them changes.

No request may fail except while no task is left, and a session moves only when its task has gone.
Each test prints its table of moves: session, from, to, why.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.swarm.engine import Node, Swarm, eventually
from tests.swarm.load import Load
from tests.swarm.stage import (
    HEALTH,
    Instances,
    create_demo,
    deploy,
    moves_table,
    published,
    service_settled,
    told,
    unjustified,
)

LABELS = ("hosts=demo.local", "sticky_session_cookie=session", "port=8080")


@pytest.fixture(scope="module")
def demo(shared_swarm: Swarm) -> Swarm:
    """A Swarm with the stack and the demo service, five replicas with a health check."""
    deploy(shared_swarm)
    shared_swarm.manager.docker("network", "create", "-d", "overlay", "demo")
    _create(shared_swarm.manager)
    published(shared_swarm)
    return shared_swarm


def _create(node: Node) -> None:
    start_first = ("--update-order=start-first", "--update-parallelism=2")
    create_demo(node, *LABELS, options=[*HEALTH, *start_first])


def _settles(node: Node, replicas: int) -> None:
    eventually(
        f"the service settles at {replicas}", lambda: service_settled(node, "demo", replicas)
    )


def _under_load(swarm: Swarm, title: str, change: Callable[[Node, Instances], None]) -> Load:
    """Make the change under load, print the table, and require that every move had a reason."""
    node = swarm.manager
    instances = Instances(swarm)
    with Load(swarm, [node.address]) as load:
        change(node, instances)
        instances.note()
        _see_twice(load)
    told.append(moves_table(title, load.report, instances))
    assert unjustified(load.report, instances) == []
    return load


def _see_twice(load: Load) -> None:
    """Let every session ask at least twice more, so that what the change did shows."""
    until = load.beats + 2
    eventually("every session asked twice more", lambda: load.beats >= until, within=60)


def test_scaling_up_and_down(demo: Swarm) -> None:
    def change(node: Node, instances: Instances) -> None:
        for replicas in (10, 3):
            node.docker("service", "scale", f"demo={replicas}")
            instances.note()
            _settles(node, replicas)

    load = _under_load(demo, "scale 5 -> 10 -> 3", change)
    assert load.report.failures == []
    assert len(load.report.instances) <= 3


def test_a_rolling_update(demo: Swarm) -> None:
    before = demo.manager.running("demo")

    def change(node: Node, instances: Instances) -> None:
        node.docker("service", "update", "--force", "demo")
        instances.note()
        _settles(node, len(before))

    load = _under_load(demo, "service update --force, start first", change)
    assert load.report.failures == []
    assert not before.keys() & demo.manager.running("demo").keys()


def test_a_killed_task(demo: Swarm) -> None:
    before = demo.manager.running("demo")
    victim = next(iter(before))

    def change(node: Node, instances: Instances) -> None:
        node.docker("kill", victim)
        eventually("the kill is known", lambda: _is_gone(victim, instances))
        _settles(node, len(before))

    load = _under_load(demo, "docker kill of a task", change)
    assert load.report.failures == []
    assert {move.came_from for move in load.report.moves} <= {victim}
    assert load.report.moves


def _is_gone(instance: str, instances: Instances) -> bool:
    instances.note()
    return instance in instances.gone


def test_removing_and_creating_again(demo: Swarm) -> None:
    gap: list[float] = []

    def change(node: Node, instances: Instances) -> None:
        gap.append(time.time())
        node.docker("service", "rm", "demo")
        _create(node)
        _settles(node, 5)
        published(demo)
        gap.append(time.time())

    load = _under_load(demo, "service rm, service create", change)
    outside = [failure for failure in load.report.failures if not gap[0] <= failure.at <= gap[1]]
    assert outside == []
    # While there is no task, the proxy itself says so, at once.
    assert {failure.status for failure in load.report.failures} <= {404, 503}
    assert load.report.instances.keys() <= demo.manager.running("demo").keys()
