"""control/server.py: what is bounded there, and what is not worth a line in the log."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp import web

from stickyproxy.base.addresses import Address
from stickyproxy.control.server import ControlServer
from tests.scripted import RawClient, get

TIMEOUT = 30.0


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def bug(_request: web.Request) -> web.Response:
    raise RuntimeError("this is one")


async def started(most: int = 1024, head_seconds: float = 10.0) -> tuple[ControlServer, int]:
    """The server and its port."""
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/bug", bug)
    server = ControlServer(app, most=most, head_seconds=head_seconds)
    bound = await server.start(Address("127.0.0.1", 0))
    return server, int(bound.rpartition(":")[2])


async def test_no_more_connections_than_so_many() -> None:
    """One that ends makes room."""
    server, port = await started(most=3)
    clients = [await RawClient.connect(port) for _ in range(3)]
    for each in clients:
        await each.send(get())
        assert (await each.response()).status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(TIMEOUT):
        assert await reader.read() == b""
    writer.close()
    clients.pop().close()
    async with asyncio.timeout(TIMEOUT):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(get(Connection="close"))
            answer = await reader.read()
            writer.close()
            if answer:
                break
    assert answer.startswith(b"HTTP/1.1 200 ")
    for each in clients:
        each.close()
    await server.stop()


@pytest.mark.parametrize(
    "data", [b"\x00\r\n\r\n", b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n", b"GET\r\n\r\n"]
)
async def test_what_is_no_http_is_not_logged(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server, port = await started()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(TIMEOUT):
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
    writer.close()
    await server.stop()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_bug_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    server, port = await started()
    async with await RawClient.connect(port) as client:
        await client.send(get("/bug"))
        assert (await client.response()).status == 500
    await server.stop()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a"])
async def test_who_asks_for_nothing_is_closed(sent: bytes) -> None:
    """Or else whoever reaches the listener could take all connections, also without a token."""
    server, port = await started(head_seconds=1.0)
    asker = await RawClient.connect(port)
    await asker.send(get())
    assert (await asker.response()).status == 200
    silent = await RawClient.connect(port)
    await silent.send(sent)
    await silent.closed()
    await asker.send(get())
    assert (await asker.response()).status == 200
    asker.close()
    silent.close()
    await server.stop()
