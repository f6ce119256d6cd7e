"""What all workers of a proxy share, as each of them sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stickyproxy.base.commons import WAYS, Commons
from stickyproxy.model.terms import Rate
from stickyproxy.routing.admit import Denial, SharedRateLimit
from tests.routing.test_admit import Asking, Clock

TEN = Rate(requests=10, seconds=1, burst=10)


@pytest.fixture
def workers() -> Iterator[list[Commons]]:
    """Three."""
    first = Commons(3)
    yield [Commons(3, first.descriptor, number) for number in (1, 2, 3)]
    first.close()
    first.close()


class TestRates:
    def test_are_of_all_workers_together(self, workers: list[Commons]) -> None:
        clock = Clock()
        limits = [SharedRateLimit("shop", TEN, each.buckets, clock) for each in workers]
        asks = Asking("192.0.2.1")
        passed = [limits[turn % 3](asks) is None for turn in range(30)]
        assert passed == [True] * 10 + [False] * 20
        denial = limits[0](asks)
        assert isinstance(denial, Denial)
        assert (denial.status, denial.retry_after) == (429, 1)
        assert limits[1](Asking("192.0.2.2")) is None
        clock.now += 0.1
        assert [limit(asks) is None for limit in limits] == [True, False, False]

    def test_are_of_one_service(self, workers: list[Commons]) -> None:
        one = Rate(requests=1, seconds=3600, burst=1)
        for name in ("a", "b"):
            limits = [SharedRateLimit(name, one, each.buckets, Clock()) for each in workers]
            assert [limit(Asking("192.0.2.1")) is None for limit in limits] == [True, False, False]

    def test_who_is_full_again_makes_room(self) -> None:
        """However many clients there are, what the newest have had is known."""
        buckets, clock = Commons(1).buckets, Clock()
        limit = SharedRateLimit("shop", Rate(1, 10, 1), buckets, clock)
        for number in range(300_000):
            clock.now += 0.0001
            asks = Asking(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1")
            assert limit(asks) is None
            if number % 1000 == 0:
                assert limit(asks) is not None

    @settings(max_examples=30)
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.floats(0, 2))))
    def test_as_in_one_process(self, steps: list[tuple[int, int, float]]) -> None:
        """No worker lets more through than one process would."""
        first, clock = Commons(3), Clock()
        limits = [
            SharedRateLimit("shop", TEN, Commons(3, first.descriptor, number).buckets, clock)
            for number in (1, 2, 3)
        ]
        alone = SharedRateLimit("shop", TEN, Commons(1).buckets, clock)
        for worker, client, seconds in steps:
            clock.now += seconds
            asks = Asking(f"192.0.2.{client}")
            assert (limits[worker](asks) is None) == (alone(asks) is None)
        first.close()


class TestHeadcount:
    def test_is_of_the_other_workers(self, workers: list[Commons]) -> None:
        first, second, third = (each.headcount for each in workers)
        first.note(3)
        first.note_of(b"a", 2)
        first.note_of(b"b", 1)
        second.note(1)
        second.note_of(b"a", 1)
        assert [each.elsewhere() for each in (first, second, third)] == [1, 3, 4]
        assert [each.elsewhere_of(b"a") for each in (first, second, third)] == [1, 2, 3]
        assert [each.elsewhere_of(b"b") for each in (first, second, third)] == [0, 1, 1]
        assert third.elsewhere_of(b"c") == 0
        first.note_of(b"a", 0)
        assert third.elsewhere_of(b"a") == 1

    def test_what_a_worker_had_ends_with_it(self, workers: list[Commons]) -> None:
        first, second = (each.headcount for each in workers[:2])
        first.note(3)
        first.note_of(b"a", 2)
        Commons(3, workers[0].descriptor, 1).headcount.begin()
        assert (second.elsewhere(), second.elsewhere_of(b"a")) == (0, 0)

    def test_where_there_is_no_room_nobody_is_counted_for_another(
        self, workers: list[Commons]
    ) -> None:
        first, second = (each.headcount for each in workers[:2])
        clients = [b"%d" % number for number in range(60_000)]
        for client in clients:
            first.note_of(client, 5)
        counted = [second.elsewhere_of(client) for client in clients]
        assert set(counted) <= {0, 5}
        assert counted.count(5) > 10_000 * WAYS // 4
        for client in clients:
            first.note_of(client, 0)
        assert not any(second.elsewhere_of(client) for client in clients)
