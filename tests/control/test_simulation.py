"""control/simulation.py: what may be asked, and what is said. What of it comes true is in
``tests/runtime/test_simulate.py``."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest

from stickyproxy.control.questions import Questions, simulation_as_text
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.control.simulation import PlannedChange, changed_services, scaled
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.endpoint import Facts
from stickyproxy.routing.explain import explain
from stickyproxy.routing.table import RoutingTable
from stickyproxy.semantics.forwarded import TrustedProxies
from tests.specs import service_spec


def spec(name: str = "shop", *, draining: str = "", **options: object) -> ServiceSpec:
    """Three endpoints, t1 to t3."""
    endpoints = tuple(
        EndpointSpec(each, f"10.0.0.{each[1]}:80", each == draining) for each in ("t1", "t2", "t3")
    )
    return service_spec(name, (f"{name}.local",), endpoints, **options)


class Shown:
    """Holds a table."""

    def __init__(self, *services: ServiceSpec) -> None:
        self.table = RoutingTable({})
        registry = Registry(self, NoConnections(), None, tells_problems=False)
        registry.publish(Snapshot("static", services))

    @property
    def questions(self) -> Questions:
        """Whom to ask about it."""
        return Questions(lambda: self.table, partial(explain, trusted_proxies=TrustedProxies()))


def ids(service: ServiceSpec) -> list[str]:
    """Of its endpoints."""
    return [each.id for each in service.endpoints]


class TestScaled:
    def test_up(self) -> None:
        assert ids(scaled(spec(), 5)) == ["t1", "t2", "t3", "new-1", "new-2"]

    def test_again(self) -> None:
        assert len(set(ids(scaled(scaled(spec(), 5), 7)))) == 7

    def test_down(self) -> None:
        assert ids(scaled(spec(), 1)) == ["t1"]

    def test_those_that_drain_do_not_count(self) -> None:
        assert ids(scaled(spec(draining="t1"), 3)) == ["t2", "t3", "t1", "new-1"]


class TestChangedServices:
    services: ClassVar = {"shop": spec(), "blog": spec("blog")}

    @pytest.mark.parametrize("asked", ["shop/t2", "blog/t2"])
    def test_an_endpoint_of_one_service(self, asked: str) -> None:
        [(name, left)] = changed_services(self.services, PlannedChange(remove=(asked,))).items()
        assert name == asked[:4]
        assert ids(left) == ["t1", "t3"]

    @pytest.mark.parametrize("asked", ["t2", "10.0.0.2:80"])
    def test_an_endpoint_of_both(self, asked: str) -> None:
        changed = changed_services(self.services, PlannedChange(remove=(asked,)))
        assert [ids(each) for each in changed.values()] == [["t1", "t3"]] * 2

    def test_both_at_once(self) -> None:
        change = PlannedChange({"shop": 3}, ("shop/t1",))
        assert ids(changed_services(self.services, change)["shop"]) == ["t2", "t3", "new-1"]


class TestQuestions:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (None, "a change is an object"),
            ({}, "nothing is to be changed"),
            ({"wieght": {}}, '"wieght" is unknown: write one of scale'),
            ({"weight": {}}, "nothing is to be changed: write scale, remove or weight"),
            ({"weight": [1]}, "weight is not an object"),
            ({"weight": {"t1": 0}}, 'weight of "t1" is 0: write a number from 0.1 to 1'),
            ({"weight": {"t1": "0.5"}}, 'weight of "t1" is "0.5"'),
            ({"weight": {"t9": 0.5}}, 'no endpoint is called "t9"'),
            ({"scale": ["shop"]}, "scale is not an object"),
            ({"scale": {"shop": -1}}, 'scale of "shop" is -1: write a number from 0 to 1000'),
            ({"scale": {"shop": True}}, 'scale of "shop" is true'),
            ({"scale": {"shpo": 1}}, 'no service is called "shpo": write one of these: shop'),
            ({"remove": "t1"}, "remove is not a list of strings"),
            ({"remove": ["t9"]}, 'no endpoint is called "t9"'),
            (
                {"scale": {"shop": 1000}, "sessions": 10_001},
                "for 1000 endpoints write 10000 at most",
            ),
            ({"remove": ["t1"], "sessions": 0}, "sessions is 0: write a number from 1 to 100000"),
        ],
    )
    def test_bad_ones(self, asked: object, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Shown(spec()).questions.simulate(asked)


class TestAnswers:
    def test_new_sessions_where_they_are_spread_in_another_way(self) -> None:
        """Who stays does not show what a weight does, nor what those get that are added."""
        shown = Shown(spec(sticky_session_cookie="session"))
        said = shown.questions.simulate({"weight": {"t3": 0.5}, "sessions": 300})
        lines = simulation_as_text(said).splitlines()
        assert lines[2:] == [
            "  shop/t1 10.0.0.1:80      100 ->     100, of 300 new ones     120",
            "  shop/t2 10.0.0.2:80      100 ->     100, of 300 new ones     120",
            "  shop/t3 10.0.0.3:80      100 ->     100, of 300 new ones      60",
        ]

    def test_as_text(self) -> None:
        shown = Shown(spec(sticky_session_cookie="session"))
        said = shown.questions.simulate({"remove": ["t3"], "sessions": 300})
        head, *rest = simulation_as_text(said).splitlines()
        assert head == "shop: 100 of 300 sessions move (33.3%)"
        assert rest[:4] == [
            "  policy     cookie session, else round robin",
            "  shop/t1 10.0.0.1:80      100 ->     150",
            "  shop/t2 10.0.0.2:80      100 ->     150",
            "  shop/t3 10.0.0.3:80      100 ->       0  removed",
        ]
        assert sorted(rest[4:]) == [
            "         50 move from shop/t3 10.0.0.3:80 to shop/t1 10.0.0.1:80",
            "         50 move from shop/t3 10.0.0.3:80 to shop/t2 10.0.0.2:80",
        ]

    def test_weights_move_nobody(self) -> None:
        shown = Shown(spec(sticky_session_cookie="session"))
        said = shown.questions.simulate({"weight": {"shop/t1": 0.5}, "sessions": 300})
        [row] = said["services"]
        assert (row["moved"], row["moves"]) == (0, [])
        assert [each["after"] for each in row["endpoints"]] == [100, 100, 100]
        assert [each["new"] for each in row["endpoints"]] == [60, 120, 120]
        [cluster] = shown.table.clusters()
        assert {each.tenths for each in cluster.endpoints} == {10}, (
            "nothing that is live is touched"
        )

    def test_without_sessions(self) -> None:
        said = Shown(spec()).questions.simulate({"scale": {"shop": 4}, "sessions": 120})
        assert said["services"][0]["moved"] is None
        assert simulation_as_text(said).splitlines()[:1] == [
            "shop: no sessions that could move, 120 requests"
        ]
        assert [each["after"] for each in said["services"][0]["endpoints"]] == [30] * 4

    def test_only_what_changes_and_what_shares_its_route(self) -> None:
        both = [spec(name, share=True) for name in ("a", "b")]
        both = [ServiceSpec(each.name, ("ab.local",), each.endpoints) for each in both]
        said = Shown(*both, spec("c")).questions.simulate({"scale": {"b": 1}})
        assert [each["service"] for each in said["services"]] == ["a+b"]

    @pytest.mark.parametrize("count", [2, 4])
    def test_a_hash_moves_what_it_must(self, count: int) -> None:
        said = Shown(spec(ip_hash=True)).questions.simulate({"scale": {"shop": count}})
        [row] = said["services"]
        changed = [each for each in row["endpoints"] if each["change"]]
        assert row["moved"] == sum(abs(each["after"] - each["before"]) for each in changed)
        touched = {each["id"] for each in changed}
        assert all(touched & {move["from"]["id"], move["to"]["id"]} for move in row["moves"])

    def test_nothing_that_is_live_is_touched(self) -> None:
        shown = Shown(spec(sticky_session_cookie="session", drain="safe", draining="t2"))
        [cluster] = shown.table.clusters()
        down = cluster.endpoints[0]
        shown.table.note(down, Facts(ejected=True))
        before = (cluster.balancer, cluster.endpoints, [each.facts for each in cluster.endpoints])
        said = shown.questions.simulate({"scale": {"shop": 1}, "sessions": 10})
        after = (cluster.balancer, cluster.endpoints, [each.facts for each in cluster.endpoints])
        assert before == after
        states = {each["id"]: each["state"] for each in said["services"][0]["endpoints"]}
        assert states == {"t1": "down", "t2": "draining", "t3": "usable"}
