"""control/changes.py and control/registry.py: what differs between snapshots, as events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.model.events import Event, EventKind, listen
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.routing.table import RoutingTable
from tests.certificates import make_certificate

ONE, TWO = EndpointSpec("t1", "10.0.0.1:80"), EndpointSpec("t2", "10.0.0.2:80")
SHOP = ServiceSpec("shop", ("shop.local",), (ONE, TWO))


class Shown:
    """What has the table."""

    def __init__(self) -> None:
        self.table = RoutingTable({})


@pytest.fixture
def registry() -> Registry:
    return Registry(Shown(), NoConnections(), None)


@pytest.fixture
def told(registry: Registry) -> list[Event]:
    """What is told after a first snapshot, without the tables."""
    found: list[Event] = []
    registry.publish(Snapshot("swarm", (SHOP,)))
    listen(lambda event: None if event.kind is EventKind.TABLE_SWAPPED else found.append(event))
    return found


def test_the_first_snapshot_is_no_change(registry: Registry) -> None:
    found: list[Event] = []
    listen(found.append)
    registry.publish(Snapshot("swarm", (SHOP,)))
    assert [event.kind for event in found] == [EventKind.TABLE_SWAPPED]
    assert found[0].details == {"services": 1, "endpoints": 2}


def test_one_comes_and_one_goes(registry: Registry, told: list[Event]) -> None:
    three = EndpointSpec("t3", "10.0.0.3:80")
    registry.publish(Snapshot("swarm", (replace(SHOP, endpoints=(TWO, three)),)))
    assert [(event.kind, event.text) for event in told] == [
        (EventKind.ENDPOINT_LEFT, "service shop: endpoint 10.0.0.1:80 leaves"),
        (EventKind.ENDPOINT_JOINED, "service shop: endpoint 10.0.0.3:80 joins"),
    ]
    assert told[1].details == {"service": "shop", "endpoint": "t3", "address": "10.0.0.3:80"}


def test_many_at_once(registry: Registry, told: list[Event]) -> None:
    many = tuple(EndpointSpec(f"m{n}", f"10.0.1.{n}:80") for n in range(50))
    registry.publish(Snapshot("swarm", (SHOP, ServiceSpec("many", ("many.local",), many))))
    assert [event.text for event in told] == ["service many: 50 endpoints join"]
    assert told[0].details == {"service": "many", "count": 50}


@pytest.mark.parametrize("change", [{"draining": True}, {"admin_state": "drain"}])
def test_one_drains(registry: Registry, told: list[Event], change: dict[str, object]) -> None:
    leaving = replace(ONE, **change)  # type: ignore[arg-type]
    registry.publish(Snapshot("swarm", (replace(SHOP, endpoints=(leaving, TWO)),)))
    registry.publish(Snapshot("swarm", (replace(SHOP, endpoints=(leaving,)),)))
    assert [(event.kind, event.details["endpoint"]) for event in told] == [
        (EventKind.ENDPOINT_DRAINING, "t1"),
        (EventKind.ENDPOINT_LEFT, "t2"),
    ]


@pytest.mark.parametrize("change", [{"draining": True}, {"admin_state": "drain"}])
def test_one_is_back(registry: Registry, told: list[Event], change: dict[str, object]) -> None:
    leaving = replace(ONE, **change)  # type: ignore[arg-type]
    registry.publish(Snapshot("swarm", (replace(SHOP, endpoints=(leaving, TWO)),)))
    registry.publish(Snapshot("swarm", (SHOP,)))
    assert (told[-1].kind, told[-1].text) == (
        EventKind.ENDPOINT_BACK,
        "service shop: endpoint 10.0.0.1:80 is back",
    )


def test_a_service_drains(registry: Registry, told: list[Event]) -> None:
    registry.publish(Snapshot("swarm", (replace(SHOP, admin_state="drain"),)))
    assert [event.kind for event in told] == [EventKind.ENDPOINT_DRAINING] * 2


def test_problems(registry: Registry, told: list[Event]) -> None:
    odd = Problem("shop", "is odd", remedy="docker ...", fatal=True)
    registry.publish(Snapshot("swarm", (SHOP,), (odd,)))
    registry.publish(Snapshot("swarm", (SHOP,)))
    found, resolved = told
    assert (found.kind, found.details["remedy"]) == (EventKind.PROBLEM_FOUND, "docker ...")
    assert found.level > found.kind.level
    assert (resolved.kind, resolved.details) == (
        EventKind.PROBLEM_RESOLVED,
        {"service": "shop", "reason": "is odd"},
    )


def test_certificates(registry: Registry, told: list[Event]) -> None:
    made = make_certificate(["shop.local"], name="shop")
    old = replace(made, expires=made.begins + 1.0)
    registry.publish(Snapshot("swarm", (SHOP,), certificates=(old,)))
    registry.publish(Snapshot("swarm", (SHOP,), certificates=(made,)))
    expired, renewed, resolved = told
    assert (expired.kind, expired.details["expires"]) == (
        EventKind.CERTIFICATE_EXPIRING,
        old.expires,
    )
    assert (renewed.kind, renewed.details) == (
        EventKind.CERTIFICATE_RENEWED,
        {"certificate": "shop", "expires": made.expires},
    )
    assert resolved.kind is EventKind.PROBLEM_RESOLVED


def test_processes_that_do_not_tell_problems_tell_nothing() -> None:
    registry = Registry(Shown(), NoConnections(), None, tells_problems=False)
    found: list[Event] = []
    listen(found.append)
    registry.publish(Snapshot("swarm", (SHOP,)))
    registry.publish(Snapshot("swarm", ()))
    assert not found
