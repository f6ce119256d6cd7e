"""providers/swarm/reader.py: what a listing comes to. Real engines: tests/swarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.providers.swarm.reader import Reading, SwarmReader
from stickyproxy.providers.swarm.state import Json, ProxyLocation, SwarmState
from tests.specs import asked, service_spec
from tests.swarm_dicts import REALM, labels, listing, network, node, port, service, task

ANYWHERE = ProxyLocation()


def read(found: SwarmState, location: ProxyLocation = ANYWHERE) -> Reading:
    return SwarmReader().read(found, location)


def spec(found: SwarmState, location: ProxyLocation = ANYWHERE) -> ServiceSpec:
    """The only service of a listing without problems."""
    reading = read(found, location)
    assert reading.snapshot.problems == ()
    [only] = reading.snapshot.services
    return only


def problem(found: SwarmState, location: ProxyLocation = ANYWHERE) -> Problem:
    """The only problem of a listing."""
    [only] = read(found, location).snapshot.problems
    return only


def addresses(found: SwarmState, location: ProxyLocation = ANYWHERE) -> list[str]:
    return [endpoint.address for endpoint in spec(found, location).endpoints]


class TestServices:
    def test_one(self) -> None:
        found = listing([service(marks=labels(sticky_session_cookie="session"))], [task()])
        snapshot = read(found).snapshot
        assert (snapshot.provider, snapshot.realm) == ("swarm", REALM)
        assert snapshot.services == (
            service_spec(
                "shop",
                ("demo.local",),
                (EndpointSpec("t1", "10.0.1.1:80", slot="node-1"),),
                sticky_session_cookie="session",
            ),
        )

    def test_draining_and_timeouts(self) -> None:
        marks = labels(drain="Sticky", response_timeout="5m", upgrade_idle_timeout="1h")
        found = spec(listing([service(marks=marks)], [task()]))
        assert found.drain == "sticky"
        assert found.timeouts == Timeouts(response=300, upgrade_idle=3600)

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

    STICKY = labels(sticky_session_cookie="session")

    def replicas(self, count: int, version: int = 1, update: str = "completed") -> Json:
        found = service(marks=self.STICKY, Mode={"Replicated": {"Replicas": count}})
        found["Spec"]["TaskTemplate"]["ForceUpdate"] = version
        return found | {"UpdateStatus": {"State": update}}

    def of_slot(self, name: str, slot: int, version: int = 1, **fields: Any) -> Json:
        spec = self.replicas(0, version)["Spec"]["TaskTemplate"]
        return task(name, **fields) | {"Slot": slot, "Spec": spec}

    def test_slots(self) -> None:
        found = listing([self.replicas(2)], [self.of_slot("a", 2), self.of_slot("b", 1)])
        assert [(e.id, e.slot) for e in spec(found).endpoints] == [("a", "2"), ("b", "1")]
        assert spec(found).coming == ()

    def test_tasks_of_a_global_service_have_their_nodes(self) -> None:
        found = listing([service(marks=self.STICKY)], [task("a", node="node-1")])
        assert [each.slot for each in spec(found).endpoints] == ["node-1"]

    @pytest.mark.parametrize(
        ("desired", "state"),
        [("ready", "preparing"), ("running", "starting"), ("running", "pending")],
    )
    def test_successors_on_their_way(self, desired: str, state: str) -> None:
        tasks = [
            self.of_slot("a", 1, desired="shutdown"),
            self.of_slot("b", 1, desired=desired, state=state),
            self.of_slot("c", 2),
            self.of_slot("d", 2, desired=desired, state=state),  # the other one still serves
        ]
        assert spec(listing([self.replicas(2)], tasks)).coming == ("1",)

    @pytest.mark.parametrize("state", ["failed", "shutdown", "rejected", "complete"])
    def test_what_has_ended_is_not_on_its_way(self, state: str) -> None:
        tasks = [self.of_slot("a", 1, state=state), self.of_slot("c", 2)]
        assert spec(listing([self.replicas(2)], tasks)).coming == ()

    def test_one_that_runs_where_it_cannot_be_reached_yet(self) -> None:
        tasks = [self.of_slot("a", 1, addresses={}), self.of_slot("c", 2)]
        assert spec(listing([self.replicas(2)], tasks)).coming == ("1",)

    @pytest.mark.parametrize("state", ["updating", "rollback_started"])
    def test_during_an_update_every_empty_slot_will_be_filled(self, state: str) -> None:
        found = listing([self.replicas(3, update=state)], [self.of_slot("c", 2)])
        assert spec(found).coming == ("1", "3")

    @pytest.mark.parametrize(
        ("state", "outdated"),
        [("updating", True), ("rollback_started", True), ("paused", False), ("completed", False)],
    )
    def test_tasks_whose_turn_is_still_to_come(self, state: str, outdated: bool) -> None:
        tasks = [self.of_slot("a", 1, version=2), self.of_slot("b", 2, version=1)]
        found = spec(listing([self.replicas(2, version=2, update=state)], tasks))
        assert [each.outdated for each in found.endpoints] == [False, outdated]

    def test_without_sessions_it_does_not_matter(self) -> None:
        tasks = [self.of_slot("b", 1, state="starting")]
        assert spec(listing([service()], tasks)).coming == ()

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
        here = ProxyLocation(frozenset({"net-b"}))
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
        assert found.remedy == "docker service update --network-add a shop"

    @pytest.mark.parametrize(
        ("named", "on", "remedy"),
        [
            ("typo", ["net-a"], "docker service update --label-add com.docker.lb.network=a shop"),
            ("b", ["net-a"], "docker service update --network-add b shop"),
            (
                "new",
                [],
                "docker network create -d overlay new && "
                "docker service update --network-add new shop",
            ),
        ],
    )
    def test_a_label_that_leads_nowhere(self, named: str, on: list[str], remedy: str) -> None:
        found = problem(listing([service(marks=labels(network=named), networks=on)], [task()]))
        assert found.remedy == remedy

    @pytest.mark.parametrize(
        ("service_name", "attachable", "remedy"),
        [
            ("", True, "docker network connect a cccccccccccc"),
            ("", False, ""),
            ("lb", False, "docker service update --network-add a lb"),
        ],
    )
    def test_out_of_reach(self, service_name: str, attachable: bool, remedy: str) -> None:
        here = ProxyLocation(frozenset(), service_name, "c" * 64)
        networks = [network("a", attachable=attachable)]
        reading = read(listing([service(), self.OWN], [task()], networks), here)
        [shop] = reading.snapshot.services
        [said] = reading.snapshot.problems
        assert shop.endpoints == ()
        assert said.remedy == remedy
        assert said.fatal
        assert reading.wanted == {"net-a": {"shop"}}

    def test_out_of_reach_for_a_moment(self) -> None:
        reader = SwarmReader(may_join=lambda network: bool(network["Name"] == "a"))
        here = ProxyLocation(frozenset(), "lb")
        found = listing(
            [service("one"), service("two", networks=["net-b"]), self.OWN],
            [task(of="one"), task("t2", "two")],
        )
        said = reader.read(found, here).snapshot.problems
        assert [(each.service, each.fatal) for each in said] == [("one", False), ("two", True)]
        assert "is joining" in said[0].reason
        assert [each.remedy for each in said] == ["", "docker service update --network-add b lb"]


class TestPublishedOnNodes:
    HOSTED: Json = service(networks=[], ports=[port(80, 8080)])
    TASK: Json = task(addresses={}, ports=[port(80, 30001)])

    def test_at_the_nodes_address_and_port(self) -> None:
        assert addresses(listing([self.HOSTED], [self.TASK])) == ["192.0.2.1:30001"]

    @pytest.mark.parametrize(
        ("written", "state"),
        [("drain", "drain"), (" Maintenance", "maintenance"), ("ready", "ready")],
    )
    def test_what_the_label_of_its_node_wants(self, written: str, state: str) -> None:
        marked = node() | {"Spec": {"Labels": {"com.docker.lb.admin_state": written}}}
        snapshot = read(listing([self.HOSTED], [self.TASK], nodes=[marked])).snapshot
        assert snapshot.problems == ()
        assert [each.admin_state for each in snapshot.services[0].endpoints] == [state]

    def test_a_label_of_its_node_that_says_nothing(self) -> None:
        marked = node() | {"Spec": {"Labels": {"com.docker.lb.admin_state": "drian"}}}
        snapshot = read(listing([self.HOSTED], [self.TASK], nodes=[marked])).snapshot
        assert [each.admin_state for each in snapshot.services[0].endpoints] == ["ready"]
        [problem] = snapshot.problems
        assert problem.reason == (
            'runs on node node-1, whose label com.docker.lb.admin_state is "drian": write "ready", '
            '"drain" or "maintenance"; it counts as ready'
        )
        assert problem.remedy == "docker node update --label-rm com.docker.lb.admin_state node-1"
        assert not problem.fatal

    def test_slots(self) -> None:
        tasks = [task(name) | {"Slot": slot} for name, slot in (("t1", 7), ("t2", 2))]
        [found] = read(listing([service()], tasks)).snapshot.services
        assert [each.id for each in found.endpoints] == ["t1", "t2"]
        assert found.numbers() == [7, 2]

    def test_a_port_not_yet_published(self) -> None:
        assert addresses(listing([self.HOSTED], [task(addresses={})])) == []

    def test_a_manager_that_knows_itself_by_no_address(self) -> None:
        manager = node(address="0.0.0.0") | {"ManagerStatus": {"Addr": "192.0.2.9:2377"}}
        found = listing([self.HOSTED], [self.TASK], nodes=[manager])
        assert addresses(found) == ["192.0.2.9:30001"]

    def test_a_udp_port_is_not_it(self) -> None:
        udp = port(80, 5000) | {"Protocol": "udp"}
        found = listing([self.HOSTED], [task(addresses={}, ports=[udp, port(80, 30001)])])
        assert addresses(found) == ["192.0.2.1:30001"]

    @pytest.mark.parametrize(
        ("address", "location", "said"),
        [
            ("127.0.0.1", ProxyLocation(frozenset(), "", "c" * 64), "loopback"),
            ("127.0.0.1", ANYWHERE, None),
            ("", ANYWHERE, "without an address"),
        ],
    )
    def test_an_address_that_leads_nowhere(
        self, address: str, location: ProxyLocation, said: str | None
    ) -> None:
        found = listing([self.HOSTED], [self.TASK], nodes=[node(address=address)])
        reasons = [each.reason for each in read(found, location).snapshot.problems]
        assert len(reasons) == (said is not None)
        assert all(said in reason for reason in reasons if said)

    def test_needs_no_network(self) -> None:
        nowhere = ProxyLocation(frozenset())
        assert addresses(listing([self.HOSTED], [self.TASK]), nowhere) == ["192.0.2.1:30001"]

    def test_an_overlay_that_is_there_anyway_is_better(self) -> None:
        both = service(ports=[port(80, 8080)])
        found = listing([both], [task(ports=[port(80, 30001)])])
        assert addresses(found, ProxyLocation(frozenset({"net-a"}))) == ["10.0.1.1:80"]
        assert addresses(found, ProxyLocation(frozenset())) == ["192.0.2.1:30001"]

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

    def test_is_reached_on_an_overlay_though_published_on_nodes_too(self) -> None:
        both = service(marks=labels(backend_mode="vip"), ports=[port(80, 8080)])
        reading = read(listing([both], [task()]), ProxyLocation(frozenset()))
        assert reading.wanted == {"net-a": {"shop"}}
        [said] = reading.snapshot.problems
        assert "not on its network" in said.reason

    def test_on_no_overlay(self) -> None:
        hosted = service(marks=labels(backend_mode="vip"), networks=[], ports=[port(80, 8080)])
        found = problem(listing([hosted], [task(addresses={}, ports=[port(80, 30001)])]))
        assert "on no overlay" in found.reason
        assert not found.fatal

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
        assert asked(shop) == {"ip_hash": True}
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

    @pytest.mark.parametrize(
        "bad",
        [
            {"ssl_passthrough": "true", "port": "80a"},
            {"ssl_backend": "ture"},
            {"ssl_backend": "true", "port": "80a"},
            {"ssl_only": "true", "port": "80a"},
            {"ssl_only": "ture"},
            {"ssl_onyl": "true"},
            {"sll_only": "true"},
            {"SSL": "on"},
        ],
    )
    def test_is_not_fallen_back_to_when_encryption_is_asked_for(self, bad: dict[str, str]) -> None:
        """It would go in the clear, although nobody wants that any longer."""
        reader = SwarmReader()
        reader.read(listing([service()], [task()]), ANYWHERE)
        secret = updated(service(), service(marks=labels(**bad)))
        assert reader.read(listing([secret], [task()]), ANYWHERE).snapshot.services == ()
        wrong = updated(secret, service(marks=labels(port="80a")))
        assert reader.read(listing([wrong], [task()]), ANYWHERE).snapshot.services == ()

    def test_what_was_passed_through_stays_so(self) -> None:
        """Nothing of it goes in the clear, whatever is wrong now."""
        reader = SwarmReader()
        passed = service(marks=labels(ssl_passthrough="true"))
        reader.read(listing([passed], [task()]), ANYWHERE)
        wrong = updated(passed, service(marks=labels(ssl_passthrough="true", port="80a")))
        for each in (reader, reader, SwarmReader()):
            snapshot = each.read(listing([wrong], [task()]), ANYWHERE).snapshot
            [shop] = snapshot.services
            assert shop.ssl_passthrough
            assert shop.endpoints
            assert [said.fatal for said in snapshot.problems] == [True]

    def test_encryption_that_is_not_asked_for_hinders_nothing(self) -> None:
        bad = updated(service(), service(marks=labels(port="80a", ssl_only="false")))
        assert read(listing([bad], [task()])).snapshot.services != ()

    @pytest.mark.parametrize(
        ("bad", "networks", "label"),
        [
            ({"network": "typo"}, ["net-a"], "network"),
            ({}, ["net-a", "net-b"], "network"),
            ({"network": "a", "backend_mode": "vip"}, ["net-a"], "backend_mode"),
        ],
    )
    def test_labels_that_lead_nowhere_are_not_good(
        self, bad: dict[str, str], networks: list[str], label: str
    ) -> None:
        """Each is well-formed, but none of its endpoints could be reached by it."""
        reader = SwarmReader()
        found = listing([service(marks=labels(network="a"), networks=networks)], [task()])
        reader.read(found, ANYWHERE)
        marks = labels(context_root="/x", **bad)
        wrong = service(marks=marks, networks=networks) | {"Endpoint": {}}
        for _ in range(2):
            snapshot = reader.read(listing([wrong], [task()]), ANYWHERE).snapshot
            [shop] = snapshot.services
            assert [endpoint.address for endpoint in shop.endpoints] == ["10.0.1.1:80"]
            assert shop.context_root == "/"
            [said] = snapshot.problems
            assert (said.label, said.fatal) == (f"com.docker.lb.{label}", True)

    def test_serves_until_a_newly_named_network_is_joined(self) -> None:
        reader = SwarmReader(may_join=lambda _: True)
        both = task(addresses={"net-a": "10.0.1.1", "net-b": "10.0.2.1"})
        own = service("lb", marks={}, networks=["net-a"])

        def step(name: str, *joined: str) -> tuple[Reading, list[str]]:
            shop = service(marks=labels(network=name), networks=["net-a", "net-b"])
            here = ProxyLocation(frozenset(joined), "lb")
            reading = reader.read(listing([shop, own], [both]), here)
            [only] = reading.snapshot.services
            return reading, [endpoint.address for endpoint in only.endpoints]

        assert step("a", "net-a")[1] == ["10.0.1.1:80"]
        reading, found = step("b", "net-a")
        assert found == ["10.0.1.1:80"]
        assert reading.wanted.keys() == {"net-a", "net-b"}
        [said] = reading.snapshot.problems
        assert "is joining" in said.reason
        reading, found = step("b", "net-a", "net-b")
        assert found == ["10.0.2.1:80"]
        assert reading.wanted.keys() == {"net-b"}
        assert reading.snapshot.problems == ()

    def test_is_no_better_if_it_leads_nowhere_itself(self) -> None:
        reader = SwarmReader()
        reader.read(listing([service()], [task()]), ANYWHERE)
        moved = service(marks=labels(network="c"), networks=["net-b", "net-c"])
        [shop] = reader.read(listing([moved], [task()]), ANYWHERE).snapshot.services
        assert shop.endpoints == ()

    def test_a_service_without_labels_has_none(self) -> None:
        reader = SwarmReader()
        for marks in (labels(), {}, labels(port="80a")):
            reading = reader.read(listing([service(marks=marks)], [task()]), ANYWHERE)
        assert reading.snapshot.services == ()


def updated(before: Json, now: Json) -> Json:
    """A service after an update: the engine remembers what it was before."""
    return now | {"PreviousSpec": before["Spec"]}


class TestPlacesGivenUp:
    """A host may be another service's by now."""

    def hosts(self, before: dict[str, str], after: dict[str, str]) -> list[tuple[str, ...]]:
        shop = updated(service(marks=labels(**before)), service(marks=labels(**after)))
        return [each.hosts for each in read(listing([shop], [task()])).snapshot.services]

    def test_a_host_that_is_named_no_longer(self) -> None:
        before = {"hosts": "a.local,b.local"}
        assert self.hosts(before, {"hosts": "B.local.,c.local", "port": "80a"}) == [("b.local",)]
        assert self.hosts(before, {"hosts": "c.local", "port": "80a"}) == []
        assert self.hosts(before, {"hosts": "c.local", "network": "typo"}) == [("c.local",)]

    def test_a_label_that_cannot_be_read_gives_nothing_up(self) -> None:
        before = {"hosts": "a.local"}
        assert self.hosts(before, {"hosts": "b local"}) == [("a.local",)]

    def test_without_the_label_it_is_no_longer_published(self) -> None:
        marks = labels()
        without = {key: marks[key] for key in marks if not key.endswith(".hosts")}
        slip = without | {"com.docker.lb.host": "demo.local"}
        for new, published in ((without, 0), (slip, 1)):
            shop = updated(service(marks=marks), service(marks=new))
            assert len(read(listing([shop], [task()])).snapshot.services) == published

    def test_any_other_host(self) -> None:
        before = {"hosts": "a.local", "default_backend": "true"}
        shop = updated(
            service(marks=labels(**before)), service(marks=labels(hosts="a.local", port="x"))
        )
        [found] = read(listing([shop], [task()])).snapshot.services
        assert not found.default_backend


class TestLastGoodOfTheEngine:
    """In a process that has never seen the good labels."""

    @pytest.mark.parametrize("bad", [{"port": "80a"}, {"network": "typo"}, {"prot": "80"}])
    def test_is_what_the_labels_were_before_the_update(self, bad: dict[str, str]) -> None:
        shop = updated(service(marks=labels(ip_hash="true")), service(marks=labels(**bad)))
        snapshot = read(listing([shop], [task()])).snapshot
        [found] = snapshot.services
        assert asked(found) == {"ip_hash": True}
        assert [endpoint.address for endpoint in found.endpoints] == ["10.0.1.1:80"]
        assert [said.fatal for said in snapshot.problems] == [True]

    @pytest.mark.parametrize("marks", [{}, labels(port="x"), labels(ssl_only="ture")])
    def test_may_be_none(self, marks: dict[str, str]) -> None:
        shop = updated(service(marks=marks), service(marks=labels(port="80a")))
        assert read(listing([shop], [task()])).snapshot.services == ()

    def test_its_network_is_joined(self) -> None:
        """A new proxy is on no network yet."""
        shop = updated(service(), service(marks=labels(port="80a")))
        assert read(listing([shop], [task()]), ProxyLocation(frozenset())).wanted == {
            "net-a": {"shop"}
        }

    def test_good_labels_need_no_other(self) -> None:
        shop = updated(service(marks=labels(ip_hash="true")), service())
        assert asked(spec(listing([shop], [task()]))) == {}

    def test_is_for_its_own_cluster(self) -> None:
        before = service(marks=labels(service_cluster="eu"))
        shop = updated(before, service(marks=labels(service_cluster="eu", port="80a")))
        found = listing([shop], [task()])
        assert SwarmReader("us").read(found, ANYWHERE).snapshot.services == ()
        assert len(SwarmReader("eu").read(found, ANYWHERE).snapshot.services) == 1


class TestOutOfReachOnASharedHost:
    def places(self, *services: Json) -> list[tuple[str, tuple[str, ...], bool]]:
        found = listing(services, [task("t1", "a"), task("t2", "b")])
        specs = read(found, ProxyLocation(frozenset({"net-a"}))).snapshot.services
        return [(each.name, each.hosts, each.default_backend) for each in specs]

    def test_its_policy_is_not_imposed(self) -> None:
        marks = labels(hosts="demo.local,a.local", ip_hash="true", default_backend="true")
        away = service("a", marks, networks=["net-b"])
        assert self.places(away, service("b", labels(default_backend="true"))) == [
            ("a", ("a.local",), False),
            ("b", ("demo.local",), True),
        ]

    def test_another_context_root_is_another_place(self) -> None:
        away = service("a", labels(context_root="/a"), networks=["net-b"])
        assert self.places(away, service("b"))[0] == ("a", ("demo.local",), False)


class TestTraps:
    OWN: Json = service("lb", marks={}, networks=["net-a"], ports=[port(80, 80, "ingress")])

    def test_ip_hash_behind_the_mesh(self) -> None:
        here = ProxyLocation(frozenset({"net-a"}), "lb")
        found = problem(listing([service(marks=labels(ip_hash="true")), self.OWN], [task()]), here)
        assert found.label == "com.docker.lb.ip_hash"
        assert found.remedy == (
            "docker service update --publish-rm 80 "
            "--publish-add mode=host,published=80,target=80 lb"
        )

    def test_host_mode_is_fine(self) -> None:
        own = service("lb", marks={}, ports=[port(80, 80)])
        here = ProxyLocation(frozenset({"net-a"}), "lb")
        spec(listing([service(marks=labels(ip_hash="true")), own], [task()]), here)

    def test_a_proxy_service_that_is_none(self) -> None:
        found = problem(listing([service()], [task()]), ProxyLocation(service="proxi"))
        assert found.service == "proxi"
        assert "proxy_service" in found.reason

    def test_labels_on_containers(self) -> None:
        lost = service(marks={})
        lost["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"] = labels()
        assert "is set on the containers" in problem(listing([lost], [task()])).reason

    def test_near_misses_beside_labels_that_are_right(self) -> None:
        marks = labels() | {"com.docker.1b.sticky_session_cookie": "session"}
        lost = service(marks=marks)
        on_containers = marks | {"com.docker.lb.ip_hash": "true"}
        lost["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"] = on_containers
        snapshot = read(listing([lost], [task()])).snapshot
        assert [each.label for each in snapshot.problems] == [
            "com.docker.1b.sticky_session_cookie",
            "com.docker.lb.ip_hash",
        ]
        assert len(snapshot.services) == 1


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

    @given(junk=JSON)
    def test_by_being_none(self, junk: Any) -> None:
        self.check({"ID": "bad", "Spec": junk})

    def check(self, bad: Json) -> None:
        alone = read(listing([self.GOOD], [task(of="good")])).snapshot
        tasks = [task(of="good"), task("t2", "bad")]
        snapshot = read(listing([bad, self.GOOD], tasks)).snapshot
        others = tuple(each for each in snapshot.services if each.name != "bad")
        assert replace(snapshot, services=others, problems=()) == alone
        assert {said.service for said in snapshot.problems} <= {"bad"}
