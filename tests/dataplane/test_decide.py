"""dataplane/retry.py: every combination, against the rules at the top of that file."""

from __future__ import annotations

import itertools

import pytest

from stickyproxy.base.errors import (
    BadRequest,
    ClientStalled,
    ConnectError,
    OutOfResources,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from stickyproxy.dataplane.retry import Attempted, Verdict, decide

ERRORS = (
    ConnectError("refused"),
    UpstreamClosed("gone"),
    UpstreamTimeout("silent"),
    UpstreamProtocolError("not HTTP"),
    OutOfResources("no descriptor"),
    ClientStalled("stalled"),
    BadRequest(400, "bad"),
)
YES_NO = (True, False)

TABLE = [
    Attempted(error, connected, reused, replayable, responded, deaths, in_time)
    for error, connected, reused, replayable, responded, deaths, in_time in itertools.product(
        ERRORS, YES_NO, YES_NO, YES_NO, YES_NO, (0, 1, 2, 3), YES_NO
    )
]


def by_the_rules(attempt: Attempted) -> Verdict:
    """What the text says, one sentence after the other."""
    no_connection = isinstance(attempt.error, ConnectError) and not attempt.connected
    nothing_came = (
        isinstance(attempt.error, UpstreamClosed) and attempt.connected and not attempt.responded
    )
    first_death = attempt.deaths <= 1  # "but only once"
    rules = {
        # "No connection could be made: always."
        Verdict.OTHER_ENDPOINT: (no_connection and first_death)
        # "If it was new the endpoint is ending, and another one is asked"
        or (nothing_came and attempt.replayable and not attempt.reused and first_death),
        # "If the connection had been kept alive [...] the same endpoint is asked again"
        Verdict.SAME_ENDPOINT: nothing_came
        and attempt.replayable
        and attempt.reused
        and first_death,
    }
    held = [verdict for verdict, holds in rules.items() if holds and attempt.in_time]
    assert len(held) < 2
    return held[0] if held else Verdict.GIVE_UP  # "Anything else: never."


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_all_combinations(error: Exception) -> None:
    for attempt in TABLE:
        if attempt.error is error:
            assert decide(attempt) is by_the_rules(attempt), attempt


def test_what_may_have_been_carried_out_is_never_repeated() -> None:
    for attempt in TABLE:
        if attempt.connected and not attempt.replayable:
            assert decide(attempt) is Verdict.GIVE_UP, attempt


def test_half_a_response_is_never_followed_by_another() -> None:
    for attempt in TABLE:
        if attempt.connected and attempt.responded:
            assert decide(attempt) is Verdict.GIVE_UP, attempt


def test_the_same_endpoint_is_only_asked_after_a_connection_that_was_kept() -> None:
    for attempt in TABLE:
        if decide(attempt) is Verdict.SAME_ENDPOINT:
            assert attempt.reused
            assert attempt.connected


def test_a_request_that_kills_whoever_gets_it_ends() -> None:
    """Whatever happens in between: two new connections that died are the end."""
    for attempt in TABLE:
        if attempt.deaths >= 2:
            assert decide(attempt) is Verdict.GIVE_UP


def test_nothing_is_repeated_late() -> None:
    assert {decide(attempt) for attempt in TABLE if not attempt.in_time} == {Verdict.GIVE_UP}


def test_each_verdict_is_reached() -> None:
    assert {decide(attempt) for attempt in TABLE} == {*Verdict}
