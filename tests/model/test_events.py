"""model/events.py: what is told, and how often."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

import pytest

import stickyproxy
from stickyproxy.model.events import (
    BURST,
    REFILL,
    Event,
    EventKind,
    Limiter,
    listen,
    tell,
)

PACKAGE = Path(stickyproxy.__file__).parent
REFERENCE = (PACKAGE.parent / "docs/reference/events.md").read_text("utf-8")


def down(endpoint: str = "t1") -> Event:
    details = {"service": "shop", "endpoint": endpoint, "address": "10.0.0.1:80", "reason": "no"}
    return Event(EventKind.ENDPOINT_EJECTED, f"{endpoint} is down", details)


def back(endpoint: str = "t1") -> Event:
    details = {"service": "shop", "endpoint": endpoint, "address": "10.0.0.1:80"}
    return Event(EventKind.ENDPOINT_BACK, f"{endpoint} is back", details)


def moved(sessions: int) -> Event:
    details = {"service": "shop", "reason": "repinned-down", "from": "t1", "sessions": sessions}
    return Event(EventKind.SESSIONS_MOVED, "they move", details)


class TestLimiter:
    def test_what_goes_to_and_fro(self) -> None:
        """Its last word is told in the end, with how much was left out."""
        limiter = Limiter()
        events = [down(), back()] * 20
        told = [limiter.passes(event, 0.0) for event in events]
        assert told == [*events[:BURST], *[None] * (40 - BURST)]
        assert limiter.due(REFILL - 1) == []
        [last] = limiter.due(REFILL)
        assert (last.kind, last.left_out) == (EventKind.ENDPOINT_BACK, 40 - BURST - 1)
        assert str(last) == "t1 is back (and 33 more like this before it)"
        assert limiter.due(REFILL * 100) == []

    def test_others_are_told_meanwhile(self) -> None:
        limiter = Limiter()
        for _ in range(20):
            limiter.passes(down("t1"), 0.0)
        assert limiter.passes(down("t2"), 0.0) == down("t2")

    def test_after_a_rest_all_is_as_before(self) -> None:
        limiter = Limiter()
        for _ in range(BURST):
            limiter.passes(down(), 0.0)
        assert limiter.due(REFILL * BURST) == []
        assert [limiter.passes(down(), REFILL * BURST) for _ in range(BURST)] == [down()] * BURST

    def test_nobody_is_remembered_for_ever(self) -> None:
        limiter = Limiter()
        for number in range(1000):
            limiter.passes(down(f"t{number}"), 0.0)
        limiter.due(REFILL)
        assert not limiter._told

    def test_sessions_add_up(self) -> None:
        limiter = Limiter()
        told = [limiter.passes(moved(10), 0.0) for _ in range(BURST + 3)]
        assert told[BURST:] == [None] * 3
        [rest] = limiter.due(REFILL)
        assert rest.details["sessions"] == 30

    def test_what_people_do_is_always_told(self) -> None:
        limiter = Limiter()
        event = Event(EventKind.ORDER_GIVEN, "drain", {"target": "shop"})
        assert [limiter.passes(event, 0.0) for _ in range(100)] == [event] * 100


def test_it_is_in_the_log_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Event] = []
    end = listen(told.append)
    with caplog.at_level(logging.INFO):
        tell(EventKind.PROVIDER_LOST, "swarm: gone", provider="swarm", reason="gone")
        tell(EventKind.TABLE_SWAPPED, "a new table", services=1, endpoints=2)
        end()
        tell(EventKind.PROVIDER_BACK, "swarm: back", provider="swarm")
    assert [event.kind for event in told] == [EventKind.PROVIDER_LOST, EventKind.TABLE_SWAPPED]
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [("WARNING", "swarm: gone"), ("INFO", "swarm: back")]


def explained() -> dict[str, str]:
    """What the reference says of the details of each word."""
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| (.*) \|$", REFERENCE, re.MULTILINE)
    return dict(rows)


def test_every_event_is_explained_and_no_other() -> None:
    assert list(explained()) == [kind.word for kind in EventKind]


@pytest.mark.parametrize("kind", EventKind, ids=lambda kind: kind.word)
def test_every_detail_is_named(kind: EventKind) -> None:
    said = explained()[kind.word]
    if said == "likewise":
        said = explained()["endpoint-joined"]
    named = set(re.findall(r"`([a-z_]+)`", said))
    assert named == set(kind.details)


def test_every_event_is_told() -> None:
    used = {
        node.attr
        for path in PACKAGE.rglob("*.py")
        if path.name != "openapi.py" and "model.events import" in path.read_text("utf-8")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "EventKind"
    }
    assert used == {kind.name for kind in EventKind}
