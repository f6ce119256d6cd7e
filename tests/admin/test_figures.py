"""admin/figures.py: rates and quantiles of what was counted."""

from __future__ import annotations

import pytest

from stickyproxy.admin.figures import Figures, quantile
from stickyproxy.dataplane.counters import AFFINITY, DURATION, LAYOUT, RECEIVED, REQUESTS, SENT

BOUNDS = (0.1, 1.0, float("inf"))


class Counted:
    """Counters and a clock that are moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.totals: dict[str, list[int]] = {}
        self.looks = 0

    def __call__(self) -> dict[str, list[int]]:
        self.looks += 1
        return {name: list(row) for name, row in self.totals.items()}

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
    return Figures(LAYOUT, counted, clock=counted.clock)


def test_rates_are_of_the_last_ten_seconds(counted: Counted) -> None:
    counted.add("shop", LAYOUT.cell(REQUESTS, "2xx"), 1_000_000)
    seen = figures(counted)
    assert seen.services() == {}, "nobody has looked yet"
    for _ in range(30):
        seen.look()
        counted.now += 1
        counted.add("shop", LAYOUT.cell(REQUESTS, "2xx"), 90)
        counted.add("shop", LAYOUT.cell(REQUESTS, "5xx"), 10)
        counted.add("shop", LAYOUT.cell(AFFINITY, "pinned"), 75)
        counted.add("shop", LAYOUT.cell(RECEIVED), 5)
        counted.add("shop", LAYOUT.cell(SENT), 7)
        counted.add("shop", LAYOUT.cell(DURATION, "0.005"), 100)
    counted.add("new", LAYOUT.cell(REQUESTS, "2xx"), 100)
    seen.look()
    shop = seen.services()["shop"]
    assert shop.requests_per_second == 100
    assert shop.errors_per_second == 10
    assert shop.affinity == {"pinned": 75}
    assert shop.bytes_in_per_second == 5
    assert shop.bytes_out_per_second == 7
    assert shop.p50 == pytest.approx(0.00375)
    assert shop.p99 == pytest.approx(0.004975)
    assert seen.services()["new"].requests_per_second == 10
    assert seen.services()["new"].p50 is None


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
    seen = figures(counted)
    seen.services()
    seen.start()
    looks = [counted.looks]
    assert seen.services() == {}
    looks.append(counted.looks)
    await seen.ready()
    looks.append(counted.looks)
    assert looks == [0, 1, 2]
    counted.add("shop", LAYOUT.cell(REQUESTS, "2xx"), 1)
    seen.look()
    assert "shop" in seen.services()
    seen.stop()
    assert seen.services() == {}
    await seen.ready()
