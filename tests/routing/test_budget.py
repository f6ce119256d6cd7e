"""routing/budget.py: retries are a fifth of requests at most, but for a few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.routing.budget import PER_SECOND, QUIET, SECONDS, SHARE, RetryBudget


def taken(budget: RetryBudget, now: float, most: int = 100_000) -> int:
    """How many retries there are to take now."""
    count = 0
    while count < most and budget.take(now):
        count += 1
    return count


def test_a_quiet_service_has_some() -> None:
    budget = RetryBudget(0.0)
    assert taken(budget, 0.0) == QUIET
    assert taken(budget, 3.0) == 3 * PER_SECOND
    assert taken(budget, 10_000.0) == QUIET, "it saves up no more"


def test_a_fifth_of_the_requests_of_late() -> None:
    budget = RetryBudget(0.0)
    taken(budget, 0.0)
    budget.requests += 1000
    assert taken(budget, 1.0) == pytest.approx(1000 * SHARE + PER_SECOND, abs=1)
    budget.requests += 3_600_000  # in an hour: 10,000 in SECONDS
    assert taken(budget, 3601.0) == pytest.approx(QUIET + 10_000 * SHARE, rel=0.01)
    assert taken(budget, 3601.0) == 0


def test_what_was_earned_long_ago_is_lost() -> None:
    budget = RetryBudget(0.0)
    budget.requests += 100_000
    assert budget.take(1.0)
    assert taken(budget, 1.0 + 10 * SECONDS) < QUIET + 10


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500), st.integers(0, 500))))
def test_never_more_than_a_fifth_in_all(
    steps: list[tuple[float, int, int]],
) -> None:
    """Whatever comes when: (seconds that pass, requests in that time, retries that are wanted)."""
    budget, now, retries = RetryBudget(0.0), 0.0, 0
    for seconds, requests, wanted in steps:
        now += seconds
        budget.requests += requests
        retries += taken(budget, now, wanted)
        assert retries <= QUIET + now * PER_SECOND + budget.requests * SHARE + 1e-6
