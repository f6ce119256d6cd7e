"""dataplane/counters.py: rows of endpoints, and when they are another's."""

from __future__ import annotations

import time

from stickyproxy.base import visitors
from stickyproxy.base.ledger import OTHERS
from stickyproxy.control.registry import NoConnections
from stickyproxy.dataplane.counters import (
    CUTS,
    LAYOUT,
    MOST_ENDPOINTS,
    REQUESTS,
    UPSTREAM,
    Counters,
    Memory,
    counts_of,
)
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.model.service import EndpointSpec
from stickyproxy.routing.endpoint import Affinity, Endpoint
from stickyproxy.routing.tally import Line

WINDOW = 1800.0
WHOLE: Line = (0.02, 0.01, 200, Outcome.COMPLETE, Affinity.PINNED, True, 116, 0)


def endpoints(*names: str) -> list[Endpoint]:
    """Of one service."""
    return [Endpoint("shop", EndpointSpec(n, f"{n}:80"), b"", NoConnections()) for n in names]


def serve(endpoint: Endpoint, *lines: Line) -> None:
    """Requests come and end."""
    tally = endpoint.tally
    assert tally is not None
    tally.begun += len(lines)
    tally.lines.extend(lines)


def test_what_lines_say() -> None:
    memory = Memory()
    counters = Counters(memory, WINDOW)
    a, b = endpoints("a", "b")
    counters.use([a, b], complete=True)
    error: Line = (0.02, 0.01, 503, Outcome.COMPLETE, Affinity.NEW, False, 10, 3)
    cut: Line = (40.0, 0.01, 200, Outcome.UPSTREAM_CLOSED, Affinity.NEW, False, 7, 0)
    ours: Line = (0.001, None, 502, Outcome.UPSTREAM_CLOSED, Affinity.NEW, False, 20, 0)
    serve(a, WHOLE, error, cut, ours, WHOLE)
    serve(b, WHOLE)
    assert b.tally is not None
    b.tally.begun += 3
    b.tally.failed += 1
    counters.add_up()
    counters.add_up()
    found = counts_of([memory])
    row = found.services["shop"]
    assert [row[LAYOUT.cell(REQUESTS, code)] for code in ("2xx", "5xx")] == [4, 2]
    assert row[LAYOUT.cell(CUTS)] == 1
    assert sum(row[LAYOUT.start(UPSTREAM) :][: len(UPSTREAM.values)]) == 5
    assert found.endpoints["shop", "a"] == [5, 2, 0], "what we respond ourselves is not its fault"
    assert found.endpoints["shop", "b"] == [2, 1, 2]
    memory.close()


def test_a_row_is_anothers_only_when_nothing_of_it_is_under_way() -> None:
    memory = Memory()
    counters = Counters(memory, WINDOW)
    [old] = endpoints("old")
    counters.use([old], complete=True)
    serve(old, WHOLE)
    tally = old.tally
    assert tally is not None
    tally.begun += 1
    tally.newcomers.append(b"somebody")
    counters.use(endpoints("new"), complete=True)
    counters.add_up()
    assert counts_of([memory]).endpoints == {("shop", "old"): [1, 0, 1], ("shop", "new"): [0] * 3}
    tally.lines.append(WHOLE)
    counters.add_up()
    assert counts_of([memory]).endpoints == {("shop", "new"): [0] * 3}
    counters.use(endpoints("new", "newer"), complete=True)
    found = counts_of([memory])
    assert found.endpoints["shop", "newer"] == [0, 0, 0]
    assert visitors.estimate(found.clients["shop", "newer"], 1) == 0
    assert found.services["shop"][LAYOUT.cell(REQUESTS, "2xx")] == 2, "the service's stay"
    memory.close()


def test_those_without_a_row_are_together() -> None:
    memory = Memory()
    counters = Counters(memory, WINDOW)
    many = endpoints(*(f"e{number}" for number in range(MOST_ENDPOINTS + 4)))
    counters.use(many, complete=True)
    for each in many:
        serve(each, WHOLE)
        assert each.tally is not None
        each.tally.begun += 1
    counters.add_up()
    found = counts_of([memory]).endpoints
    assert len(found) == MOST_ENDPOINTS
    assert found["shop", "e0"] == [1, 0, 1]
    assert found["", OTHERS] == [5, 0, 5]
    for each in many:
        assert each.tally is not None
        each.tally.lines.append(WHOLE)
    counters.use(many[:1], complete=True)
    counters.add_up()
    found = counts_of([memory]).endpoints
    assert found == {("shop", "e0"): [2, 0, 0], ("", OTHERS): [10, 0, 0]}
    memory.close()


def test_a_successor_goes_on_but_for_what_was_under_way() -> None:
    memory = Memory()
    [one] = endpoints("one")
    first = Counters(memory, WINDOW)
    first.use([one], complete=True)
    serve(one, WHOLE)
    assert one.tally is not None
    one.tally.begun += 7
    one.tally.newcomers.append(b"somebody")
    first.add_up()
    page = visitors.page_at(time.monotonic(), WINDOW)
    second = Counters(Memory(memory.descriptors), WINDOW)
    second.add_up()
    assert counts_of([memory]).endpoints == {("shop", "one"): [1, 0, 0]}, "nobody knows them yet"
    again = endpoints("one")
    second.use(again, complete=True)
    serve(again[0], WHOLE)
    second.add_up()
    found = counts_of([memory, Memory()])
    assert found.endpoints == {("shop", "one"): [2, 0, 0]}
    assert visitors.estimate(found.clients["shop", "one"], page) == 1
    memory.close()
