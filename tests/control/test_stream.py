"""control/stream.py: the buffer of events, and its readers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from stickyproxy.control.stream import BATCH, CHANGES, SIZE, Stream
from stickyproxy.model.events import Event, EventKind


def order(number: int) -> Event:
    return Event(EventKind.ORDER_GIVEN, f"order {number}", {"target": str(number)})


def parsed(data: bytes) -> list[dict[str, Any]]:
    """The data of the events in these bytes."""
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        row = json.loads(fields["data"])
        assert (row["id"], row["event"]) == (fields["id"], fields["event"])
        found.append(row)
    return found


def texts(data: bytes) -> list[str]:
    return [row["text"] for row in parsed(data)]


def full(count: int) -> Stream:
    stream = Stream(clock=lambda: 1234.5)
    for number in range(count):
        stream.put(order(number))
    return stream


class TestReading:
    def test_a_new_reader_has_read_nothing_and_misses_nothing(self) -> None:
        stream = full(5)
        place = stream.place(None)
        assert stream.after(place) == (b"", place)
        stream.put(order(5))
        data, place = stream.after(place)
        assert texts(data) == ["order 5"]
        assert stream.after(place)[0] == b""

    def test_what_an_event_says(self) -> None:
        [row] = parsed(full(1).after(0)[0])
        assert row.pop("id").endswith("-1")
        assert row == {
            "time": 1234.5,
            "event": "order-given",
            "level": "info",
            "text": "order 0",
            "target": "0",
        }

    def test_the_last_ones(self) -> None:
        stream = full(5)
        assert texts(stream.after(stream.place(None, 2))[0]) == ["order 3", "order 4"]
        assert len(texts(stream.after(stream.place(None, 100))[0])) == 5

    def test_going_on(self) -> None:
        stream = full(5)
        id_ = parsed(stream.after(0)[0])[2]["id"]
        assert texts(stream.after(stream.place(id_))[0]) == ["order 3", "order 4"]

    def test_ids_of_others(self) -> None:
        """Of a run before, or made up: everything is sent, and that there may be more."""
        stream = full(2)
        other = parsed(full(2).after(0)[0])[1]["id"]
        for id_ in (other, "", "x", "-", f"{stream._run}-", f"{stream._run}-\u0664", "9" * 400):
            rows = parsed(stream.after(stream.place(id_))[0])
            assert [row["event"] for row in rows] == ["events-missed", *["order-given"] * 2], id_

    def test_one_of_the_future(self) -> None:
        stream = full(2)
        place = stream.place(f"{stream._run}-77")
        assert stream.after(place) == (b"", 2)

    def test_who_was_away_for_long(self) -> None:
        stream = full(2)
        place = stream.place(None)
        for number in range(2, SIZE + 10):
            stream.put(order(number))
        data, place = stream.after(place)
        rows = parsed(data)
        assert rows[0]["event"] == "events-missed"
        assert rows[1]["text"] == "order 10"
        assert len(rows) == BATCH + 1
        resumed = stream.place(rows[0]["id"])
        assert texts(stream.after(resumed)[0])[0] == "order 10"
        while data:
            data, place = stream.after(place)
        assert place == SIZE + 10

    async def test_waiting(self) -> None:
        stream = full(1)
        waiting = asyncio.create_task(stream.wait(stream.place(None)))
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.put(order(1))
        await waiting


def test_changes() -> None:
    stream = full(CHANGES + 5)
    moved = {"service": "shop", "reason": "repinned-down", "from": "", "sessions": 3}
    stream.put(Event(EventKind.SESSIONS_MOVED, "they move", moved))
    changes = stream.changes()
    assert len(changes) == CHANGES
    assert changes[0]["text"] == f"order {CHANGES + 4}"
