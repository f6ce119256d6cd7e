"""base/backoff.py: pauses, without any waiting."""

from __future__ import annotations

import pytest

from stickyproxy.base.backoff import Backoff


def pauses(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next() for _ in range(count)]


def test_pauses_double_up_to_a_limit() -> None:
    assert pauses(Backoff(0.5, 10.0), 7) == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_the_limit_holds_however_many_failures_there_are() -> None:
    assert set(pauses(Backoff(0.25, 5.0), 5000)[10:]) == {5.0}


def test_the_first_pause_is_within_the_limit_too() -> None:
    assert pauses(Backoff(30.0, 10.0), 2) == [10.0, 10.0]


def test_after_a_success_it_starts_again() -> None:
    backoff = Backoff(0.5, 10.0)
    pauses(backoff, 4)
    assert backoff.failures == 4
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next() == 0.5


@pytest.mark.parametrize(("chance", "part"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_jitter_takes_away_a_part(chance: float, part: float) -> None:
    found = pauses(Backoff(0.5, 10.0, jitter=0.5, chance=lambda: chance), 6)
    assert found == [part * pause for pause in (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)]


def test_jitter_differs_each_time() -> None:
    backoff = Backoff(0.5, 10.0, jitter=0.5)
    for failures in range(1, 100):
        longest = min(10.0, 0.5 * 2 ** (failures - 1))
        assert longest / 2 <= backoff.next() <= longest
    assert len(set(pauses(backoff, 9))) > 1
