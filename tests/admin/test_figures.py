"""admin/figures.py: rates and quantiles of what was counted."""

from __future__ import annotations

import pytest

from stickyproxy.admin.figures import EndpointFigures, Figures, quantile
from stickyproxy.base import visitors
from stickyproxy.dataplane.counters import (
    AFFINITY,
    CUTS,
    DURATION,
    ENDPOINT_LAYOUT,
    LAYOUT,
    RECEIVED,
    REQUESTS,
    SENT,
)
from stickyproxy.model.metrics import Counts

WINDOW = 600.0
BOUNDS = (0.1, 1.0, float("inf"))


class Counted:
    """Counters and a clock that are moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.totals: dict[str, list[int]] = {}
        self.endpoints: dict[tuple[str, str], list[int]] = {}
        self.clients: dict[tuple[str, str], list[bytes]] = {}
        self.looks = 0

    async def counts(self) -> Counts:
        """As they are now."""
        self.looks += 1
        return self.now_counted()

    def now_counted(self) -> Counts:
        """The same."""
        return Counts(
            {name: list(row) for name, row in self.totals.items()},
            {key: list(row) for key, row in self.endpoints.items()},
            dict(self.clients),
        )

    def clock(self) -> float:
        """The time."""
        return self.now

    def add(self, service: str, cell: int, count: int) -> None:
        """Something was counted."""
        self.totals.setdefault(service, [0] * LAYOUT.width)[cell] += count


@pytest.fixture
def counted() -> Counted:
    """Nothing yet."""
    return Counted()


def figures(counted: Counted) -> Figures:
    """Of these counters."""
    layouts = LAYOUT, ENDPOINT_LAYOUT
    return Figures(layouts, counted.counts, window=WINDOW, clock=counted.clock)


def cells(page: int, *clients: int) -> bytes:
    """That have seen these."""
    made = bytearray(visitors.CELLS)
    for client in clients:
        made[visitors.cell_of(b"%d" % client)] = page
    return bytes(made)


def test_rates_are_of_the_last_ten_seconds(counted: Counted) -> None:
    counted.add("shop", LAYOUT.cell(REQUESTS, "2xx"), 1_000_000)
    shown = figures(counted)
    assert shown.services() == {}, "nobody has looked yet"
    for _ in range(30):
        shown.look(counted.now_counted())
        counted.now += 1
        counted.add("shop", LAYOUT.cell(REQUESTS, "2xx"), 90)
        counted.add("shop", LAYOUT.cell(REQUESTS, "5xx"), 10)
        counted.add("shop", LAYOUT.cell(CUTS), 1)
        counted.add("shop", LAYOUT.cell(AFFINITY, "pinned"), 75)
        counted.add("shop", LAYOUT.cell(RECEIVED), 5)
        counted.add("shop", LAYOUT.cell(SENT), 7)
        counted.add("shop", LAYOUT.cell(DURATION, "0.005"), 100)
    counted.add("new", LAYOUT.cell(REQUESTS, "2xx"), 100)
    shown.look(counted.now_counted())
    shop = shown.services()["shop"]
    assert shop.requests_per_second == 100
    assert shop.errors_per_second == 11
    assert shop.affinity == {"pinned": 75}
    assert shop.bytes_in_per_second == 5
    assert shop.bytes_out_per_second == 7
    assert shop.p50 == pytest.approx(0.00375)
    assert shop.p99 == pytest.approx(0.004975)
    assert shown.services()["new"].requests_per_second == 10
    assert shown.services()["new"].p50 is None


def test_endpoints(counted: Counted) -> None:
    shown = figures(counted)
    page = visitors.page_at(counted.now, WINDOW)
    counted.add("shop", 0, 1)
    counted.endpoints = {("shop", "t1"): [50, 5, 2], ("shop", "t2"): [70, 0, 0]}
    counted.clients = {
        ("shop", "t1"): [cells(page, 1, 2, 3), cells(page, 3)],
        ("shop", "t2"): [cells(page, 3, 4), bytes(visitors.CELLS)],
    }
    shown.look(counted.now_counted())
    assert shown.endpoints() == {}
    counted.now += 10
    counted.endpoints = {("shop", "t1"): [150, 15, 3], ("shop", "t2"): [10, 1, 4]}
    shown.look(counted.now_counted())
    found = shown.endpoints()
    assert found["shop", "t1"] == EndpointFigures(10, 1, 3, sessions=3)
    assert found["shop", "t2"].requests_per_second == 0, "it has begun anew"
    assert found["shop", "t2"].sessions == 2
    shop = shown.services()["shop"]
    assert (shop.in_flight, shop.sessions) == (7, 4)


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, (0, 0, 0), None),
        (0.5, (10, 0, 0), 0.05),
        (0.99, (0, 100, 0), 0.991),
        (0.5, (50, 0, 50), 0.1),
        (0.99, (50, 0, 50), 1.0),
        (0.5, (0, 0, 1), 1.0),
    ],
)
def test_quantiles_are_those_of_prometheus(
    share: float, counts: tuple[int, ...], expected: float | None
) -> None:
    assert quantile(share, BOUNDS, counts) == (
        None if expected is None else pytest.approx(expected)
    )


async def test_nobody_looks_while_nobody_asks(counted: Counted) -> None:
    shown = figures(counted)
    shown.services()
    shown.start()
    looks = [counted.looks]
    assert shown.services() == {}
    await shown.ready()
    looks.append(counted.looks)
    assert looks == [0, 2]
    counted.add("shop", LAYOUT.cell(REQUESTS, "2xx"), 1)
    shown.look(counted.now_counted())
    assert "shop" in shown.services()
    shown.stop()
    assert shown.services() == {}
    await shown.ready()
