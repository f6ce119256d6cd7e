"""W3C Trace Context: what counts as a parent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.semantics.trace_context import Parent, is_chosen, parent_of

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
GOOD = b"00-%b-%b-01" % (TRACE, SPAN)


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (GOOD, 1),
        (GOOD[:-2] + b"00", 0),
        (GOOD[:-2] + b"03", 3),
        (GOOD[:-2] + b"ff", 3),
        (b"cc" + GOOD[2:], 1),
        (b"cc" + GOOD[2:] + b"-what-the-future-will-be-like", 1),
    ],
)
def test_what_counts(value: bytes, flags: int) -> None:
    assert parent_of([value]) == Parent(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        GOOD[:-1],
        GOOD + b"-more",
        GOOD + b"0",
        b"cc" + GOOD[2:] + b".what-the-future-will-not-be-like",
        b"ff" + GOOD[2:],
        b"0-" + GOOD[3:],
        GOOD.upper(),
        GOOD.replace(TRACE, b"0" * 32),
        GOOD.replace(SPAN, b"0" * 16),
        GOOD.replace(b"-", b"_"),
        b" " + GOOD,
    ],
)
def test_what_does_not(value: bytes) -> None:
    assert parent_of([value]) is None


def test_one_and_not_two() -> None:
    assert parent_of([GOOD, GOOD]) is None
    assert parent_of([]) is None


@given(st.binary(max_size=80))
def test_whatever_a_client_sends(value: bytes) -> None:
    found = parent_of([value])
    assert found is None or (len(found.trace_id), len(found.span_id)) == (32, 16)


def test_the_share_that_is_recorded() -> None:
    low, high = b"f" * 18 + b"0" * 14, b"0" * 18 + b"f" * 14
    assert [is_chosen(each, 1.0) for each in (low, high)] == [True, True]
    assert [is_chosen(each, 0.5) for each in (low, high)] == [True, False]
    assert [is_chosen(each, 0.0) for each in (low, high)] == [False, False]
