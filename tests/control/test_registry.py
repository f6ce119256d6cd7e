"""control/registry.py: providers come together in one table, and pins follow the realm."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from stickyproxy.base import hashing
from stickyproxy.control.registry import Registry
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.pool import Upstreams
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.routing.balancers.ip_hash import IpHashPolicy
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.table import RoutingTable


class Holder:
    """Holds a table as the proxy does."""

    def __init__(self) -> None:
        self.table = RoutingTable({})


def service(name: str, task: str = "t1") -> ServiceSpec:
    return ServiceSpec(name, (f"{name}.local",), (EndpointSpec(task, "10.0.0.1:80"),))


class Scene:
    def __init__(self, secret: bytes | None = None, awaits: Sequence[str] = ()) -> None:
        self.holder = Holder()
        upstreams = Upstreams(
            connect_timeout=1,
            response_timeout=1,
            client_timeout=1,
            idle_timeout=1,
            turns=Turns(),
            connectors="/nowhere",
            ca="",
            descriptors=Descriptors(),
        )
        self.registry = Registry(self.holder, upstreams, secret, awaits=awaits)

    def publish(self, provider: str, *services: ServiceSpec, realm: str = "") -> None:
        self.registry.publish(Snapshot(provider, services, realm=realm))

    def cluster(self, name: str) -> Cluster:
        route = self.holder.table.match(f"{name}.local".encode(), b"/")
        assert route is not None
        assert route.cluster is not None
        return route.cluster

    def pin(self, name: str) -> bytes:
        [endpoint] = self.cluster(name).endpoints
        return endpoint.pin


@pytest.fixture
def scene() -> Scene:
    return Scene()


class TestPins:
    def test_are_made_from_the_realm_of_the_services_own_provider(self, scene: Scene) -> None:
        scene.publish("static", service("a"))
        before = scene.cluster("a")
        scene.publish("swarm", service("b"), realm="r1")
        assert scene.pin("a") == hashing.pin(hashing.pin_key(None, ""), "a", "t1")
        assert scene.pin("b") == hashing.pin(hashing.pin_key(None, "r1"), "b", "t1")
        assert scene.cluster("a") is before, "another provider does not touch it"

    def test_another_realm_makes_other_pins(self, scene: Scene) -> None:
        scene.publish("swarm", service("b"), realm="r1")
        scene.publish("swarm", service("b"), realm="r2")
        assert scene.pin("b") == hashing.pin(hashing.pin_key(None, "r2"), "b", "t1")

    def test_a_secret_overrides_realms(self) -> None:
        scene = Scene(b"secret")
        scene.publish("swarm", service("b"), realm="r1")
        before = scene.cluster("b")
        assert scene.pin("b") == hashing.pin(hashing.pin_key(b"secret"), "b", "t1")
        scene.publish("swarm", service("b"), realm="r2")
        assert scene.cluster("b") is before

    def test_are_the_same_through_a_controller(self, scene: Scene) -> None:
        scene.publish("swarm", service("b"), realm="r1")
        other = Scene()
        other.publish("controller", service("b"), realm="r1")
        assert scene.pin("b") == other.pin("b")


class TestProblems:
    BAD = Problem("bad", "is odd", fatal=True)

    def test_come_from_providers_and_from_services_together(self, scene: Scene) -> None:
        scene.registry.publish(Snapshot("swarm", (service("a"),), (self.BAD,)))
        assert scene.registry.problems == (self.BAD,)
        scene.publish("static", replace(service("b"), hosts=("a.local",), policy=IpHashPolicy()))
        assert [problem.service for problem in scene.registry.problems] == ["bad", "b"]

    def test_are_logged_when_they_come_and_when_they_go(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "stickyproxy")
        scene.registry.publish(Snapshot("swarm", (), (self.BAD,)))
        scene.registry.publish(Snapshot("swarm", (service("a"),), (self.BAD,)))
        scene.registry.publish(Snapshot("swarm", (service("a"),)))
        assert [record.getMessage() for record in caplog.records] == [
            "service bad: is odd",
            "service a: endpoint 10.0.0.1:80 joins",
            "resolved: service bad: is odd",
        ]

    def test_alone_change_no_cluster(self, scene: Scene) -> None:
        scene.publish("swarm", service("a"))
        table = scene.holder.table
        scene.registry.publish(Snapshot("swarm", (service("a"),), (self.BAD,)))
        assert scene.holder.table is table

    def test_a_certificate_that_nobody_orders(self) -> None:
        """Nothing is said before it is known who does."""
        awaiting = Scene(awaits=("controller",))
        asking = replace(service("a"), acme=True)
        awaiting.publish("static", asking)
        assert not awaiting.registry.problems
        awaiting.publish("controller")
        [problem] = awaiting.registry.problems
        assert "nobody orders one: write [acme]" in problem.reason
        awaiting.registry.publish(Snapshot("acme", (), acme_thumbprints=("x",)))
        assert not awaiting.registry.problems
