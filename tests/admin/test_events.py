"""admin/events.py: the stream of events, over HTTP."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web
from jsonschema_rs import Draft202012Validator

from stickyproxy.admin import events, openapi
from stickyproxy.admin.access import Access
from stickyproxy.admin.events import STREAMS
from stickyproxy.control.server import ControlServer
from stickyproxy.control.stream import Stream
from stickyproxy.model.events import Event, EventKind
from tests.admin.sites import HERE, Site, site

TIMEOUT = 30.0


def order(number: int, padding: str = "") -> Event:
    return Event(EventKind.ORDER_GIVEN, f"order {number}{padding}", {"target": str(number)})


class Reader:
    """A client of the stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self.fields: dict[str, str] = {}

    async def begin(self, path: str, **fields: str) -> None:
        """Ask for it and read the head."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in named.items()]
        self.writer.write("\r\n".join((*lines, "", "")).encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *rest = head.split("\r\n")[:-2]
        self.status = int(first.split()[1])
        self.fields = {name.lower(): value for name, value in (x.split(": ", 1) for x in rest)}

    async def event(self) -> dict[str, Any]:
        """The next one."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                line = await self.reader.readline()
                assert line, "the stream has ended"
                if line.startswith(b"data: "):
                    found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                    return found

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def reader(place: Site, path: str = "/v1/events", **fields: str) -> Reader:
    """One that has begun."""
    port = int(place.url.rpartition(":")[2])
    made = Reader(*await asyncio.open_connection("127.0.0.1", port))
    await made.begin(path, **fields)
    return made


async def test_as_they_come() -> None:
    stream = Stream()
    stream.put(order(0))
    schema = openapi.document()["components"]["schemas"]["Event"]
    async with site(stream=stream) as place:
        one = await reader(place)
        assert (one.status, one.fields["content-type"]) == (200, "text/event-stream")
        stream.put(order(1))
        found = await one.event()
        assert (found["text"], found["target"]) == ("order 1", "1")
        Draft202012Validator(schema | {"additionalProperties": False}).validate(found)
        await one.close()

        other = await reader(place, Last_Event_ID=found["id"])
        stream.put(order(2))
        assert (await other.event())["text"] == "order 2"
        await other.close()

        last = await reader(place, "/v1/events?last=2")
        assert [(await last.event())["text"] for _ in range(2)] == ["order 1", "order 2"]
        await last.close()
        _, found = await place.get("/v1/changes")
        assert [row["text"] for row in found["changes"]] == ["order 2", "order 1", "order 0"]


@pytest.mark.parametrize("id_", ["", "x", "-1", "%00", "é", "9" * 4000])
async def test_ids_that_are_none(id_: str) -> None:
    stream = Stream()
    stream.put(order(0))
    async with site(stream=stream) as place:
        one = await reader(place, Last_Event_ID=id_)
        assert (await one.event())["event"] == "events-missed"
        assert (await one.event())["text"] == "order 0"
        await one.close()


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "\u0664", "1e3", "9" * 4000, ""])
async def test_a_last_that_is_no_number(last: str) -> None:
    async with site() as place:
        code, _ = await place.get(f"/v1/events?last={last}")
        assert code == 400


async def test_methods() -> None:
    async with site() as place:
        assert (await place.request("HEAD", "/v1/events"))[0] == 405
        assert (await place.request("POST", "/v1/events"))[0] == 405


async def test_who_may_read() -> None:
    async with site(Access(HERE, read_token=b"read")) as place:
        assert (await place.get("/v1/events"))[0] == 401
        one = await reader(place, Authorization="Bearer read")
        assert one.status == 200
        await one.close()


async def test_there_are_no_more_than_so_many() -> None:
    """And one that has gone makes room."""
    async with site() as place:
        readers = [await reader(place) for _ in range(STREAMS)]
        assert (await place.get("/v1/events"))[0] == 503
        await readers.pop().close()
        async with asyncio.timeout(TIMEOUT):
            while (again := await reader(place)).status == 503:
                await again.close()
        for each in (*readers, again):
            await each.close()


async def test_who_does_not_read_is_cut() -> None:
    """And nobody else notices, while the buffer goes round."""
    stream, app = Stream(), web.Application()
    events.add_routes(app, stream, patience=0.2)
    server = ControlServer(app)
    port = int((await server.start(HERE)).rpartition(":")[2])
    lazy = socket.create_connection(("127.0.0.1", port))
    lazy.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    poll = select.poll()
    poll.register(lazy, select.POLLHUP)
    cut = asyncio.create_task(asyncio.to_thread(poll.poll, TIMEOUT * 1000))
    eager = Reader(*await asyncio.open_connection("127.0.0.1", port))
    await eager.begin("/v1/events")
    number = 0
    while not cut.done():
        number += 1
        stream.put(order(number, "x" * 4000))
        while (await eager.event())["target"] != str(number):
            pass
    assert await cut, "it was not cut"
    lazy.close()
    await eager.close()
    await server.stop()
