"""base/visitors.py: how many clients have shown up within a sliding window."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from stickyproxy.base import visitors
from stickyproxy.base.visitors import CELLS, PAGES, cell_of, estimate, page_at, turn

WINDOW = 600.0
PAGE = WINDOW / PAGES


def note(cells: bytearray, clients: Iterable[int], now: float) -> None:
    """These have shown up."""
    page = page_at(now, WINDOW)
    for client in clients:
        cells[cell_of(b"10.0.0.%d Firefox" % client)] = page


@pytest.mark.parametrize(
    ("clients", "error"),
    [(0, 0.0), (1, 0.0), (60, 0.034), (2000, 0.036), (8000, 0.048), (20_000, 0.11)],
)
def test_the_error_is_within_three_times_what_is_said(clients: int, error: float) -> None:
    cells = bytearray(CELLS)
    note(cells, range(clients), 1000.0)
    assert estimate([cells], page_at(1000.0, WINDOW)) == pytest.approx(clients, rel=error)


def test_no_more_than_can_be_told() -> None:
    assert estimate([b"\1" * CELLS], 1) == 36909


def test_what_several_have_seen_counts_once() -> None:
    one, other = bytearray(CELLS), bytearray(CELLS)
    note(one, range(40), 1000.0)
    note(other, range(20, 60), 1000.0)
    assert estimate([one, other], page_at(1000.0, WINDOW)) == pytest.approx(60, abs=2)
    assert estimate([], 1) == 0


def test_a_client_counts_for_a_window_and_a_page_at_most() -> None:
    """From wherever in its page it came; also where the numbers of pages begin again."""
    for start in (1000.0, 254.5 * PAGE, 255 * PAGE - 0.001, 1e9):
        cells = bytearray(CELLS)
        note(cells, [7], start)
        for later, there in ((0.0, 1), (WINDOW - 0.01, 1), (WINDOW + PAGE + 0.01, 0)):
            assert estimate([cells], page_at(start + later, WINDOW)) == there


def test_old_pages_are_blank_when_their_numbers_come_again() -> None:
    cells = bytearray(CELLS)
    now = 1000.0
    note(cells, [7], now)
    for _ in range(3 * 255):
        now += PAGE
        note(cells, [8], now)
        turn(memoryview(cells), page_at(now, WINDOW))
    assert estimate([cells], page_at(now, WINDOW)) == 1
    assert sum(map(bool, cells)) == 1


def test_one_who_stays_is_one() -> None:
    cells = bytearray(CELLS)
    for at in range(500):
        now = 1000.0 + at * PAGE / 3
        note(cells, [7], now)
        turn(memoryview(cells), page_at(now, WINDOW))
        assert estimate([cells], page_at(now, WINDOW)) == 1


def test_pages_are_numbered_from_one() -> None:
    numbers = [page_at(at * PAGE, WINDOW) for at in range(600)]
    assert min(numbers) == 1
    assert max(numbers) == 255
    assert visitors.CELLS % 8 == 0, "rows of a ledger are aligned"
