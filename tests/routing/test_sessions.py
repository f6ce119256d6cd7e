"""routing/sessions.py and ``CountingBalancer``: how many sessions an endpoint still has."""

from __future__ import annotations

import pickle

import pytest

from stickyproxy.routing.balancers.cookie import CookieBalancer, CookiePolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.draining import CountingBalancer, build, session_key
from stickyproxy.routing.endpoint import Facts
from stickyproxy.routing.sessions import Remains, Sessions, merged
from tests.routing.balancers import FakeRequest, endpoint

COOKIE = CookiePolicy(b"session", b"/", RoundRobinPolicy())


def seen(count: int, *, first: int = 0, now: float = 1000.0) -> Sessions:
    sessions = Sessions(began=now)
    for number in range(first, first + count):
        sessions.see(b"%d" % number, now)
    return sessions


class TestSessions:
    @pytest.mark.parametrize("count", [0, 1, 2, 10, 100, 1000, 2000, 8000])
    def test_the_error_that_is_stated(self, count: int) -> None:
        """Within three standard errors: keys are fixed, so it is always the same."""
        error = 0.15 if count > 2000 else 0.06
        assert seen(count).count(60, 1000.0) == pytest.approx(count, rel=error)

    def test_too_many(self) -> None:
        assert seen(100_000).count(60, 1000.0) == 17035

    def test_those_that_are_over(self) -> None:
        sessions = Sessions(began=1000.0)
        sessions.see(b"a", 1000.0)
        sessions.see(b"b", 1050.0)
        sessions.see(b"b", 1055.0)
        assert [sessions.count(60, now) for now in (1055.0, 1062.0, 1200.0)] == [2, 1, 0]

    @pytest.mark.parametrize("seen_at", [1000.0, 1000.3, 1000.999])
    def test_there_are_none_once_it_was_quiet_for_so_long(self, seen_at: float) -> None:
        sessions = Sessions(began=900.0)
        sessions.see(b"a", seen_at)
        for now in (1001.9, 1002.0, 1002.1, 1003.0):
            assert (sessions.quiet(now) >= 2) is (sessions.count(2, now) == 0)

    def test_quiet_since_the_last_request_or_the_beginning(self) -> None:
        sessions = Sessions(began=1000.0)
        assert sessions.quiet(1007.5) == 7.5
        sessions.see(b"a", 1010.0)
        assert sessions.quiet(1010.0) == 0
        assert sessions.quiet(1030.0) == 20

    def test_of_several_processes(self) -> None:
        one = Remains(seen(50), 1)
        other = Remains(seen(50, first=25), 2)
        other.sessions.began = 1003.0
        both = merged([one, pickle.loads(pickle.dumps(other))])
        assert both.sessions.count(60, 1000.0) == seen(75).count(60, 1000.0)
        assert both.busy == 3
        assert both.sessions.quiet(1010.0) == 7, "the one that began last knows nothing before"


class TestCountingBalancer:
    def test_only_who_is_sent_there(self) -> None:
        a, b = endpoint("a"), endpoint("b")
        a.note(Facts(asked_to_drain=True))
        balancer = build(COOKIE, (a, b), None)
        assert isinstance(balancer, CountingBalancer)
        assert balancer.strips == {b"session", b"session_lb"}
        assert a.sessions is not None
        for request in (FakeRequest(), FakeRequest({b"session": [b.pin]})):
            assert balancer.pick(request, ()) is not None
        assert a.sessions.count(60, a.sessions.began) == 0
        for number in range(10):
            app_value, pinned = [b"user %d" % number], [a.pin]
            balancer.pick(FakeRequest({b"session": app_value, b"session_lb": pinned}), ())
        assert a.sessions.count(60, a.sessions.began) == 10

    def test_it_costs_nothing_otherwise(self) -> None:
        a, b = endpoint("a"), endpoint("b")
        a.note(Facts(asked_to_drain=True))
        first = build(COOKIE, (a, b), None)
        assert isinstance(first, CountingBalancer)
        a.note(Facts())
        assert a.sessions is None
        second = build(COOKIE, (a, b), first)
        assert isinstance(second, CookieBalancer)
        assert {pick.endpoint for _ in range(9) if (pick := second.pick(FakeRequest(), ()))} == {
            a,
            b,
        }

    def test_counting_goes_on_while_other_facts_change(self) -> None:
        a = endpoint("a")
        a.note(Facts(asked_to_drain=True))
        before = a.sessions
        a.note(Facts(asked_to_drain=True, ejected=True))
        a.note(Facts(in_maintenance=True))
        assert a.sessions is before is not None


class TestSessionKey:
    def test_the_cookie_of_the_application(self) -> None:
        request = FakeRequest({b"session": [b"abc"], b"session_lb": [endpoint("a").pin]})
        assert session_key(request, [b"session", b"session_lb"]) == b"abc"

    @pytest.mark.parametrize("value", [endpoint("a").pin, b"", b'""'])
    def test_else_address_and_browser(self, value: bytes) -> None:
        request = FakeRequest({b"session": [value]}, {"user-agent": b"curl"})
        assert session_key(request, [b"session"]) == b"192.0.2.1 curl"
        assert session_key(FakeRequest(), []) == b"192.0.2.1 "
