"""providers/swarm/custodian.py: which secrets are mounted, where, and when they are let go."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from stickyproxy.providers.swarm.connectors import RETRY, SETTLE, STACK, CompanionChange
from stickyproxy.providers.swarm.custodian import (
    CUSTODIAN_REVISION,
    NAME,
    CustodianPlanner,
    custodian_of,
    custodian_spec,
    mounted,
)
from stickyproxy.providers.swarm.state import CUSTODIAN_PROXY, Json, ProxyLocation
from tests.swarm_dicts import listing, service

HERE = ProxyLocation(service="proxy", host="proxy", container="c")
A = {"id-a": "a"}
AB = A | {"id-b": "b"}


def proxy(name: str = "proxy", stack: str = "lb") -> Json:
    made = service(name, {STACK: stack})
    template = made["Spec"]["TaskTemplate"]
    template["ContainerSpec"] = {
        "Image": "sp:1",
        "User": "0:0",
        "Args": ["serve"],
        "Secrets": [{"SecretID": "token"}],
        "Mounts": [{"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/x"}],
    }
    template["Placement"] = {"Constraints": ["node.role == manager"]}
    return made


def as_listed(spec: Json, version: int = 1) -> Json:
    return {"ID": "id-custodian", "Version": {"Index": version}, "Spec": copy.deepcopy(spec)}


class Planned:
    """A planner, and the services that there are; what it decides is done."""

    def __init__(self, *services: Json, location: ProxyLocation = HERE) -> None:
        self.planner = CustodianPlanner()
        self.services = list(services or [proxy()])
        self.location = location
        self.now = 100.0

    def plan(self, secrets: Mapping[str, str], *, unread: bool = False) -> CompanionChange | None:
        state = listing(self.services)
        return self.planner.plan(state, self.location, secrets, self.now, unread=unread)

    def do(self, change: CompanionChange | None) -> None:
        assert change is not None
        gone = {each["ID"] for each in change.remove} | {each.service for each in change.update}
        self.services = [each for each in self.services if each["ID"] not in gone]
        self.services += [as_listed(spec) for spec in change.create]
        self.services += [as_listed(each.spec, each.version + 1) for each in change.update]

    @property
    def has(self) -> dict[str, str]:
        there = custodian_of(listing(self.services), self.location)
        return {} if there is None else mounted(there)


class TestSpec:
    def test_it_has_the_secrets_and_nothing_else(self) -> None:
        spec = custodian_spec(proxy(), AB)
        container = spec["TaskTemplate"]["ContainerSpec"]
        assert container["Args"] == ["custodian"]
        assert (container["Image"], container["User"]) == ("sp:1", "0:0")
        assert (container["ReadOnly"], container["CapabilityDrop"]) == (True, ["ALL"])
        assert "Mounts" not in container
        assert [each["File"]["Name"] for each in container["Secrets"]] == ["id-a", "id-b"]
        assert "Ports" not in spec["EndpointSpec"]
        assert spec["Mode"] == {"Global": {}}
        assert spec["TaskTemplate"]["Placement"] == {"Constraints": ["node.role == manager"]}
        assert spec["Labels"][STACK] == "lb", "docker stack rm takes it along"

    def test_it_is_on_every_manager_if_this_process_is_in_no_service(self) -> None:
        owner = proxy()
        owner["Spec"]["TaskTemplate"]["Placement"] = {"Constraints": ["node.role == worker"]}
        plan = Planned(owner, location=ProxyLocation(service="proxy")).plan(A)
        assert plan is not None
        [spec] = plan.create
        assert spec["TaskTemplate"]["Placement"] == {"Constraints": ["node.role==manager"]}

    def test_a_controller_has_its_own_image(self) -> None:
        controller = proxy("controller")
        controller["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = "sp:2"
        location = ProxyLocation(service="proxy", host="controller")
        plan = Planned(proxy(), controller, location=location).plan(A)
        assert plan is not None
        [spec] = plan.create
        assert spec["TaskTemplate"]["ContainerSpec"]["Image"] == "sp:2"
        assert spec["Labels"][CUSTODIAN_PROXY] == "controller"


class TestPlanning:
    def test_its_life(self) -> None:
        planned = Planned()
        assert planned.plan({}) is None
        change = planned.plan(A, unread=True)
        assert str(change) == f"creating custodian {NAME}"
        planned.do(change)
        assert planned.plan(A) is None
        change = planned.plan(AB, unread=True)
        assert str(change) == f"updating custodian {NAME}"
        planned.do(change)
        assert planned.has == AB
        planned.do(planned.plan(A))
        assert planned.has == A, "so that b can be removed"
        change = planned.plan({})
        assert str(change) == f"removing custodian {NAME}"
        planned.do(change)
        assert planned.services == [proxy()]
        assert planned.plan({}) is None

    def test_nothing_is_taken_away_while_something_is_unread(self) -> None:
        """Another provider may have read it, and one that has not would take it back."""
        planned = Planned()
        planned.do(planned.plan(A))
        planned.do(planned.plan({"id-b": "b"}, unread=True))
        assert planned.has == AB
        assert planned.plan({"id-b": "b"}, unread=True) is None
        planned.do(planned.plan({"id-b": "b"}))
        assert planned.has == {"id-b": "b"}

    def test_two_providers_agree(self) -> None:
        """Whatever they have read."""
        first = Planned()
        first.do(first.plan(A, unread=True))
        second = Planned(*first.services)
        assert second.plan(A, unread=True) is None
        assert second.plan(A) is None

    def test_what_is_refused_is_tried_again_later_and_said(self) -> None:
        planned = Planned()
        assert planned.plan(A)
        planned.planner.failed("service create: forbidden")
        [problem] = planned.planner.problems("proxy")
        assert problem.fatal
        assert problem.reason.endswith("cannot be changed: service create: forbidden")
        assert planned.plan(A) is None
        planned.now += RETRY[0]
        assert planned.plan(A)
        assert planned.plan(AB), "something else is tried at once"
        planned.do(planned.plan({}) or CompanionChange(create=(custodian_spec(proxy(), A),)))
        assert planned.plan(A) is None
        assert planned.planner.problems("proxy") == ()

    def test_that_another_one_was_faster_is_no_failure(self) -> None:
        planned = Planned()
        assert planned.plan(A)
        planned.planner.failed("rpc error: name conflicts with an existing object: service")
        assert planned.planner.problems("proxy") == ()

    def test_it_goes_with_its_stack(self) -> None:
        """docker stack rm removes one service after the other."""
        planned = Planned()
        planned.do(planned.plan(A))
        assert planned.plan(A) is None
        planned.services = [proxy()]
        assert planned.plan(A) is None
        planned.now += SETTLE
        assert planned.plan(A)

    def test_one_whose_owner_is_gone_is_removed(self) -> None:
        orphan = as_listed(custodian_spec(proxy("old"), A))
        planned = Planned(proxy(), orphan)
        change = planned.plan({})
        assert change is not None
        assert change.remove == (orphan,)

    def test_a_newer_proxys_is_left_alone(self) -> None:
        newer = as_listed(custodian_spec(proxy(), A))
        newer["Spec"]["Labels"][CUSTODIAN_REVISION] = "99"
        assert Planned(proxy(), newer).plan(AB) is None

    def test_it_lives_on_when_its_owner_gets_another_image(self) -> None:
        planned = Planned()
        planned.do(planned.plan(A))
        planned.services[0]["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = "sp:2"
        assert planned.plan(A) is None

    def test_a_name_that_is_taken(self) -> None:
        planned = Planned(proxy(), service(NAME, {}))
        change = planned.plan(A)
        assert change is not None
        [spec] = change.create
        assert spec["Name"].startswith(f"{NAME}-")

    def test_without_a_service_it_is_said_what_to_do(self) -> None:
        planned = Planned(proxy(), location=ProxyLocation())
        assert planned.plan(A) is None
        [problem] = planned.planner.problems("")
        assert problem.fatal
        assert "set proxy_service" in problem.reason
        assert planned.plan({}) is None
        assert planned.planner.problems("") == ()
