"""providers/acme/holdings.py: what is due, how soon a failure is tried again, what is shown."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from stickyproxy.base.errors import OrderFailed
from stickyproxy.model.service import ServiceSpec
from stickyproxy.providers.acme.authority import ChallengeAnswer, Issued
from stickyproxy.providers.acme.holdings import (
    DAY,
    Account,
    Holding,
    Pace,
    Pause,
    decoded,
    encoded,
    plan,
    shown,
    unfit,
    wanted,
)
from stickyproxy.providers.acme.keys import validity
from tests.certificates import make_certificate

A, B, C = ("a.example",), ("b.example",), ("c.example",)
NOW = 1_800_000_000.0


def due(needed: list[tuple[str, ...]], pause: Pause | None = None, **holdings: Holding) -> object:
    """The names that are ordered now."""
    held = {each.names: each for each in holdings.values()}
    return plan(needed, held, pause or Pause(), {}, NOW).order


class TestWhatIsNeeded:
    def test_services_with_the_same_hosts_share_a_certificate(self) -> None:
        services = [
            ServiceSpec("one", ("b.example", "a.example"), acme=True),
            ServiceSpec("two", ("a.example", "b.example"), acme=True, context_root="/two"),
            ServiceSpec("three", ("a.example",)),
        ]
        assert wanted(services) == {("a.example", "b.example"): ["one", "two"]}

    @pytest.mark.parametrize(
        ("hosts", "why"),
        [
            ((), "no host that a certificate could be for"),
            (("a.example", "*.a.example"), "ordered for *.a.example, nor for its other hosts"),
            (("192.0.2.1",), "ordered for 192.0.2.1: it is an address"),
            (("[2001:db8::1]",), "it is an address"),
            (tuple(f"h{n}.example" for n in range(101)), "has 101 hosts, and one"),
        ],
    )
    def test_what_no_certificate_is_ordered_for(self, hosts: tuple[str, ...], why: str) -> None:
        service = ServiceSpec("shop", hosts, acme=True)
        assert why in unfit(service)
        assert wanted([service]) == {}


class TestPlan:
    def test_what_is_missing_is_ordered_at_once(self) -> None:
        assert due([A, B]) == (A, B)

    def test_what_failed_waits(self) -> None:
        failed = Holding(A).failed(OrderFailed("no"), NOW, Pace())
        assert due([A], a=failed) == ()
        assert due([A], a=replace(failed, retry_at=NOW)) == (A,)

    def test_what_another_process_orders_is_its_own_until_it_has_given_up(self) -> None:
        ordered = Holding(A).ordered("another", NOW)
        assert due([A], a=ordered) == ()
        assert due([A], a=replace(ordered, ordered_until=NOW)) == (A,)

    def test_while_everything_fails_one_order_at_a_time_is_tried(self) -> None:
        pause = Pause(3, NOW - 1, "down")
        assert due([A, B, C], pause) == (A,)
        assert due([A, B, C], pause, a=Holding(A).ordered("another", NOW)) == ()
        assert due([A, B, C], Pause(3, NOW + 1, "down")) == ()

    def test_a_certificate_is_renewed_when_a_third_is_left(self) -> None:
        held = certificate(A)
        valid = validity(held.chain)
        third = valid.ends - (valid.ends - valid.begins) / 3
        early = (valid.ends - valid.begins) / 20
        assert third - early <= held.renew_at() <= third
        plans = [plan([A], {A: held}, Pause(), {}, now) for now in (third - early - 1, third)]
        assert [each.order for each in plans] == [(), (A,)]
        assert plans[0].wake_at == min(held.renew_at(), third - early - 1 + DAY)

    def test_or_earlier_if_the_authority_says_so(self) -> None:
        held = certificate(A)
        now = time.time()
        assert plan([A], {A: held}, Pause(), {A: now - 1}, now).order == (A,)
        assert plan([A], {A: held}, Pause(), {A: now + 5}, now).wake_at == now + 5


class TestPace:
    def test_pauses_grow(self) -> None:
        pauses = [Pace().pause(failures, 0, 0) for failures in (1, 2, 3, 4, 100)]
        assert pauses == [60, 180, 540, 1620, DAY]

    def test_the_authority_may_ask_for_more(self) -> None:
        assert Pace().pause(1, 7200, 1) == 7200
        assert Pace().pause(1, 5, 1) == pytest.approx(54)

    def test_several_that_fail_together_count_once(self) -> None:
        error = OrderFailed("down", all_after=0)
        once = Pause().failed(error, NOW, Pace())
        assert once.failed(error, NOW + 1, Pace()) == once
        assert once.failed(error, once.retry_at, Pace()).failures == 2


class TestShown:
    def test_an_older_certificate_until_there_is_one_for_just_these(self) -> None:
        old, now = certificate(A), time.time()
        both = ("a.example", "b.example")
        assert [*shown([both], {A: old}, now)] == [(old, A)]
        new = certificate(both)
        assert [*shown([both], {A: old, both: new}, now)] == [(new, both)]

    def test_nothing_that_nobody_needs(self) -> None:
        assert [*shown([B], {A: certificate(A)}, time.time())] == []


def certificate(names: tuple[str, ...]) -> Holding:
    """With a certificate of 90 days, issued now."""
    return Holding(names).issued(Issued(make_certificate(names).chain, "key"))


class TestRecords:
    @pytest.mark.parametrize(
        "kept",
        [
            replace(certificate(A), failures=2, error="no", unused_since=1.5),
            replace(Holding(A), ordered_by="me", answers=(ChallengeAnswer("a", "c", "k"),)),
            Account("key", "https://ca/1"),
            Pause(1, 2.5, "down"),
        ],
    )
    def test_come_back_as_they_were(self, kept: Holding | Account | Pause) -> None:
        kind: Any = type(kept)
        assert decoded(kind, encoded(kept)) == kept

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"{}", b'{"names": 3}', b'{"names": ["a"], "chain": "x"}']
    )
    def test_what_is_no_record(self, data: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  # of the library, or ours
            decoded(Holding, data)

    def test_what_another_version_wrote_besides_is_passed_over(self) -> None:
        assert decoded(Pause, b'{"failures": 1, "more": 2}') == Pause(1)
