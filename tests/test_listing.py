"""providers/listing.py: what a listing comes to. Real engines: tests/swarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.model import EndpointSpec, Problem, ServiceSpec
from stickyproxy.providers.listing import Json, Listing, Reading, Standpoint, SwarmReader
from tests.swarm_dicts import REALM, labels, listing, network, node, port, service, task

ANYWHERE = Standpoint()


def read(found: Listing, standpoint: Standpoint = ANYWHERE) -> Reading:
    return SwarmReader().read(found, standpoint)


def spec(found: Listing, standpoint: Standpoint = ANYWHERE) -> ServiceSpec:
    """The only service of a listing without problems."""
    reading = read(found, standpoint)
    assert reading.snapshot.problems == ()
    [only] = reading.snapshot.services
    return only


def problem(found: Listing, standpoint: Standpoint = ANYWHERE) -> Problem:
    """The only problem of a listing."""
    [only] = read(found, standpoint).snapshot.problems
    return only


def addresses(found: Listing, standpoint: Standpoint = ANYWHERE) -> list[str]:
    return [endpoint.address for endpoint in spec(found, standpoint).endpoints]


class TestServices:
    def test_one(self) -> None:
        found = listing([service(marks=labels(sticky_session_cookie="session"))], [task()])
        snapshot = read(found).snapshot
        assert (snapshot.provider, snapshot.realm) == ("swarm", REALM)
        assert snapshot.services == (
            ServiceSpec(
                "shop",
                ("demo.local",),
                (EndpointSpec("t1", "10.0.1.1:80"),),
                sticky_session_cookie="session",
            ),
        )

    def test_others_are_left_alone(self) -> None:
        assert read(listing([service(marks={"a": "b"})], [task()])).snapshot.services == ()

    def test_order_is_by_name_and_task(self) -> None:
        found = listing([service("b"), service("a")], [task("t2", "a"), task("t1", "a")])
        first, second = read(found).snapshot.services
        assert (first.name, second.name) == ("a", "b")
        assert [endpoint.id for endpoint in first.endpoints] == ["t1", "t2"]

    def test_the_port_is_inferred_from_what_is_published(self) -> None:
        marks = labels()
        del marks["com.docker.lb.port"]
        found = listing([service(marks=marks, ports=[port(8080, 80, "ingress")])], [task()])
        assert addresses(found) == ["10.0.1.1:8080"]

    @pytest.mark.parametrize(
        ("ours", "published"), [(None, True), ("eu", True), ("us", False), ("", False)]
    )
    def test_service_cluster(self, ours: str | None, published: bool) -> None:
        found = listing([service(marks=labels(service_cluster="eu"))], [task()])
        snapshot = SwarmReader(ours).read(found, ANYWHERE).snapshot
        assert bool(snapshot.services) == published
        assert snapshot.problems == ()

    def test_every_cluster_publishes_a_service_of_none(self) -> None:
        found = listing([service()], [task()])
        assert len(SwarmReader("eu").read(found, ANYWHERE).snapshot.services) == 1


class TestTasks:
    @pytest.mark.parametrize(
        ("desired", "state", "draining"),
        [
            ("running", "running", False),
            ("shutdown", "running", True),
            ("remove", "running", True),
            ("running", "starting", None),
            ("ready", "ready", None),
            ("running", "pending", None),
            ("running", "failed", None),
            ("shutdown", "shutdown", None),
        ],
    )
    def test_states(self, desired: str, state: str, draining: bool | None) -> None:
        found = spec(listing([service()], [task(desired=desired, state=state)]))
        assert [endpoint.draining for endpoint in found.endpoints] == (
            [] if draining is None else [draining]
        )

    @pytest.mark.parametrize(
        ("desired", "state", "converging"),
        [
            ("running", "running", False),
            ("shutdown", "running", True),
            ("running", "starting", True),
            ("running", "failed", True),
            ("shutdown", "shutdown", False),
            ("shutdown", "failed", False),
        ],
    )
    def test_converging(self, desired: str, state: str, converging: bool) -> None:
        found = listing([service()], [task(desired=desired, state=state)])
        assert read(found).converging == converging

    @pytest.mark.parametrize(
        ("state", "converging"), [("updating", True), ("completed", False), ("paused", False)]
    )
    def test_an_update_converges(self, state: str, converging: bool) -> None:
        updating = service() | {"UpdateStatus": {"State": state}}
        assert read(listing([updating], [task()])).converging == converging

    def test_services_of_others_do_not_converge(self) -> None:
        found = listing([service(marks={})], [task(state="starting")])
        assert not read(found).converging

    def test_tasks_on_a_dead_node_are_no_endpoints(self) -> None:
        found = listing([service()], [task()], nodes=[node(state="down")])
        assert addresses(found) == []

    def test_tasks_without_an_address_yet(self) -> None:
        assert addresses(listing([service()], [task(addresses={})])) == []

    def test_ipv6(self) -> None:
        found = listing([service()], [task(addresses={"net-a": "2001:db8::1"})])
        assert addresses(found) == ["[2001:db8::1]:80"]


class TestNetworks:
    TWO: Json = task(addresses={"net-a": "10.0.1.1", "net-b": "10.0.2.1"})
    OWN: Json = service("lb", marks={}, networks=[])

    @pytest.mark.parametrize("name", ["b", "net-b"])
    def test_named_by_the_label(self, name: str) -> None:
        both = service(marks=labels(network=name), networks=["net-a", "net-b"])
        assert addresses(listing([both], [self.TWO])) == ["10.0.2.1:80"]

    def test_named_without_the_stack(self) -> None:
        marks = labels(network="front") | {"com.docker.stack.namespace": "app"}
        found = listing(
            [service(marks=marks, networks=["net-app_front"])],
            [task(addresses={"net-app_front": "10.0.3.1"})],
            [network("app_front")],
        )
        assert addresses(found) == ["10.0.3.1:80"]

    def test_named_wrongly(self) -> None:
        found = problem(listing([service(marks=labels(network="c"))], [task()]))
        assert found.label == "com.docker.lb.network"
        assert "write one of a" in found.reason
        assert found.fatal

    def test_the_one_shared_with_the_proxy(self) -> None:
        both = service(networks=["net-a", "net-b"])
        here = Standpoint(frozenset({"net-b"}))
        assert addresses(listing([both], [self.TWO]), here) == ["10.0.2.1:80"]

    def test_several_and_none_shared(self) -> None:
        found = problem(listing([service(networks=["net-a", "net-b"])], [self.TWO]))
        assert "several networks (a, b)" in found.reason
        assert found.remedy == "docker service update --label-add com.docker.lb.network=a shop"

    def test_ingress_does_not_count(self) -> None:
        found = listing(
            [service(networks=["net-ingress", "net-a"])],
            [task()],
            [network("ingress", Ingress=True), network("a")],
        )
        assert addresses(found) == ["10.0.1.1:80"]

    def test_none(self) -> None:
        found = problem(listing([service(networks=[])], [task(addresses={})]))
        assert found.remedy == "docker service update --network-add NETWORK shop"

    @pytest.mark.parametrize(
        ("service_name", "remedy"),
        [
            ("", "docker network connect a cccccccccccc"),
            ("lb", "docker service update --network-add a lb"),
        ],
    )
    def test_out_of_reach(self, service_name: str, remedy: str) -> None:
        here = Standpoint(frozenset(), service_name, "c" * 64)
        reading = read(listing([service(), self.OWN], [task()]), here)
        [shop] = reading.snapshot.services
        [said] = reading.snapshot.problems
        assert shop.endpoints == ()
        assert said.remedy == remedy
        assert said.fatal
        assert reading.wanted == {"net-a": {"shop"}}

    def test_out_of_reach_for_a_moment(self) -> None:
        reader = SwarmReader(may_join=lambda network: bool(network["Name"] == "a"))
        here = Standpoint(frozenset(), "lb")
        found = listing(
            [service("one"), service("two", networks=["net-b"]), self.OWN],
            [task(of="one"), task("t2", "two")],
        )
        said = reader.read(found, here).snapshot.problems
        assert [(each.service, each.fatal) for each in said] == [("one", False), ("two", True)]
        assert "is joining" in said[0].reason


class TestPublishedOnNodes:
    HOSTED: Json = service(networks=[], ports=[port(80, 8080)])
    TASK: Json = task(addresses={}, ports=[port(80, 30001)])

    def test_at_the_nodes_address_and_port(self) -> None:
        assert addresses(listing([self.HOSTED], [self.TASK])) == ["192.0.2.1:30001"]

    def test_a_port_not_yet_published(self) -> None:
        assert addresses(listing([self.HOSTED], [task(addresses={})])) == []

    def test_a_manager_that_knows_itself_by_no_address(self) -> None:
        manager = node(address="0.0.0.0") | {"ManagerStatus": {"Addr": "192.0.2.9:2377"}}
        found = listing([self.HOSTED], [self.TASK], nodes=[manager])
        assert addresses(found) == ["192.0.2.9:30001"]

    def test_needs_no_network(self) -> None:
        nowhere = Standpoint(frozenset())
        assert addresses(listing([self.HOSTED], [self.TASK]), nowhere) == ["192.0.2.1:30001"]

    def test_an_overlay_that_is_there_anyway_is_better(self) -> None:
        both = service(ports=[port(80, 8080)])
        found = listing([both], [task(ports=[port(80, 30001)])])
        assert addresses(found, Standpoint(frozenset({"net-a"}))) == ["10.0.1.1:80"]
        assert addresses(found, Standpoint(frozenset())) == ["192.0.2.1:30001"]

    def test_host_network(self) -> None:
        found = listing([service(networks=["a predefined one"])], [task(addresses={})])
        assert addresses(found) == ["192.0.2.1:80"]


class TestVip:
    def test_one_upstream(self) -> None:
        vip = service(marks=labels(backend_mode="vip"))
        found = spec(listing([vip], [task("t1"), task("t2")]))
        assert found.endpoints == (EndpointSpec("id-shop", "10.0.0.2:80"),)

    def test_a_service_that_has_none(self) -> None:
        round_robin = service(marks=labels(backend_mode="vip")) | {"Endpoint": {}}
        found = problem(listing([round_robin], [task()]))
        assert found.label == "com.docker.lb.backend_mode"
        assert "dnsrr" in found.reason

    def test_none_without_a_running_task(self) -> None:
        vip = service(marks=labels(backend_mode="vip"))
        assert addresses(listing([vip], [task(state="failed")])) == []


class TestLastGood:
    def test_is_kept_with_the_tasks_of_now(self) -> None:
        reader = SwarmReader()
        reader.read(listing([service(marks=labels(ip_hash="true"))], [task("t1")]), ANYWHERE)
        bad = service(marks=labels(ip_hash="true", port="80a"))
        snapshot = reader.read(listing([bad], [task("t2")]), ANYWHERE).snapshot
        [shop] = snapshot.services
        assert shop.ip_hash
        assert [endpoint.id for endpoint in shop.endpoints] == ["t2"]
        assert [said.fatal for said in snapshot.problems] == [True]

    def test_is_forgotten_with_the_service(self) -> None:
        reader = SwarmReader()
        reader.read(listing([service()], [task()]), ANYWHERE)
        reader.read(listing(), ANYWHERE)
        again = reader.read(listing([service(marks=labels(port="80a"))], [task()]), ANYWHERE)
        assert again.snapshot.services == ()

    def test_a_fixed_label_counts_at_once(self) -> None:
        reader = SwarmReader()
        reader.read(listing([service(marks=labels(port="80a"))], [task()]), ANYWHERE)
        snapshot = reader.read(listing([service()], [task()]), ANYWHERE).snapshot
        assert len(snapshot.services) == 1
        assert snapshot.problems == ()

    @pytest.mark.parametrize("label", ["ssl_only", "ssl_passthrough", "ssl_backend"])
    def test_is_not_fallen_back_to_when_encryption_is_asked_for(self, label: str) -> None:
        """It would go in the clear, although nobody wants that any longer."""
        reader = SwarmReader()
        reader.read(listing([service()], [task()]), ANYWHERE)
        secret = service(marks=labels(**{label: "true"}))
        assert reader.read(listing([secret], [task()]), ANYWHERE).snapshot.services == ()


class TestTraps:
    OWN: Json = service("lb", marks={}, networks=["net-a"], ports=[port(80, 80, "ingress")])

    def test_ip_hash_behind_the_mesh(self) -> None:
        here = Standpoint(frozenset({"net-a"}), "lb")
        found = problem(listing([service(marks=labels(ip_hash="true")), self.OWN], [task()]), here)
        assert found.label == "com.docker.lb.ip_hash"
        assert found.remedy == (
            "docker service update --publish-rm 80 "
            "--publish-add mode=host,published=80,target=80 lb"
        )

    def test_host_mode_is_fine(self) -> None:
        own = service("lb", marks={}, ports=[port(80, 80)])
        here = Standpoint(frozenset({"net-a"}), "lb")
        spec(listing([service(marks=labels(ip_hash="true")), own], [task()]), here)

    def test_a_proxy_service_that_is_none(self) -> None:
        found = problem(listing([service()], [task()]), Standpoint(service="proxi"))
        assert found.service == "proxi"
        assert "proxy_service" in found.reason

    def test_labels_on_containers(self) -> None:
        lost = service(marks={})
        lost["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"] = labels()
        assert "stands on the containers" in problem(listing([lost], [task()])).reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 99999) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


class TestOneBadServiceTouchesNoOther:
    GOOD: Json = service("good")

    @given(values=st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=5))
    def test_by_its_labels(self, values: dict[str, str]) -> None:
        bad = service("bad", labels(**values))
        self.check(bad)

    @given(junk=JSON, place=st.sampled_from(["Labels", "TaskTemplate", "EndpointSpec"]))
    def test_by_its_shape(self, junk: Any, place: str) -> None:
        self.check(service("bad", **{place: junk}))

    def check(self, bad: Json) -> None:
        alone = read(listing([self.GOOD], [task(of="good")])).snapshot
        tasks = [task(of="good"), task("t2", "bad")]
        snapshot = read(listing([bad, self.GOOD], tasks)).snapshot
        others = tuple(each for each in snapshot.services if each.name != "bad")
        assert replace(snapshot, services=others, problems=()) == alone
        assert {said.service for said in snapshot.problems} <= {"bad"}
