from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest

from stickyproxy.base.hashing import SlotTable
from stickyproxy.routing.balancers.consistent_hash import (
    ConsistentHashBalancer,
    ConsistentHashPolicy,
    CookieKey,
    HeaderKey,
    Key,
    QueryKey,
    SourceKey,
)
from stickyproxy.routing.balancers.ip_hash import IpHashPolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.endpoint import Affinity, Members, Pick
from tests.routing.balancers import (
    NOTHING,
    Browser,
    FakeRequest,
    chosen,
    endpoint,
    endpoints,
    issued,
    usable,
)

FIVE = endpoints(5)
USERS = [b"user-%d" % number for number in range(500)]

HEADER = HeaderKey("x-user")
QUERY = QueryKey(b"user")
COOKIE = CookieKey(b"user")
GENERATED = CookieKey(b"user", ttl=3600, path=b"/app")


def policy(key: Key) -> ConsistentHashPolicy:
    return ConsistentHashPolicy(key, fallback=RoundRobinPolicy())


def build(
    key: Key, members: Members, previous: ConsistentHashBalancer | None = None
) -> ConsistentHashBalancer:
    return policy(key).build(members, previous)


def with_header(user: bytes) -> FakeRequest:
    return FakeRequest(headers={"x-user": user})


def with_cookie(*users: bytes) -> FakeRequest:
    return FakeRequest(sent={b"user": users})


def with_query(user: bytes) -> FakeRequest:
    return FakeRequest(parameters={b"user": user})


KINDS: list[tuple[Key, Callable[[bytes], FakeRequest]]] = [
    (HEADER, with_header),
    (COOKIE, with_cookie),
    (GENERATED, with_cookie),
    (QUERY, with_query),
]


@pytest.mark.parametrize(("key", "request_of"), KINDS)
class TestKey:
    def test_decides(self, key: Key, request_of: Callable[[bytes], FakeRequest]) -> None:
        table = SlotTable(FIVE)
        balancer = build(key, usable(*FIVE))
        for user in USERS:
            pick = balancer.pick(request_of(user), ())
            assert pick == Pick(chosen(pick), Affinity.HASHED)
            assert chosen(pick) is table.owner(user)
            assert issued(pick, b"a=b") == []

    def test_second_choice(self, key: Key, request_of: Callable[[bytes], FakeRequest]) -> None:
        balancer = build(key, usable(*FIVE))
        for user in USERS[:50]:
            first = chosen(balancer.pick(request_of(user), ()))
            second = chosen(balancer.pick(request_of(user), (first,)))
            rest = build(key, usable(*(e for e in FIVE if e is not first)))
            assert second is chosen(rest.pick(request_of(user), ()))
            assert balancer.pick(request_of(user), FIVE) is None


@pytest.mark.parametrize("key", [HEADER, QUERY, COOKIE])
@pytest.mark.parametrize(
    "request_", [NOTHING, with_header(b""), with_query(b""), with_cookie(b""), with_cookie(b'""')]
)
def test_no_key_means_round_robin(key: Key, request_: FakeRequest) -> None:
    balancer = build(key, usable(*FIVE))
    picks = [balancer.pick(request_, ()) for _ in range(5)]
    assert {chosen(pick) for pick in picks} == set(FIVE)
    assert {pick.affinity for pick in picks if pick is not None} == {Affinity.NONE}
    assert balancer.pick(request_, FIVE) is None


def test_source_address_is_hashed_like_ip_hash() -> None:
    balancer = build(SourceKey(), usable(*FIVE))
    ip_hash = IpHashPolicy().build(usable(*FIVE), None)
    for address in ("192.0.2.1", "::ffff:192.0.2.9", "2001:db8::1", "fe80::1%eth0", "what"):
        request = FakeRequest(client_address=address)
        assert chosen(balancer.pick(request, ())) is chosen(ip_hash.pick(request, ()))


class TestCookie:
    def test_the_first_value_counts(self) -> None:
        balancer = build(COOKIE, usable(*FIVE))
        for first, second in pairwise(USERS):
            pick = balancer.pick(with_cookie(first, second), ())
            assert chosen(pick) is chosen(balancer.pick(with_cookie(first), ()))

    def test_quotes_do_not_count(self) -> None:
        balancer = build(COOKIE, usable(*FIVE))
        for user in USERS:
            pick = balancer.pick(with_cookie(b'"' + user + b'"'), ())
            assert chosen(pick) is chosen(balancer.pick(with_cookie(user), ()))

    def test_never_generated_without_a_ttl(self) -> None:
        assert issued(build(COOKIE, usable(*FIVE)).pick(NOTHING, ())) == []


class TestGeneratedCookie:
    @pytest.mark.parametrize(
        ("ttl", "path", "pattern"),
        [
            (3600, b"/app", rb'user="[0-9a-f]{16}"; Max-Age=3600; Path=/app; HttpOnly'),
            (3600, None, rb'user="[0-9a-f]{16}"; Max-Age=3600; HttpOnly'),
            (0, b"/", rb'user="[0-9a-f]{16}"; Path=/; HttpOnly'),
            (0, None, rb'user="[0-9a-f]{16}"; HttpOnly'),
        ],
    )
    def test_form(self, ttl: float, path: bytes | None, pattern: bytes) -> None:
        pick = build(CookieKey(b"user", ttl, path), usable(*FIVE)).pick(NOTHING, ())
        (cookie,) = issued(pick)
        assert re.fullmatch(pattern, cookie)

    @pytest.mark.parametrize("sent", [(), (b"",), (b'""',)])
    def test_a_new_session(self, sent: tuple[bytes, ...]) -> None:
        """An empty value is no value, as for Envoy."""
        pick = build(GENERATED, usable(*FIVE)).pick(with_cookie(*sent), ())
        assert pick is not None
        assert pick.affinity is Affinity.NEW
        assert len(issued(pick)) == 1

    def test_new_sessions_are_spread(self) -> None:
        balancer = build(GENERATED, usable(*FIVE))
        assert {chosen(balancer.pick(NOTHING, ())) for _ in range(200)} == set(FIVE)

    def test_first_and_second_request_agree(self) -> None:
        balancer = build(GENERATED, usable(*FIVE))
        for _ in range(200):
            browser = Browser()
            assert browser.visit(balancer) is browser.visit(balancer)
            assert len(browser.jar) == 1

    @pytest.mark.parametrize("failed", [1, 4])
    def test_first_and_second_request_agree_after_a_failed_try(self, failed: int) -> None:
        balancer = build(GENERATED, usable(*FIVE))
        for _ in range(100):
            browser = Browser()
            answered = browser.visit(balancer, tried=FIVE[:failed])
            assert answered not in FIVE[:failed]
            assert browser.visit(balancer) is answered

    def test_nearly_all_tried(self) -> None:
        """The last one is found, and nothing else is answered when it was tried as well."""
        many = endpoints(99)
        balancer = build(GENERATED, usable(*many))
        browser = Browser()
        assert browser.visit(balancer, tried=many[1:]) is many[0]
        assert browser.visit(balancer) is many[0]
        assert balancer.pick(NOTHING, many) is None

    def test_it_is_issued_even_if_the_app_sets_one_of_that_name(self) -> None:
        """As with Istio: else the client's next request would be hashed by another value."""
        pick = build(GENERATED, usable(*FIVE)).pick(NOTHING, ())
        assert issued(pick, b"user=app; Path=/") == issued(pick)

    def test_no_members(self) -> None:
        assert build(GENERATED, usable()).pick(NOTHING, ()) is None


class TestRebuild:
    def test_a_joiner_takes_keys_and_a_leaver_loses_its_own(self) -> None:
        four = build(HEADER, usable(*FIVE[:4]))
        before = {user: chosen(four.pick(with_header(user), ())) for user in USERS}
        five = build(HEADER, usable(*FIVE), four)
        for user in USERS:
            assert chosen(five.pick(with_header(user), ())) in (before[user], FIVE[4])
        again = build(HEADER, usable(*FIVE[:4]), five)
        assert before == {user: chosen(again.pick(with_header(user), ())) for user in USERS}

    def test_the_fallback_goes_on_where_it_stopped(self) -> None:
        balancer = build(HEADER, usable(*FIVE))
        turns = []
        for _ in range(5):
            balancer = build(HEADER, usable(*FIVE), balancer)
            turns.append(chosen(balancer.pick(NOTHING, ())))
        assert set(turns) == set(FIVE)

    def test_draining_endpoints_only_serve_when_nobody_else_can(self) -> None:
        leaving = endpoint("leaving")
        balancer = build(HEADER, Members(usable=FIVE, draining=(leaving,)))
        assert all(chosen(balancer.pick(with_header(user), ())) in FIVE for user in USERS)
        balancer = build(HEADER, Members(draining=(leaving,)), balancer)
        assert chosen(balancer.pick(with_header(b"user"), ())) is leaving
        assert chosen(balancer.pick(NOTHING, ())) is leaving
        assert build(HEADER, Members(), balancer).pick(with_header(b"user"), ()) is None


@pytest.mark.parametrize(
    ("key", "description"),
    [
        (HEADER, "hash of header x-user"),
        (COOKIE, "hash of cookie user"),
        (QUERY, "hash of query user"),
        (SourceKey(), "hash of source address"),
    ],
)
def test_description(key: Key, description: str) -> None:
    assert policy(key).describe() == description
    assert build(key, usable(*FIVE)).strips == frozenset()
    assert "over 5" in repr(build(key, usable(*FIVE)))
