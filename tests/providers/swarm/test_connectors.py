"""providers/swarm/connectors.py: which connectors are created, updated and removed, and that
nobody fights over them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from stickyproxy.config.settings import SwarmSettings
from stickyproxy.connector.wire import DIRECTORY
from stickyproxy.providers.swarm.connectors import (
    CONNECTOR_REVISION,
    CONNECTOR_SPEC,
    RETRY,
    SETTLE,
    STACK,
    CompanionChange,
    ConnectorPlanner,
    connector_spec,
)
from stickyproxy.providers.swarm.networks import NetworkPlanner
from stickyproxy.providers.swarm.reader import SwarmReader
from stickyproxy.providers.swarm.state import (
    CONNECTOR_NETWORK,
    CONNECTOR_PROXY,
    Json,
    ProxyLocation,
    SwarmState,
)
from tests.swarm_dicts import labels, listing, network, service, task

VOLUME = {"Type": "volume", "Source": "lb_run", "Target": DIRECTORY}


def proxies(name: str = "lb", **container: object) -> Json:
    """The proxies' service, with a volume for connectors."""
    made = service(name, marks={}, networks=["net-own"])
    made["Spec"]["TaskTemplate"]["ContainerSpec"] = {
        "Image": "stickyproxy:1",
        "User": "0:0",
        "Mounts": [{"Type": "bind", "Source": "/x", "Target": "/y"}, VOLUME],
    } | container
    return made


class Cluster:
    """The services of a Swarm, and a clock."""

    def __init__(self, **settings: object) -> None:
        self.settings = replace(SwarmSettings(join_by="connector"), **settings)  # type: ignore[arg-type]
        self.now = 1000.0
        self.proxies = proxies()
        self.services: dict[str, Json] = {}
        """By name, the proxies' aside."""
        self.networks = [network(name) for name in ("own", "a", "b")]
        self.planner = self.manager()
        self._created = 0

    def manager(self) -> ConnectorPlanner:
        """One more proxy that plans."""
        return ConnectorPlanner(self.settings, NetworkPlanner(self.settings).may_join)

    @property
    def listing(self) -> SwarmState:
        own = [self.proxies] if self.proxies else []
        return listing([*own, *self.services.values()], [], self.networks)

    def plan(
        self,
        *wanted: str,
        after: float = 0.0,
        by: ConnectorPlanner | None = None,
        seen: SwarmState | None = None,
        container: str = "c" * 64,
    ) -> CompanionChange | None:
        """What is planned ``after`` seconds if these networks are wanted."""
        self.now += after
        here = ProxyLocation(frozenset({"net-own"}), "lb", container)
        shops = dict.fromkeys(wanted, frozenset({"shop"}))
        return (by or self.planner).plan(seen or self.listing, here, shops, self.now)

    def apply(self, change: CompanionChange | None) -> list[str]:
        """As the engine does; returns the names that it refused."""
        refused = []
        assert change is not None
        for spec in change.create:
            if spec["Name"] in self.services:
                refused.append(spec["Name"])
                continue
            self._created += 1
            self.services[spec["Name"]] = {
                "ID": f"id-{self._created}",
                "Version": {"Index": 1},
                "Spec": copy.deepcopy(spec),
            }
        for each in change.update:
            [found] = [s for s in self.services.values() if s["ID"] == each.service]
            assert found["Version"]["Index"] == each.version
            found["Spec"] = copy.deepcopy(each.spec)
            found["Version"] = {"Index": each.version + 1}
        for gone in change.remove:
            self.services.pop(gone["Spec"]["Name"], None)
        return refused

    @property
    def connectors(self) -> dict[str, str]:
        """Name -> network."""
        return {
            name: made["Spec"]["Labels"][CONNECTOR_NETWORK] for name, made in self.services.items()
        }


class TestCreating:
    def test_one_for_every_network_that_is_wanted(self) -> None:
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a", "net-b"))
        assert cluster.connectors == {"stickyproxy-net-a": "net-a", "stickyproxy-net-b": "net-b"}
        assert cluster.plan("net-a", "net-b") is None

    def test_none_for_what_the_proxies_are_on(self) -> None:
        assert Cluster().plan("net-own") is None

    def test_none_for_a_network_that_is_plugged_into_the_container(self) -> None:
        cluster = Cluster()
        cluster.networks = [network("a", attachable=True)]
        assert cluster.plan("net-a") is None

    def test_a_controller_plugs_nothing_in(self) -> None:
        cluster = Cluster()
        cluster.networks = [network("a", attachable=True)]
        cluster.apply(cluster.plan("net-a", container=""))
        assert cluster.connectors == {"stickyproxy-net-a": "net-a"}

    @pytest.mark.parametrize(
        "settings", [{"join_by": "service"}, {"attach_networks": False}, {"networks": ("b*",)}]
    )
    def test_none_where_that_is_not_wanted(self, settings: dict[str, object]) -> None:
        assert Cluster(**settings).plan("net-a") is None

    def test_none_where_the_proxies_are_no_service(self) -> None:
        cluster = Cluster()
        cluster.proxies = {}
        assert cluster.plan("net-a") is None

    def test_none_for_a_network_that_is_gone(self) -> None:
        assert Cluster().plan("net-gone") is None

    def test_tried_again_after_a_while(self) -> None:
        cluster = Cluster()
        assert cluster.plan("net-a") is not None
        cluster.planner.failed("stickyproxy-net-a", "the engine is on strike")
        assert cluster.plan("net-a", after=RETRY[0] / 2) is None
        assert cluster.plan("net-a", after=RETRY[0] / 2) is not None
        assert cluster.plan("net-a", after=RETRY[0]) is None, "the pause doubles"
        [problem] = cluster.planner.problems("lb")
        assert "stickyproxy-net-a cannot be created" in problem.reason
        assert problem.reason.endswith("the engine is on strike")
        cluster.apply(cluster.plan("net-a", after=RETRY[1]))
        cluster.plan("net-a")
        assert cluster.planner.problems("lb") == ()

    def test_not_at_once_when_it_has_just_been_removed(self) -> None:
        """By ``docker stack rm``, perhaps, and the proxies are next."""
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a"))
        cluster.plan("net-a", after=100.0)
        cluster.services.clear()
        assert cluster.plan("net-a", after=SETTLE / 2) is None
        cluster.apply(cluster.plan("net-a", after=SETTLE))
        assert cluster.connectors == {"stickyproxy-net-a": "net-a"}

    def test_slower_and_slower_if_somebody_removes_it_every_time(self) -> None:
        cluster = Cluster()
        made = []
        for _ in range(600):
            change = cluster.plan("net-a", after=1.0)
            if change is not None:
                made.append(cluster.now)
                cluster.apply(change)
                cluster.plan("net-a", after=0.0)  # it is there
                cluster.services.clear()
        pauses = [later - earlier for earlier, later in pairwise(made)]
        assert pauses == sorted(pauses)
        assert len(made) < 10

    def test_at_full_speed_if_the_network_comes_and_goes(self) -> None:
        cluster = Cluster()
        for _ in range(10):
            cluster.apply(cluster.plan("net-a", after=10.0))
            cluster.apply(cluster.plan(after=10.0))
        assert cluster.connectors == {}

    def test_no_volume(self) -> None:
        cluster = Cluster()
        cluster.proxies = proxies(Mounts=[])
        assert cluster.plan("net-a") is None
        [problem] = cluster.planner.problems("lb")
        assert f"without a volume at {DIRECTORY}" in problem.reason
        assert problem.remedy == (
            "docker service update --mount-add "
            "type=volume,source=stickyproxy_run,target=/run/stickyproxy lb"
        )
        assert cluster.plan() is None
        assert cluster.planner.problems("lb") == ()


class TestRemoving:
    def test_at_once_with_the_last_service_of_a_network(self) -> None:
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a", "net-b"))
        cluster.apply(cluster.plan("net-a"))
        assert cluster.connectors == {"stickyproxy-net-a": "net-a"}
        assert cluster.plan("net-a") is None

    def test_when_the_proxies_have_been_put_on_the_network(self) -> None:
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a"))
        cluster.proxies["Spec"]["TaskTemplate"]["Networks"].append({"Target": "net-a"})
        cluster.apply(cluster.plan("net-a"))
        assert cluster.connectors == {}

    def test_what_a_crash_left_behind(self) -> None:
        """A proxy that begins knows of no connector that it created."""
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a", "net-b"))
        cluster.apply(cluster.plan("net-b", by=cluster.manager()))
        assert cluster.connectors == {"stickyproxy-net-b": "net-b"}

    def test_those_of_proxies_that_are_no_more(self) -> None:
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a"))
        cluster.proxies = proxies("other")
        cluster.apply(cluster.plan())
        assert cluster.connectors == {}

    def test_but_not_those_of_other_proxies(self) -> None:
        cluster = Cluster()
        cluster.services["edge"] = proxies("edge")
        cluster.services["x"] = {
            "ID": "id-x",
            "Version": {"Index": 1},
            "Spec": connector_spec(proxies("edge"), network("a"), set()) | {"Name": "x"},
        }
        assert cluster.plan() is None


class TestSeveralManagers:
    def test_both_create_and_one_is_refused(self) -> None:
        cluster = Cluster()
        other = cluster.manager()
        seen = cluster.listing
        mine = cluster.plan("net-a", seen=seen)
        theirs = cluster.plan("net-a", seen=seen, by=other)
        assert cluster.apply(mine) == []
        assert cluster.apply(theirs) == ["stickyproxy-net-a"]
        reason = "rpc error: AlreadyExists: name conflicts with an existing object: service ..."
        other.failed("stickyproxy-net-a", reason)
        for planner in (cluster.planner, other):
            assert cluster.plan("net-a", by=planner) is None
            assert planner.problems("lb") == ()

    def test_two_connectors_of_one_network_become_one(self) -> None:
        """The same one for everybody."""
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a"))
        twin = copy.deepcopy(cluster.services["stickyproxy-net-a"]) | {"ID": "id-9"}
        twin["Spec"]["Name"] = "twin"
        cluster.services = {"twin": twin} | cluster.services
        changes = [cluster.plan("net-a", by=cluster.manager()) for _ in range(3)]
        for change in changes:
            assert change is not None
            assert [each["ID"] for each in change.remove] == ["id-9"]

    def test_proxies_of_one_network_each_have_their_own(self) -> None:
        cluster = Cluster()
        edge = proxies("edge")
        cluster.services["stickyproxy-net-a"] = {
            "ID": "id-x",
            "Version": {"Index": 1},
            "Spec": connector_spec(edge, network("a"), set()),
        }
        cluster.services["edge"] = edge
        change = cluster.plan("net-a")
        assert change is not None
        [spec] = change.create
        assert spec["Name"].startswith("stickyproxy-net-a-")
        assert spec["Labels"][CONNECTOR_PROXY] == "lb"
        del cluster.services["edge"]["Spec"]["Labels"]
        cluster.services.pop("edge")
        assert cluster.apply(change) == []


class TestUpdating:
    @pytest.mark.parametrize(
        "change",
        [
            lambda own: own["ContainerSpec"].update(User="65532:65532"),
            lambda own: own.update(Placement={"Constraints": ["node.role == manager"]}),
            lambda own: own["ContainerSpec"]["Mounts"][1].update(Source="elsewhere"),
        ],
        ids=["user", "placement", "volume"],
    )
    def test_what_it_has_to_share_with_the_proxies(self, change: Callable[[Json], None]) -> None:
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a"))
        change(cluster.proxies["Spec"]["TaskTemplate"])
        planned = cluster.plan("net-a", by=cluster.manager())
        assert planned is not None
        assert len(planned.update) == 1
        cluster.apply(planned)
        assert cluster.plan("net-a") is None

    def test_not_for_another_image(self) -> None:
        """Who is connected through it would have to find another way."""
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a"))
        cluster.proxies["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = "stickyproxy:2"
        assert cluster.plan("net-a") is None

    def test_not_what_a_newer_proxy_has_made(self) -> None:
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a"))
        marks = cluster.services["stickyproxy-net-a"]["Spec"]["Labels"]
        marks |= {CONNECTOR_REVISION: "99", CONNECTOR_SPEC: "something"}
        assert cluster.plan("net-a") is None

    def test_one_that_bears_no_mark(self) -> None:
        cluster = Cluster()
        cluster.apply(cluster.plan("net-a"))
        marks = cluster.services["stickyproxy-net-a"]["Spec"]["Labels"]
        del marks[CONNECTOR_REVISION], marks[CONNECTOR_SPEC]
        cluster.apply(cluster.plan("net-a", by=cluster.manager()))
        assert cluster.plan("net-a") is None


class TestSpecification:
    def spec(self, own: Json | None = None, name: str = "a") -> Json:
        return connector_spec(own or proxies(), network(name), set())

    def test_it_may_do_nothing_but_open_connections(self) -> None:
        spec = self.spec(proxies(Secrets=["s"], Configs=["c"], CapabilityAdd=["NET_ADMIN"]))
        container = spec["TaskTemplate"]["ContainerSpec"]
        assert container["CapabilityDrop"] == ["ALL"]
        assert container["ReadOnly"] is True
        assert container["Mounts"] == [VOLUME]
        assert not container.keys() & {"Secrets", "Configs", "CapabilityAdd", "Env"}
        assert spec["TaskTemplate"]["Networks"] == [{"Target": "net-a"}]
        assert "Ports" not in spec["EndpointSpec"]

    def test_it_runs_where_proxies_do_as_they_do(self) -> None:
        own = proxies(User="7:8", Command=["/bin/stickyproxy"])
        own["Spec"]["TaskTemplate"]["Placement"] = {
            "Constraints": ["node.role == manager"],
            "MaxReplicas": 1,
        }
        spec = self.spec(own)
        container = spec["TaskTemplate"]["ContainerSpec"]
        assert spec["Mode"] == {"Global": {}}
        assert spec["TaskTemplate"]["Placement"] == {"Constraints": ["node.role == manager"]}
        assert container["Image"] == "stickyproxy:1"
        assert container["User"] == "7:8"
        assert container["Command"] == ["/bin/stickyproxy"]
        assert container["Args"] == ["connector", "--network", "a", "--directory", DIRECTORY]

    def test_what_proxies_may_only_read_it_writes(self) -> None:
        own = proxies(Mounts=[VOLUME | {"ReadOnly": True, "Target": DIRECTORY + "/"}])
        [mount] = self.spec(own)["TaskTemplate"]["ContainerSpec"]["Mounts"]
        assert "ReadOnly" not in mount

    def test_it_is_removed_with_their_stack(self) -> None:
        own = proxies()
        assert STACK not in self.spec(own)["Labels"]
        own["Spec"]["Labels"] = {STACK: "lb"}
        assert self.spec(own)["Labels"][STACK] == "lb"

    @pytest.mark.parametrize("name", ["a", "a.b_c-d", "n" * 200])
    def test_its_name_is_one_for_a_service(self, name: str) -> None:
        found = self.spec(name=name)["Name"]
        assert found.startswith("stickyproxy-net-")
        assert len(found) <= 63
        assert found.replace("-", "").replace("_", "").isalnum()

    def test_golden(self) -> None:
        """If this changes, so must REVISION: or proxies of two versions would update their
        connectors in turn for as long as both run."""
        marks = self.spec()["Labels"]
        assert marks[CONNECTOR_REVISION] == "1"
        assert marks[CONNECTOR_SPEC] == "31e8ea265073"


class TestReading:
    """What the reader makes of a network that has a connector."""

    def read(self, *others: Json, location: ProxyLocation | None = None) -> tuple[str, str] | None:
        """Address and network of the shop's endpoint."""
        here = location or ProxyLocation(frozenset({"net-own"}), "lb", "c" * 64)
        services = [proxies(), service("shop", marks=labels()), *others]
        found = SwarmReader(None, lambda _: True).read(listing(services, [task()]), here)
        [shop] = found.snapshot.services
        assert found.wanted == {"net-a": {"shop"}}
        if not shop.endpoints:
            return None
        [endpoint] = shop.endpoints
        return endpoint.address, endpoint.network

    def test_through_it(self) -> None:
        made = {"ID": "id-x", "Spec": connector_spec(proxies(), network("a"), set())}
        assert self.read(made) == ("10.0.1.1:80", "a")

    def test_not_before_there_is_one(self) -> None:
        assert self.read() is None

    def test_not_through_that_of_other_proxies(self) -> None:
        made = {"ID": "id-x", "Spec": connector_spec(proxies("edge"), network("a"), set())}
        assert self.read(made) is None

    def test_not_where_the_proxy_is_itself(self) -> None:
        made = {"ID": "id-x", "Spec": connector_spec(proxies(), network("a"), set())}
        there = ProxyLocation(frozenset({"net-own", "net-a"}), "lb", "c" * 64)
        assert self.read(made, location=there) == ("10.0.1.1:80", "")
