from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.routing.balancers.ip_hash import IpHashPolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinBalancer, RoundRobinPolicy
from stickyproxy.routing.endpoint import Affinity, Members
from tests.routing.balancers import NOTHING, chosen, endpoint, endpoints, issued, usable

FIVE = endpoints(5)


def build(members: Members, previous: RoundRobinBalancer | None = None) -> RoundRobinBalancer:
    return RoundRobinPolicy().build(members, previous)


def test_everybody_has_a_turn_before_anybody_has_a_second() -> None:
    balancer = build(usable(*FIVE))
    turns = [chosen(balancer.pick(NOTHING, ())) for _ in range(15)]
    assert set(turns[:5]) == set(FIVE)
    assert turns[5:10] == turns[:5] == turns[10:]


def test_workers_do_not_all_start_with_the_same() -> None:
    starts = Counter(chosen(build(usable(*FIVE)).pick(NOTHING, ())) for _ in range(200))
    assert len(starts) == 5


def test_no_affinity_and_no_cookie() -> None:
    pick = build(usable(*FIVE)).pick(NOTHING, ())
    assert pick is not None
    assert pick.affinity is Affinity.NONE
    assert issued(pick, b"session=abc") == []
    assert build(usable(*FIVE)).strips == frozenset()


@given(st.sets(st.sampled_from(FIVE)))
def test_tried_endpoints_are_skipped(tried: set[object]) -> None:
    balancer = build(usable(*FIVE))
    failed = [e for e in FIVE if e in tried]
    rest = set(FIVE) - set(failed)
    turns = [balancer.pick(NOTHING, failed) for _ in range(5)]
    assert {pick.endpoint for pick in turns if pick is not None} == rest
    assert (None in turns) == (not rest)


def test_the_turns_go_on_after_a_rebuild() -> None:
    balancer = build(usable(*FIVE))
    turns = []
    for _ in range(10):
        balancer = build(usable(*FIVE), balancer)
        turns.append(chosen(balancer.pick(NOTHING, ())))
    assert Counter(turns) == dict.fromkeys(FIVE, 2)


def test_fewer_endpoints_than_before() -> None:
    balancer = build(usable(*FIVE))
    for _ in range(4):
        balancer.pick(NOTHING, ())
    balancer = build(usable(FIVE[0]), balancer)
    assert balancer.pick(NOTHING, ()) is not None
    balancer = build(usable(), balancer)
    assert balancer.pick(NOTHING, ()) is None
    assert build(usable(*FIVE), balancer).pick(NOTHING, ()) is not None


def test_after_another_policy() -> None:
    other = IpHashPolicy().build(usable(*FIVE), None)
    assert RoundRobinPolicy().build(usable(*FIVE), other).pick(NOTHING, ()) is not None


def test_draining_endpoints_only_serve_when_nobody_else_can() -> None:
    leaving, down = endpoint("leaving"), endpoint("down")
    balancer = build(Members(usable=FIVE, draining=(leaving,), down=(down,)))
    assert {chosen(balancer.pick(NOTHING, ())) for _ in range(20)} == set(FIVE)
    balancer = build(Members(draining=(leaving,), down=(down,)))
    assert chosen(balancer.pick(NOTHING, ())) is leaving
    assert build(Members(down=(down,))).pick(NOTHING, ()) is None


def test_description() -> None:
    assert RoundRobinPolicy().describe() == "round robin"
    assert repr(build(usable(*FIVE))) == "<RoundRobinBalancer over 5>"
