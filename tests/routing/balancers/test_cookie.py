"""The rules of affinity by cookie. NAME is ``session`` here, so its companion ``session_lb``."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stickyproxy.base.hashing import SlotTable
from stickyproxy.routing.balancers.cookie import CookieBalancer, CookiePolicy
from stickyproxy.routing.balancers.ip_hash import IpHashPolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.endpoint import Affinity, Endpoint, Members, Pick
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

POLICY = CookiePolicy(b"session", b"/shop", RoundRobinPolicy())

FIVE = endpoints(5)
A, B, C, D, E = FIVE
GONE, DOWN, LEAVING = endpoint("gone"), endpoint("down"), endpoint("leaving")
STOPPING = endpoint("stopping")

LOGIN = b"session=abc; Path=/; Secure"
RENEWAL = b"session=abc; Path=/; Max-Age=3600"
LOGOUT = b"session=; Path=/; Max-Age=0"


def build(members: Members, previous: CookieBalancer | None = None) -> CookieBalancer:
    return POLICY.build(members, previous)


def sending(*, name: tuple[bytes, ...] = (), companion: tuple[bytes, ...] = ()) -> FakeRequest:
    return FakeRequest({b"session": name, b"session_lb": companion})


def picked(balancer: CookieBalancer, request: FakeRequest, *tried: Endpoint) -> Pick:
    pick = balancer.pick(request, tried)
    assert pick is not None
    return pick


def own(name: bytes, to: Endpoint) -> bytes:
    return name + b"=" + to.pin + b"; Path=/shop; HttpOnly; SameSite=Lax"


ALL = Members(usable=FIVE, draining=(LEAVING,), leaving=(STOPPING,), down=(DOWN,))


class TestRule1:
    """Companion cookie NAME_lb holds a pin of a usable endpoint -> that endpoint."""

    balancer = build(ALL)

    @pytest.mark.parametrize("to", [*FIVE, LEAVING])
    def test_decides(self, to: Endpoint) -> None:
        pick = picked(self.balancer, sending(companion=(to.pin,)))
        assert (pick.endpoint, pick.affinity) == (to, Affinity.PINNED)
        assert issued(pick) == []

    @pytest.mark.parametrize("name", [b"the-app's", A.pin, GONE.pin])
    def test_wins_over_name(self, name: bytes) -> None:
        pick = picked(self.balancer, sending(name=(name,), companion=(B.pin,)))
        assert (pick.endpoint, pick.affinity) == (B, Affinity.PINNED)
        assert issued(pick) == []

    @pytest.mark.parametrize("first", [GONE.pin, DOWN.pin, b"", b"junk", b"sp1."])
    def test_the_first_that_resolves_counts(self, first: bytes) -> None:
        pick = picked(self.balancer, sending(companion=(first, B.pin, C.pin)))
        assert pick.endpoint is B
        assert issued(pick) == []

    def test_quoted(self) -> None:
        assert picked(self.balancer, sending(companion=(b'"' + B.pin + b'"',))).endpoint is B

    def test_steady_state_makes_nothing_anew(self) -> None:
        request = sending(name=(b"the-app's",), companion=(B.pin,))
        assert self.balancer.pick(request, ()) is self.balancer.pick(request, ())


class TestRule2:
    """NAME holds a pin of a usable endpoint -> that endpoint; the pin is stripped."""

    balancer = build(ALL)

    @pytest.mark.parametrize("to", [*FIVE, LEAVING])
    def test_decides(self, to: Endpoint) -> None:
        pick = picked(self.balancer, sending(name=(to.pin,)))
        assert (pick.endpoint, pick.affinity) == (to, Affinity.PINNED)
        assert issued(pick) == []

    def test_the_first_that_resolves_counts(self) -> None:
        names = (b"the-app's", GONE.pin, B.pin, C.pin)
        assert picked(self.balancer, sending(name=names)).endpoint is B

    def test_quoted(self) -> None:
        assert picked(self.balancer, sending(name=(b'"' + B.pin + b'"',))).endpoint is B

    def test_both_names_are_stripped_of_pins(self) -> None:
        assert self.balancer.strips == {b"session", b"session_lb"}

    @pytest.mark.parametrize("stale", [GONE.pin, DOWN.pin, b"junk", b""])
    def test_a_stale_companion_is_overwritten(self, stale: bytes) -> None:
        """It is asked first: when its endpoint came back, it would move the session."""
        pick = picked(self.balancer, sending(name=(B.pin,), companion=(stale,)))
        assert (pick.endpoint, pick.affinity) == (B, Affinity.PINNED)
        assert issued(pick) == [own(b"session_lb", B)]

    def test_steady_state_makes_nothing_anew(self) -> None:
        request = sending(name=(B.pin,))
        assert self.balancer.pick(request, ()) is self.balancer.pick(request, ())


def test_an_empty_value_is_no_value() -> None:
    """It would herd strangers onto one endpoint."""
    pick = picked(build(ALL), sending(name=(b"",)))
    assert pick.affinity is Affinity.NEW


class TestRule3:
    """NAME holds anything else (the app's value) -> consistent hash of the value; the companion
    is issued with the response."""

    balancer = build(ALL)

    @pytest.mark.parametrize("value", [b"abc", b'"abc"', b"xsp1.", b"\xff\x00", b"v" * 9000])
    def test_the_value_decides(self, value: bytes) -> None:
        pick = picked(self.balancer, sending(name=(value,)))
        assert pick.endpoint is SlotTable(FIVE).owner(value)
        assert pick.affinity is Affinity.HASHED
        assert issued(pick) == [own(b"session_lb", pick.endpoint)]

    def test_the_first_value_that_is_no_pin_counts(self) -> None:
        pick = picked(self.balancer, sending(name=(GONE.pin, b"abc", b"other")))
        assert pick.endpoint is SlotTable(FIVE).owner(b"abc")

    def test_every_proxy_agrees(self) -> None:
        other = build(usable(*reversed(FIVE[1:])))
        other.pick(sending(name=(b"warm",)), ())
        other = build(usable(*reversed(FIVE)), other)
        for number in range(200):
            request = sending(name=(b"%d" % number,))
            assert picked(other, request).endpoint is picked(self.balancer, request).endpoint

    def test_every_proxy_agrees_on_the_second_choice(self) -> None:
        for number in range(50):
            value = b"%d" % number
            first = picked(self.balancer, sending(name=(value,))).endpoint
            second = picked(self.balancer, sending(name=(value,)), first).endpoint
            assert second is SlotTable(e for e in FIVE if e is not first).owner(value)

    @pytest.mark.parametrize(
        ("companion", "name", "affinity"),
        [
            ((GONE.pin,), (b"abc",), Affinity.REPINNED_GONE),
            ((DOWN.pin,), (b"abc",), Affinity.REPINNED_DOWN),
            ((b"junk",), (b"abc",), Affinity.REPINNED_GONE),
            ((), (GONE.pin, b"abc"), Affinity.REPINNED_GONE),
            ((), (b"abc", DOWN.pin), Affinity.REPINNED_DOWN),
        ],
    )
    def test_along_with_a_stale_pin(
        self, companion: tuple[bytes, ...], name: tuple[bytes, ...], affinity: Affinity
    ) -> None:
        pick = picked(self.balancer, sending(name=name, companion=companion))
        assert pick.endpoint is SlotTable(FIVE).owner(b"abc")
        assert pick.affinity is affinity
        assert issued(pick) == [own(b"session_lb", pick.endpoint)]

    def test_stays_put_from_then_on(self) -> None:
        """With the companion in hand, a change of the endpoints moves nothing any more."""
        few = build(usable(A, B))
        for number in range(50):
            browser = Browser()
            browser.jar[b"session"] = b"%d" % number
            first = browser.visit(few)
            assert browser.visit(build(usable(*FIVE), few)) is first


class TestRule4:
    """No cookie -> round robin; NAME=<pin> is issued, unless this very response sets NAME: then
    its cookie passes untouched, and the companion carries the pin."""

    def test_takes_turns(self) -> None:
        balancer = build(ALL)
        picks = [picked(balancer, NOTHING) for _ in range(5)]
        assert {pick.endpoint for pick in picks} == set(FIVE)
        assert {pick.affinity for pick in picks} == {Affinity.NEW}

    def test_the_pin_is_issued(self) -> None:
        pick = picked(build(ALL), NOTHING)
        assert issued(pick) == [own(b"session", pick.endpoint)]
        assert issued(pick, b"other=1") == [own(b"session", pick.endpoint)]
        assert issued(pick, secure=True) == [own(b"session", pick.endpoint) + b"; Secure"]

    def test_the_app_sets_name(self) -> None:
        pick = picked(build(ALL), NOTHING)
        assert issued(pick, LOGIN) == [
            b"session_lb=" + pick.endpoint.pin + b"; Path=/; Secure; HttpOnly"
        ]

    def test_the_app_sets_other_names_that_look_alike(self) -> None:
        pick = picked(build(ALL), NOTHING)
        for cookie in (b"Session=1", b"session_id=1", b"session", b"x=session=1"):
            assert issued(pick, cookie) == [own(b"session", pick.endpoint)]

    def test_the_app_deletes_name(self) -> None:
        """It says that there is no session: then there is nothing to stick to."""
        assert issued(picked(build(ALL), NOTHING), LOGOUT) == []

    def test_with_ip_hash_the_address_decides(self) -> None:
        """If both are set, the cookie wins and the IP is used where the cookie is absent."""
        policy = CookiePolicy(b"session", b"/shop", IpHashPolicy())
        balancer = policy.build(ALL, None)
        ip_hash = IpHashPolicy().build(ALL, None)
        for last in range(50):
            address = f"192.0.2.{last}"
            request = FakeRequest(client_address=address)
            pick = picked(balancer, request)
            assert pick.endpoint is chosen(ip_hash.pick(request, ()))
            assert pick.affinity is Affinity.NEW
            assert issued(pick) == [own(b"session", pick.endpoint)]
            pinned = FakeRequest({b"session": [A.pin]}, client_address=address)
            assert picked(balancer, pinned).endpoint is A


class TestRule5:
    """A pin of an endpoint that is gone, unhealthy or fails to connect -> new pick, new pin,
    once. A draining endpoint keeps its pins and gets no new ones; one that is leaving keeps
    none."""

    @pytest.mark.parametrize(
        ("stale", "affinity"),
        [
            (GONE, Affinity.REPINNED_GONE),
            (DOWN, Affinity.REPINNED_DOWN),
            (STOPPING, Affinity.REPINNED_DRAINING),
        ],
    )
    def test_gone_or_down(self, stale: Endpoint, affinity: Affinity) -> None:
        pick = picked(build(ALL), sending(name=(stale.pin,)))
        assert pick.affinity is affinity
        assert issued(pick) == [own(b"session", pick.endpoint)]

    @pytest.mark.parametrize(
        ("stale", "affinity"),
        [
            (GONE, Affinity.REPINNED_GONE),
            (DOWN, Affinity.REPINNED_DOWN),
            (STOPPING, Affinity.REPINNED_DRAINING),
        ],
    )
    def test_the_new_pin_overwrites_the_stale_one(
        self, stale: Endpoint, affinity: Affinity
    ) -> None:
        pick = picked(build(ALL), sending(companion=(stale.pin,)))
        assert pick.affinity is affinity
        assert issued(pick) == [own(b"session_lb", pick.endpoint)]

    @pytest.mark.parametrize("name", [b"session", b"session_lb"])
    def test_fails_to_connect(self, name: bytes) -> None:
        balancer = build(ALL)
        request = FakeRequest({name: [B.pin]})
        pick = picked(balancer, request, B)
        assert pick.endpoint not in (B, LEAVING)
        assert pick.affinity is Affinity.REPINNED_FAILED
        assert issued(pick) == [own(name, pick.endpoint)]
        assert balancer.pick(request, (*FIVE, LEAVING)) is None

    def test_failed_and_known_to_be_down_by_now(self) -> None:
        """The balancer was replaced between two tries of one request."""
        balancer = build(Members(usable=(A, B), down=(C,)))
        assert picked(balancer, sending(name=(C.pin,)), C).affinity is Affinity.REPINNED_FAILED

    def test_once(self) -> None:
        for name in (b"session", b"session_lb"):
            balancer = build(ALL)
            browser = Browser()
            browser.jar[name] = DOWN.pin
            first = browser.visit(balancer)
            assert list(browser.jar) == [name]
            assert browser.visit(balancer) is first
            assert issued(balancer.pick(browser.request, ())) == []

    def test_both_names_stale(self) -> None:
        balancer = build(ALL)
        browser = Browser()
        browser.jar.update({b"session": GONE.pin, b"session_lb": DOWN.pin})
        first = browser.visit(balancer)
        assert browser.visit(balancer) is first
        assert issued(balancer.pick(browser.request, ())) == []

    def test_who_comes_back_gets_nobody_back(self) -> None:
        browser = Browser()
        browser.jar[b"session"] = B.pin
        without = build(Members(usable=(A, C), down=(B,)))
        moved_to = browser.visit(without)
        assert browser.visit(build(usable(A, B, C), without)) is moved_to

    def test_draining_gets_no_new_sessions(self) -> None:
        balancer = build(ALL)
        assert {picked(balancer, NOTHING).endpoint for _ in range(20)} == set(FIVE)
        values = [sending(name=(b"%d" % number,)) for number in range(200)]
        assert {picked(balancer, request).endpoint for request in values} == set(FIVE)

    def test_unless_there_is_nobody_else(self) -> None:
        balancer = build(Members(draining=(LEAVING,), down=(DOWN,)))
        for request in (NOTHING, sending(name=(b"abc",)), sending(name=(A.pin,))):
            assert picked(balancer, request).endpoint is LEAVING

    @pytest.mark.parametrize(
        "request_", [NOTHING, sending(name=(b"abc",)), sending(name=(DOWN.pin,))]
    )
    def test_nobody_at_all(self, request_: FakeRequest) -> None:
        assert build(Members(down=(DOWN,))).pick(request_, ()) is None


class TestRule6:
    """Whenever a response sets NAME and the client holds no valid companion, the companion is
    issued in that response. It lives and dies with the app's cookie."""

    balancer = build(ALL)

    @pytest.mark.parametrize(
        "request_",
        [
            NOTHING,
            sending(name=(B.pin,)),
            sending(name=(GONE.pin,)),
            sending(name=(b"abc",)),
            sending(companion=(GONE.pin,)),
            sending(name=(b"abc",), companion=(DOWN.pin,)),
            sending(name=(B.pin,), companion=(b"junk",)),
        ],
    )
    @pytest.mark.parametrize(
        ("app", "tail"),
        [
            (b"session=abc", b"; HttpOnly"),
            (LOGIN, b"; Path=/; Secure; HttpOnly"),
            (RENEWAL, b"; Path=/; Max-Age=3600; HttpOnly"),
            (b"session=abc; HttpOnly; Domain=a.example", b"; HttpOnly; Domain=a.example"),
        ],
    )
    def test_no_valid_companion(self, request_: FakeRequest, app: bytes, tail: bytes) -> None:
        pick = picked(self.balancer, request_)
        assert issued(pick, b"a=1", app, b"b=1") == [b"session_lb=" + pick.endpoint.pin + tail]

    def test_a_valid_companion_stays(self) -> None:
        """A cookie is set only when issued or changed."""
        pick = picked(self.balancer, sending(name=(b"abc",), companion=(B.pin,)))
        assert issued(pick, LOGIN) == []

    def test_a_valid_companion_is_renewed_with_a_renewal(self) -> None:
        pick = picked(self.balancer, sending(name=(b"abc",), companion=(B.pin,)))
        assert issued(pick, RENEWAL) == [
            b"session_lb=" + B.pin + b"; Path=/; Max-Age=3600; HttpOnly"
        ]

    @pytest.mark.parametrize("companion", [B.pin, GONE.pin, b"junk"])
    def test_deleted_when_the_app_deletes_its_own(self, companion: bytes) -> None:
        pick = picked(self.balancer, sending(name=(b"abc",), companion=(companion,)))
        assert issued(pick, LOGOUT) == [b"session_lb=; Path=/; Max-Age=0"]

    @pytest.mark.parametrize("name", [B.pin, GONE.pin, b"abc"])
    def test_nothing_to_delete(self, name: bytes) -> None:
        assert issued(picked(self.balancer, sending(name=(name,))), LOGOUT) == []

    def test_the_last_one_that_sets_name_counts(self) -> None:
        """RFC 6265 section 5.3: so it does for the user agent."""
        pick = picked(self.balancer, sending(name=(b"abc",), companion=(B.pin,)))
        assert issued(pick, LOGOUT, LOGIN) == []
        assert issued(pick, LOGIN, LOGOUT) == [b"session_lb=; Path=/; Max-Age=0"]

    def test_a_deletion_in_another_scope_is_of_another_cookie(self) -> None:
        """Applications clean up after a cookie's path or domain has changed."""
        old = b"session=; Path=/old; Max-Age=0"
        pick = picked(self.balancer, sending())
        companion = [b"session_lb=" + pick.endpoint.pin + b"; Path=/; HttpOnly"]
        assert issued(pick, b"session=abc; Path=/", old) == companion
        assert issued(pick, old, b"session=abc; Path=/") == companion

    def test_a_login_later_on(self) -> None:
        browser = Browser()
        first = browser.visit(self.balancer)
        assert browser.jar == {b"session": first.pin}
        assert browser.visit(self.balancer, LOGIN) is first
        assert browser.jar == {b"session": b"abc", b"session_lb": first.pin}
        assert browser.visit(self.balancer) is first
        assert browser.visit(self.balancer, LOGOUT) is first
        assert browser.jar == {}


class TestWhateverAClientSends:
    """It can at worst choose among endpoints it could reach anyway."""

    junk = (
        st.binary(max_size=60)
        | st.binary(max_size=40).map(b"sp1.".__add__)
        | st.sampled_from([e.pin for e in (*FIVE, GONE, DOWN, LEAVING)])
        | st.tuples(st.sampled_from([e.pin for e in FIVE]), st.integers(0, 28)).map(
            lambda cut: cut[0][: cut[1]]
        )
    )

    @given(st.lists(junk, max_size=4), st.lists(junk, max_size=4))
    @example([b"sp1." + b"x" * 100_000], [b"x" * 100_000])
    def test_is_answered(self, name: list[bytes], companion: list[bytes]) -> None:
        pick = picked(build(ALL), sending(name=tuple(name), companion=tuple(companion)))
        if pick.affinity is Affinity.PINNED:
            assert pick.endpoint.pin in {value.strip(b'"') for value in name + companion}
        else:
            assert pick.endpoint in FIVE
            assert len(issued(pick)) == 1

    @given(st.fixed_dictionaries({}, optional={b"session": junk, b"session_lb": junk}))
    def test_is_replaced_by_what_is_right_for_good(self, jar: dict[bytes, bytes]) -> None:
        balancer = build(ALL)
        browser = Browser()
        browser.jar.update(jar)
        first = browser.visit(balancer)
        assert browser.visit(balancer) is first
        assert issued(balancer.pick(browser.request, ())) == []

    @pytest.mark.parametrize(
        "forged",
        [
            A.pin[:-1],
            A.pin + b"0",
            b"sp1." + b"0" * 24,
            b"sp1.",
            b'"' + A.pin[:-1],
            b"sp1." + b"\x00\xff",
        ],
    )
    def test_forged_pins_are_replaced(self, forged: bytes) -> None:
        for name in (b"session", b"session_lb"):
            pick = picked(build(ALL), FakeRequest({name: [forged]}))
            assert pick.affinity is Affinity.REPINNED_GONE
            assert issued(pick) == [own(name, pick.endpoint)]

    def test_a_pin_of_another_service_is_unknown(self) -> None:
        other = endpoint(A.id, service="blog")
        pick = picked(build(ALL), sending(name=(other.pin,)))
        assert pick.affinity is Affinity.REPINNED_GONE


@pytest.mark.parametrize("app_sets", [False, True], ids=["app sets none", "app sets session"])
class TestTenThousandSessions:
    """The tables of stickiness measured for other proxies; here it is zero everywhere."""

    def sessions(
        self, app_sets: bool, balancer: CookieBalancer
    ) -> tuple[list[Browser], list[Endpoint]]:
        browsers = [Browser() for _ in range(10_000)]
        answers = [[b"session=%d; Path=/" % n] if app_sets else [] for n in range(10_000)]
        homes = [b.visit(balancer, *a) for b, a in zip(browsers, answers, strict=True)]
        return browsers, homes

    def test_load_is_even(self, app_sets: bool) -> None:
        _, homes = self.sessions(app_sets, build(usable(*FIVE)))
        assert set(Counter(homes).values()) == {2000}

    def test_no_session_moves_but_those_of_the_dead(self, app_sets: bool) -> None:
        five = build(usable(*FIVE))
        browsers, homes = self.sessions(app_sets, five)
        if app_sets:  # the app's cookie is not lost
            assert browsers[7].jar[b"session"] == b"7"

        # A second proxy that never saw them agrees; five more endpoints move nobody.
        assert [b.visit(build(usable(*FIVE))) for b in browsers] == homes
        ten = build(usable(*endpoints(10)[5:], *FIVE), five)
        assert [b.visit(ten) for b in browsers] == homes

        # One dies: its own sessions move, once.
        without = build(Members(usable=FIVE[1:], down=(A,)), ten)
        moved = [b.visit(without) for b in browsers]
        assert A not in moved
        assert all(new is old for new, old in zip(moved, homes, strict=True) if old is not A)
        assert [b.visit(without) for b in browsers] == moved

        # It comes back: nobody moves.
        assert [b.visit(build(usable(*FIVE), without)) for b in browsers] == moved


class TestBuild:
    def test_the_fallback_goes_on_where_it_stopped(self) -> None:
        balancer = build(ALL)
        turns = []
        for _ in range(5):
            balancer = build(ALL, balancer)
            turns.append(picked(balancer, NOTHING).endpoint)
        assert set(turns) == set(FIVE)

    def test_after_another_policy(self) -> None:
        other = RoundRobinPolicy().build(ALL, None)
        assert POLICY.build(ALL, other).pick(NOTHING, ()) is not None

    def test_description(self) -> None:
        assert POLICY.describe() == "cookie session, else round robin"
        assert repr(build(ALL)) == "<CookieBalancer session, 6 pins>"
