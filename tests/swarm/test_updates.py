"""Two hundred sessions while every replica of their service is replaced: each of them moves once,
to the successor of its replica, and the replicas have as many sessions as before.

What counts as a move is a new pin. A session whose slot is empty for longer than ``sticky_wait`` is
a guest elsewhere meanwhile, which is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.swarm.engine import Node, Swarm, eventually
from tests.swarm.load import Load, Report
from tests.swarm.stage import (
    HEALTH,
    create_demo,
    in_rotation,
    published,
    ready,
    service_settled,
    told,
)

REPLICAS = 5
LABELS = ("hosts=demo.local", "sticky_session_cookie=session", "port=8080")


@dataclass(frozen=True)
class Moves:
    """What became of the sessions."""

    report: Report
    repinned: Counter[int]
    """Session -> how often."""
    visits: int
    """How often a session was a guest somewhere."""

    @classmethod
    def of(cls, report: Report) -> Moves:
        return cls(report, report.repinned, sum(not move.repinned for move in report.moves))

    @property
    def unevenness(self) -> tuple[float, float]:
        """The most sessions that a replica has, by the mean: at first, and at the end."""
        before, after = self.report.first_instances, self.report.instances
        return _unevenness(before), _unevenness(after)

    def __str__(self) -> str:
        sessions = sum(self.report.instances.values())
        before, after = self.unevenness
        spread = sorted(self.report.instances.values(), reverse=True)
        return (
            f"{self.repinned.total() / sessions:.2f} moves per session, at most "
            f"{max(self.repinned.values(), default=0)}; {self.visits} visits; sessions {spread}, "
            f"max/mean {before:.2f} -> {after:.2f}; slowest {self.report.longest:.1f} s; "
            f"{self.report}"
        )


def _unevenness(sessions: dict[str, int]) -> float:
    return max(sessions.values()) * len(sessions) / sum(sessions.values())


@pytest.fixture
def demo(deployed: Swarm) -> Swarm:
    """The stack, without the service that the test before created."""
    node = deployed.manager
    if "demo" in node.docker("service", "ls", "--format", "{{.Name}}").split():
        node.docker("service", "rm", "demo")
    eventually("its tasks are gone", lambda: not _containers(node))
    return deployed


def _containers(node: Node) -> str:
    return node.docker("ps", "-q", "--filter", "label=com.docker.swarm.service.name=demo").strip()


def create(
    swarm: Swarm, *options: str, labels: tuple[str, ...] = (), replicas: int = REPLICAS
) -> None:
    create_demo(swarm.manager, *LABELS, *labels, options=options, replicas=replicas)
    published(swarm)
    eventually("every replica listens", lambda: ready(swarm, "demo", replicas))
    address = swarm.manager.address
    eventually("every replica is in rotation", lambda: in_rotation(swarm, [address], replicas))


def under_load(swarm: Swarm, title: str, change: Callable[[Load], None]) -> Moves:
    with Load(swarm, [swarm.manager.address]) as load:
        change(load)
        load.watch(rounds=3)
    moves = Moves.of(load.report)
    told.append(f"{title}: {moves}")
    return moves


def replaced(swarm: Swarm, before: set[str], replicas: int = REPLICAS) -> None:
    """Wait until all of these have been."""

    def is_done() -> bool:
        now = swarm.manager.running("demo").keys()
        return not now & before and service_settled(swarm.manager, "demo", replicas)

    eventually("every task is replaced", is_done, within=180)


def update(swarm: Swarm, *options: str) -> None:
    swarm.manager.docker("service", "update", "--force", "--detach", "--quiet", *options, "demo")


START_FIRST, STOP_FIRST = "--update-order=start-first", "--update-order=stop-first"


@pytest.mark.parametrize(
    ("title", "options", "labels"),
    [
        ("start first", (*HEALTH, START_FIRST), ()),
        ("stop first", (STOP_FIRST,), ()),
        ("stop first, sticky_wait 30s", (STOP_FIRST,), ("sticky_wait=30s",)),
        ("stop first, sticky_wait 0s", (STOP_FIRST,), ("sticky_wait=0s",)),
        ("start first, two at a time", (*HEALTH, START_FIRST, "--update-parallelism=2"), ()),
        ("stop first, two at a time", (STOP_FIRST, "--update-parallelism=2"), ()),
        ("stop first, 5 s apart", (STOP_FIRST, "--update-delay=5s"), ()),
    ],
)
def test_an_update(
    demo: Swarm, title: str, options: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    create(demo, *options, labels=labels)
    before = set(demo.manager.running("demo"))

    def change(_load: Load) -> None:
        update(demo)
        replaced(demo, before)

    moves = under_load(demo, title, change)
    assert moves.report.failures == []
    assert set(moves.repinned.values()) == {1}
    assert len(moves.repinned) == sum(moves.report.instances.values())
    first, last = moves.unevenness
    assert last <= first * 1.15
    assert not moves.visits or START_FIRST not in options


def test_an_update_of_the_only_replica(demo: Swarm) -> None:
    """Clients that are there already wait for the next one."""
    create(demo, STOP_FIRST, labels=("sticky_wait=30s",), replicas=1)
    before = set(demo.manager.running("demo"))

    def change(_load: Load) -> None:
        update(demo)
        replaced(demo, before, replicas=1)

    moves = under_load(demo, "one replica, stop first, sticky_wait 30s", change)
    assert moves.report.failures == []
    assert set(moves.repinned.values()) == {1}


@pytest.mark.parametrize("order", ["start-first", "stop-first"])
def test_a_rollback_half_way(demo: Swarm, order: str) -> None:
    """Sessions of replicas that were replaced, and replaced back, move twice: once for each."""
    health = HEALTH if order == "start-first" else ()
    orders = (f"--update-order={order}", f"--rollback-order={order}", "--update-delay=5s")
    create(demo, *health, *orders, "--rollback-delay=1s", labels=("sticky_wait=30s",))
    before = set(demo.manager.running("demo"))

    def change(_load: Load) -> None:
        update(demo, "--env-add=VERSION=2")
        eventually("two are replaced", lambda: len(before - set(demo.manager.running("demo"))) >= 2)
        demo.manager.docker("service", "rollback", "--detach", "--quiet", "demo")
        eventually("it is settled", lambda: service_settled(demo.manager, "demo", REPLICAS))

    moves = under_load(demo, f"rollback half way, {order}", change)
    stayed = before & set(demo.manager.running("demo"))
    assert moves.report.failures == []
    assert max(moves.repinned.values()) <= 2
    kept = {move.session for move in moves.report.moves if move.came_from in stayed}
    assert kept == set()
    first, last = moves.unevenness
    assert last <= first * 1.15
