"""Pins whose endpoint is not used, but whose slot says where to go."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from stickyproxy.base.hashing import pin, slot_of_pin, slot_pin
from stickyproxy.model.service import EndpointSpec
from stickyproxy.routing.balancers import cookie
from stickyproxy.routing.balancers.cookie import CookieBalancer, CookiePolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.endpoint import Affinity, Endpoint, Facts, Meaning, Members, Pick
from tests.routing.balancers import KEY, FakeRequest, NoPool, issued

POLICY = CookiePolicy(b"session", b"/", RoundRobinPolicy())
IMPATIENT = replace(POLICY, wait=0.0)


def task(name: str, slot: str, *, outdated: bool = False) -> Endpoint:
    spec = EndpointSpec(name, "10.0.0.1:80", slot=slot, outdated=outdated)
    former = pin(KEY, "shop", name)
    made = Endpoint("shop", spec, pin(KEY, "shop", name, slot), NoPool(), former_pin=former)
    made.has_connected = True
    return made


def coming(*slots: str) -> frozenset[bytes]:
    return frozenset(slot_pin(KEY, "shop", slot) for slot in slots)


def build(
    *usable: Endpoint,
    awaited: tuple[str, ...] = (),
    leaving: tuple[Endpoint, ...] = (),
    down: tuple[Endpoint, ...] = (),
    policy: CookiePolicy = POLICY,
    previous: CookieBalancer | None = None,
) -> CookieBalancer:
    members = Members(usable, leaving=leaving, down=down, coming=coming(*awaited))
    return policy.build(members, previous)


def sending(value: bytes, client: str = "192.0.2.1", **cookies: bytes) -> FakeRequest:
    sent = {b"session": [value]} | {name.encode(): [text] for name, text in cookies.items()}
    return FakeRequest(sent, client_address=client)


def picked(balancer: CookieBalancer, request: FakeRequest, *tried: Endpoint) -> Pick:
    pick = balancer.pick(request, tried)
    assert pick is not None
    return pick


OLD, NEW = task("old", "1"), task("new", "1")
TWO, THREE = task("two", "2"), task("three", "3")


class TestPins:
    def test_name_slot_and_task(self) -> None:
        assert slot_of_pin(OLD.pin) == slot_of_pin(NEW.pin) == OLD.slot_pin != TWO.slot_pin
        assert OLD.pin != NEW.pin

    def test_golden(self) -> None:
        """They are in browsers: they must never change."""
        assert pin(KEY, "shop", "task1") == b"sp1.d916be1c6003c622d1f11108"
        assert pin(KEY, "shop", "task1", "1") == b"sp1.c2bd5ee8ea79bd11.d916be1c6003c622"

    def test_without_a_slot_name_none(self) -> None:
        assert slot_of_pin(pin(KEY, "shop", "task")) == b""

    @pytest.mark.parametrize("value", [OLD.pin, OLD.former_pin, b'"' + OLD.pin + b'"'])
    def test_issued_before_slots_were_named(self, value: bytes) -> None:
        pick = picked(build(OLD, TWO), sending(value))
        assert (pick.endpoint, pick.affinity) == (OLD, Affinity.PINNED)
        assert issued(pick) == []

    def test_follow_their_slot_as_long_as_their_task_is_known(self) -> None:
        pick = picked(build(NEW, TWO, leaving=(OLD,)), sending(OLD.former_pin))
        assert (pick.endpoint, pick.affinity) == (NEW, Affinity.SUCCESSOR)
        pick = picked(build(NEW, TWO), sending(OLD.former_pin))
        assert pick.affinity is Affinity.REPINNED_GONE


class TestSuccessor:
    @pytest.mark.parametrize("leaving", [(), (OLD,)])
    def test_has_the_sessions_of_the_slot(self, leaving: tuple[Endpoint, ...]) -> None:
        pick = picked(build(NEW, TWO, THREE, leaving=leaving), sending(OLD.pin))
        assert (pick.endpoint, pick.affinity, pick.wait) == (NEW, Affinity.SUCCESSOR, 0)
        assert issued(pick) == [b"session=" + NEW.pin + b"; Path=/; HttpOnly; SameSite=Lax"]

    def test_replaces_the_companion(self) -> None:
        pick = picked(build(NEW, TWO), sending(b"the-app's", session_lb=OLD.pin))
        assert (pick.endpoint, pick.affinity) == (NEW, Affinity.SUCCESSOR)
        assert issued(pick) == [b"session_lb=" + NEW.pin + b"; Path=/; HttpOnly; SameSite=Lax"]

    def test_a_pin_that_resolves_wins_over_one_that_is_succeeded(self) -> None:
        pick = picked(build(NEW, TWO), sending(TWO.pin, session_lb=OLD.pin))
        assert (pick.endpoint, pick.affinity) == (TWO, Affinity.PINNED)

    def test_while_two_have_the_slot_each_has_its_own(self) -> None:
        outdated = task("outdated", "1", outdated=True)
        balancer = build(outdated, NEW)
        assert picked(balancer, sending(outdated.pin)).endpoint is outdated
        assert picked(balancer, sending(NEW.pin)).endpoint is NEW

    @pytest.mark.parametrize("order", [1, -1])
    def test_while_two_have_the_slot_the_newer_one_gets_what_is_older(self, order: int) -> None:
        both = (task("outdated", "1", outdated=True), NEW)[::order]
        pick = picked(build(*both), sending(OLD.pin))
        assert (pick.endpoint, pick.affinity) == (NEW, Affinity.SUCCESSOR)

    def test_of_a_slot_that_is_no_more(self) -> None:
        pick = picked(build(TWO, THREE), sending(OLD.pin))
        assert pick.affinity is Affinity.REPINNED_GONE
        assert issued(pick)

    def test_that_refuses_connections_when_it_has_long_taken_them(self) -> None:
        pick = picked(build(NEW, TWO), sending(OLD.pin), NEW)
        assert (pick.endpoint, pick.affinity, pick.wait) == (TWO, Affinity.REPINNED_GONE, 0)

    def test_explained(self) -> None:
        [seen] = build(NEW, TWO).evidence(sending(OLD.pin))
        assert (seen.meaning, seen.endpoint, seen.decides) == (Meaning.PIN_SUCCEEDED, NEW, True)
        [seen] = build(TWO, awaited=("1",)).evidence(sending(OLD.pin))
        assert (seen.meaning, seen.endpoint, seen.decides) == (Meaning.PIN_AWAITED, None, True)


class TestVisits:
    def test_keep_the_pin(self) -> None:
        pick = picked(build(TWO, THREE, awaited=("1",)), sending(OLD.pin))
        assert pick.affinity is Affinity.VISIT
        assert pick.endpoint in (TWO, THREE)
        assert issued(pick) == []

    def test_of_one_client_stay_where_they_are(self) -> None:
        """By whichever proxy, and in whichever order the replicas are known."""
        one, other = build(TWO, THREE, awaited=("1",)), build(THREE, TWO, awaited=("1",))
        counts: Counter[Endpoint] = Counter()
        for number in range(200):
            request = sending(OLD.pin, f"198.51.100.{number}")
            endpoint = picked(one, request).endpoint
            assert {picked(each, request).endpoint for each in (one, other, one)} == {endpoint}
            counts[endpoint] += 1
        assert min(counts.values()) > 60

    def test_of_one_session_stay_where_they_are_whatever_its_address(self) -> None:
        balancer = build(TWO, THREE, awaited=("1",))
        for number in range(20):
            value = b"%032x" % number
            picks = [
                picked(balancer, sending(value, f"198.51.100.{each}", session_lb=OLD.pin))
                for each in range(5)
            ]
            assert len({each.endpoint for each in picks}) == 1

    def test_go_to_who_stays(self) -> None:
        outdated = task("outdated", "2", outdated=True)
        balancer = build(outdated, THREE, awaited=("1",))
        clients = [sending(OLD.pin, f"198.51.100.{number}") for number in range(50)]
        assert {picked(balancer, each).endpoint for each in clients} == {THREE}
        assert picked(balancer, clients[0], THREE).endpoint is outdated

    @pytest.mark.parametrize("companion", [False, True])
    def test_become_moves_if_the_application_begins_a_session_at_who_stays(
        self, companion: bool
    ) -> None:
        """It would be lost with the way back; and where it is replaced soon, with the way on."""
        request = sending(b"the-app's", session_lb=OLD.pin) if companion else sending(OLD.pin)
        login = b"session=abc; Path=/"
        pick = picked(build(TWO, awaited=("1",)), request)
        assert issued(pick, login) == [b"session_lb=" + TWO.pin + b"; Path=/; HttpOnly"]
        outdated = task("outdated", "2", outdated=True)
        pick = picked(build(outdated, awaited=("1",)), request)
        kept = [] if companion else [b"session_lb=" + OLD.pin + b"; Path=/; HttpOnly"]
        assert issued(pick, login) == kept

    def test_of_an_application_that_renews_its_cookie(self) -> None:
        request = sending(b"the-app's", session_lb=OLD.pin)
        pick = picked(build(TWO, awaited=("1",)), request)
        assert issued(pick, b"session=the-app's; Path=/") == []
        renewed = issued(pick, b"session=the-app's; Path=/; Max-Age=60")
        assert renewed == [b"session_lb=" + OLD.pin + b"; Path=/; Max-Age=60; HttpOnly"]

    def test_where_there_is_nobody(self) -> None:
        assert build(awaited=("1",)).pick(sending(OLD.pin), ()) is None
        assert build(TWO, awaited=("1",)).pick(sending(OLD.pin), (TWO,)) is None


class TestWaiting:
    def test_is_worth_it_while_a_successor_is_on_its_way(self) -> None:
        pick = picked(build(TWO, awaited=("1",)), sending(OLD.pin))
        assert 0 < pick.wait <= POLICY.wait

    def test_is_turned_off(self) -> None:
        pick = picked(build(TWO, awaited=("1",), policy=IMPATIENT), sending(OLD.pin))
        assert (pick.affinity, pick.wait) == (Affinity.VISIT, 0)

    def test_is_over_when_it_has_taken_too_long(self) -> None:
        """For all together: who asks later does not wait for as long again."""
        balancer = build(TWO, awaited=("1",))
        first = picked(balancer, sending(OLD.pin))
        later = build(TWO, THREE, awaited=("1",), previous=balancer)
        assert picked(later, sending(OLD.pin)).wait < first.wait
        [slot] = later.vacant
        later.vacant[slot] -= POLICY.wait
        pick = picked(later, sending(OLD.pin))
        assert (pick.affinity, pick.wait) == (Affinity.VISIT, 0)

    def test_begins_anew_when_the_slot_is_vacant_again(self) -> None:
        balancer = build(TWO, awaited=("1",))
        picked(balancer, sending(OLD.pin))
        assert build(NEW, TWO, previous=balancer).vacant == {}

    def test_is_given_up_in_the_end(self) -> None:
        balancer = build(TWO, awaited=("1",))
        picked(balancer, sending(OLD.pin))
        [slot] = balancer.vacant
        balancer.vacant[slot] -= POLICY.wait + cookie.LONGEST_VISIT
        pick = picked(balancer, sending(OLD.pin))
        assert pick.affinity is Affinity.REPINNED_GONE
        assert issued(pick)

    def test_for_one_that_is_about_to_be_replaced_and_refuses_connections(self) -> None:
        """It has been told to stop, and nobody has told us yet."""
        outdated = task("outdated", "1", outdated=True)
        pick = picked(build(outdated, TWO), sending(outdated.pin), outdated)
        assert (pick.endpoint, pick.affinity) == (TWO, Affinity.VISIT)
        assert pick.wait == POLICY.wait
        assert issued(pick) == []
        pick = picked(build(TWO, down=(outdated,)), sending(outdated.pin))
        assert (pick.affinity, issued(pick)) == (Affinity.VISIT, [])

    def test_for_one_that_does_not_listen_yet(self) -> None:
        fresh = task("fresh", "1")
        fresh.has_connected = False
        for pick in (
            picked(build(fresh, TWO), sending(OLD.pin), fresh),
            picked(build(TWO, down=(fresh,)), sending(OLD.pin)),
        ):
            assert (pick.endpoint, pick.affinity, issued(pick)) == (TWO, Affinity.VISIT, [])
            assert 0 < pick.wait <= POLICY.wait


class TestDownIsNotGone:
    def test_who_asks_meanwhile_is_re_pinned(self) -> None:
        pick = picked(build(TWO, down=(OLD,)), sending(OLD.pin))
        assert (pick.endpoint, pick.affinity) == (TWO, Affinity.REPINNED_DOWN)
        assert issued(pick)

    def test_who_does_not_stays(self) -> None:
        away = build(TWO, down=(OLD,))
        picked(away, sending(TWO.pin))
        back = build(OLD, TWO, previous=away)
        pick = picked(back, sending(OLD.pin))
        assert (pick.endpoint, pick.affinity, issued(pick)) == (OLD, Affinity.PINNED, [])

    def test_in_maintenance_is_no_gap(self) -> None:
        wanted = task("wanted", "1")
        wanted.has_connected = False
        wanted.note(Facts(in_maintenance=True))
        pick = picked(build(TWO, down=(wanted,)), sending(wanted.pin))
        assert pick.affinity is Affinity.REPINNED_DOWN
