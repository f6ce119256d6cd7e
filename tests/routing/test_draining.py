"""routing/draining.py: who gets a request while endpoints are being stopped."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from stickyproxy.model.service import Drain
from stickyproxy.routing.balancers.consistent_hash import ConsistentHashPolicy, SourceKey
from stickyproxy.routing.balancers.cookie import CookieBalancer, CookiePolicy
from stickyproxy.routing.balancers.ip_hash import IpHashPolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.draining import SparingBalancer, build
from stickyproxy.routing.endpoint import Affinity, Balancer, Endpoint, Facts
from stickyproxy.routing.policy import Policy
from tests.routing.balancers import FakeRequest, chosen, endpoint, issued

COOKIE = CookiePolicy(b"session", b"/", RoundRobinPolicy())
POLICIES: list[Policy] = [
    COOKIE,
    RoundRobinPolicy(),
    IpHashPolicy(),
    ConsistentHashPolicy(SourceKey(), RoundRobinPolicy()),
]
ways = pytest.mark.parametrize("drain", ["none", "safe", "sticky"])
policies = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.kind)


def three(drain: Drain = "none") -> tuple[Endpoint, Endpoint, Endpoint]:
    """The first one is being stopped."""
    found = endpoint("a"), endpoint("b"), endpoint("c")
    for each in found:
        each.drain = drain
    found[0].note(Facts(draining=True))
    return found


def pinned_to(one: Endpoint, *, idempotent: bool = True, name: bytes = b"session") -> FakeRequest:
    return FakeRequest({name: [one.pin]}, idempotent=idempotent)


def picked(
    balancer: Balancer, request: FakeRequest, tried: Collection[Endpoint] = ()
) -> tuple[Endpoint, Affinity]:
    pick = balancer.pick(request, tried)
    assert pick is not None
    return pick.endpoint, pick.affinity


class TestSessions:
    @pytest.mark.parametrize("name", [b"session", b"session_lb"])
    @pytest.mark.parametrize("idempotent", [True, False])
    @ways
    def test_of_a_stopping_endpoint(self, drain: Drain, idempotent: bool, name: bytes) -> None:
        a, b, c = three(drain)
        balancer = build(COOKIE, (a, b, c), None)
        pick = balancer.pick(request := pinned_to(a, idempotent=idempotent, name=name), ())
        assert pick is not None
        if drain == "sticky" or (drain == "safe" and idempotent):
            assert (pick.endpoint, pick.affinity) == (a, Affinity.PINNED)
            assert issued(pick) == []
        else:
            assert pick.endpoint in (b, c)
            assert pick.affinity is Affinity.REPINNED_DRAINING
            [cookie] = issued(pick)
            assert cookie.startswith(name + b"=" + pick.endpoint.pin)
        assert chosen(balancer.pick(request, (b, c))) is a

    @pytest.mark.parametrize("idempotent", [True, False])
    @ways
    def test_turns_go_on_when_it_is_built_again(self, drain: Drain, idempotent: bool) -> None:
        endpoints = (*three(drain), *[endpoint(f"d{number}") for number in range(100)])
        new = FakeRequest(idempotent=idempotent)
        balancer = build(COOKIE, endpoints, None)
        taken = []
        for _ in range(102):
            taken.append(chosen(balancer.pick(new, ())))
            balancer = build(COOKIE, endpoints, balancer)
        assert len(set(taken)) == 102

    @ways
    def test_of_others_stay(self, drain: Drain) -> None:
        a, b, c = three(drain)
        balancer = build(COOKIE, (a, b, c), None)
        for idempotent in (True, False):
            request = pinned_to(b, idempotent=idempotent)
            assert picked(balancer, request) == (b, Affinity.PINNED)

    def test_a_value_of_the_application_moves_once(self) -> None:
        before = endpoint("a"), endpoint("b"), endpoint("c")
        first = build(COOKIE, before, None)
        requests = [FakeRequest({b"session": [b"%d" % n]}) for n in range(200)]
        owners = [chosen(first.pick(request, ())) for request in requests]
        before[0].note(Facts(draining=True))
        second = build(COOKIE, before, first)
        for request, owner in zip(requests, owners, strict=True):
            now = chosen(second.pick(request, ()))
            assert now is owner if owner is not before[0] else now is not before[0]


class TestNewOnes:
    @policies
    @ways
    def test_go_to_who_stays(self, policy: Policy, drain: Drain) -> None:
        a, b, c = three(drain)
        balancer = build(policy, (a, b, c), None)
        addresses = [f"10.0.0.{n}" for n in range(50)]
        for idempotent in (True, False):
            requests = [FakeRequest(client_address=x, idempotent=idempotent) for x in addresses]
            assert {chosen(balancer.pick(request, ())) for request in requests} == {b, c}

    @policies
    @pytest.mark.parametrize("drain", ["none", "safe"])
    def test_go_to_who_stops_when_all_others_were_tried(self, policy: Policy, drain: Drain) -> None:
        a, b, c = three(drain)
        balancer = build(policy, (a, b, c), None)
        assert chosen(balancer.pick(FakeRequest(), (b, c))) is a
        assert balancer.pick(FakeRequest(), (a, b, c)) is None

    @policies
    @ways
    def test_go_to_who_stops_if_nobody_stays(self, policy: Policy, drain: Drain) -> None:
        a, b, c = three(drain)
        b.note(Facts(draining=True))
        c.note(Facts(ejected=True))
        balancer = build(policy, (a, b, c), None)
        assert not isinstance(balancer, SparingBalancer)
        assert {chosen(balancer.pick(FakeRequest(), ())), a, b} == {a, b}

    def test_and_sessions_stay_if_nobody_stays(self) -> None:
        a, b, c = three()
        for each in (b, c):
            each.note(Facts(draining=True))
        balancer = build(COOKIE, (a, b, c), None)
        assert picked(balancer, pinned_to(a, idempotent=False)) == (a, Affinity.PINNED)


class TestBalancers:
    @policies
    @ways
    def test_nothing_is_paid_when_nobody_drains(self, policy: Policy, drain: Drain) -> None:
        a, b, c = three(drain)
        during = build(policy, (a, b, c), None)
        a.note(Facts())
        after = build(policy, (a, b, c), during)
        assert type(after) is type(build(policy, (b, c), None))
        assert after.strips == during.strips

    def test_the_slot_table_is_taken_over(self) -> None:
        a, b, c = three()
        a.note(Facts())
        before = build(COOKIE, (a, b, c), None)
        a.note(Facts(draining=True))
        during = build(COOKIE, (a, b, c), before)
        assert repr(during) == "<SparingBalancer, <CookieBalancer session, 2 pins>>"
        after = build(COOKIE, (b, c), during)
        assert isinstance(after, CookieBalancer)

    def test_each_service_has_its_own_way(self) -> None:
        a, b, c = three()
        b.drain = "sticky"
        b.note(Facts(draining=True))
        balancer = build(COOKIE, (a, b, c), None)
        assert picked(balancer, pinned_to(b)) == (b, Affinity.PINNED)
        assert picked(balancer, pinned_to(a)) == (c, Affinity.REPINNED_DRAINING)


class TestDrainingByHand:
    """An operator wants the first of three to be empty."""

    @pytest.mark.parametrize("idempotent", [True, False])
    @ways
    def test_it_keeps_its_sessions_whatever_the_option(
        self, drain: Drain, idempotent: bool
    ) -> None:
        a, b, c = drained_by_hand(drain)
        balancer = build(COOKIE, (a, b, c), None)
        request = pinned_to(a, idempotent=idempotent)
        assert picked(balancer, request) == (a, Affinity.PINNED)
        assert not isinstance(balancer, SparingBalancer)

    @policies
    def test_it_gets_no_new_ones(self, policy: Policy) -> None:
        a, b, c = drained_by_hand()
        balancer = build(policy, (a, b, c), None)
        assert a not in {picked(balancer, FakeRequest())[0] for _ in range(9)}

    @policies
    def test_not_even_if_there_is_no_other(self, policy: Policy) -> None:
        a, _, _ = drained_by_hand()
        assert build(policy, (a,), None).pick(FakeRequest(), ()) is None

    def test_alone_it_keeps_its_sessions(self) -> None:
        a, _, _ = drained_by_hand()
        assert picked(build(COOKIE, (a,), None), pinned_to(a)) == (a, Affinity.PINNED)

    @policies
    def test_rather_one_that_is_ejected(self, policy: Policy) -> None:
        a, b, _ = drained_by_hand()
        b.note(Facts(ejected=True))
        balancer = build(policy, (a, b), None)
        assert picked(balancer, FakeRequest())[0] is b

    @policies
    def test_not_even_if_it_is_ejected_and_there_is_no_other(self, policy: Policy) -> None:
        a, _, _ = drained_by_hand()
        a.note(Facts(asked_to_drain=True, ejected=True))
        assert build(policy, (a,), None).pick(FakeRequest(), ()) is None

    def test_ejected_and_alone_it_keeps_its_sessions(self) -> None:
        a, _, _ = drained_by_hand()
        a.note(Facts(asked_to_drain=True, ejected=True))
        assert picked(build(COOKIE, (a,), None), pinned_to(a)) == (a, Affinity.PINNED)

    def test_rather_one_that_its_provider_stops(self) -> None:
        a, b, _ = drained_by_hand()
        b.note(Facts(draining=True))
        balancer = build(COOKIE, (a, b), None)
        assert picked(balancer, FakeRequest())[0] is b
        assert picked(balancer, pinned_to(a)) == (a, Affinity.PINNED)

    @ways
    def test_its_provider_stops_it_too(self, drain: Drain) -> None:
        """Then there is nothing to wait for."""
        a, b, c = drained_by_hand(drain)
        a.note(Facts(draining=True, asked_to_drain=True))
        found, _ = picked(build(COOKIE, (a, b, c), None), pinned_to(a, idempotent=False))
        assert (found is a) is (drain == "sticky")

    def test_maintenance_moves_its_sessions(self) -> None:
        a, b, c = drained_by_hand()
        a.note(Facts(in_maintenance=True))
        found, affinity = picked(build(COOKIE, (a, b, c), None), pinned_to(a))
        assert found in (b, c)
        assert affinity is Affinity.REPINNED_DOWN


def drained_by_hand(drain: Drain = "none") -> tuple[Endpoint, Endpoint, Endpoint]:
    found = endpoint("a"), endpoint("b"), endpoint("c")
    for each in found:
        each.drain = drain
    found[0].note(Facts(asked_to_drain=True))
    return found
