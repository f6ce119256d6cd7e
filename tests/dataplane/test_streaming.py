"""Bodies flow: nothing waits for more than it needs, and nobody's slowness is paid in memory."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import Behind, MakeClient, MakeEndpoint
from tests.scripted import (
    EndpointConnection,
    RawClient,
    ScriptedEndpoint,
    chunk,
    get,
    post,
    request,
    respond,
)

HOST = ("Host", "demo.local")
CHUNKED = ("Transfer-Encoding", "chunked")
CLOSE = ("Connection", "close")
EVENTS = ("Content-Type", "text/event-stream")


async def some_body(user: RawClient | EndpointConnection, length: int) -> bytes:
    """That many bytes of the body, in however many pieces they come."""
    body = b""
    while len(body) < length:
        piece = await user.body_some()
        assert piece, f"the body ended after {body!r}"
        body += piece
    return body


class TestInStep:
    """Each side sends only after the other has what was sent before: nothing is held back."""

    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
    @pytest.mark.parametrize("framing", ["chunked", "close", "length"])
    async def test_server_sent_events(
        self, behind: Behind, client: MakeClient, framing: str, version: str
    ) -> None:
        events = [b"data: %d\n\n" % number for number in range(20)]
        confirmed = asyncio.Queue[bytes]()

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            field = {
                "chunked": CHUNKED,
                "close": CLOSE,
                "length": ("Content-Length", str(sum(map(len, events)))),
            }[framing]
            await conn.send(respond("200 OK", EVENTS, field))
            assert await confirmed.get() == b"head"
            for event in events:
                await conn.send(chunk(event) if framing == "chunked" else event)
                assert await confirmed.get() == event
            if framing == "chunked":
                await conn.send(b"0\r\n\r\n")
            if framing == "length":
                await conn.eof()

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, version=version))
        assert (await user.response_head()).header("content-type") == b"text/event-stream"
        confirmed.put_nowait(b"head")
        for event in events:
            confirmed.put_nowait(await some_body(user, len(event)))
        assert await user.body_some() == b""

    @pytest.mark.parametrize("framing", ["chunked", "length"])
    async def test_upload(self, behind: Behind, client: MakeClient, framing: str) -> None:
        pieces = [b"piece %02d" % number for number in range(20)]

        async def script(conn: EndpointConnection) -> None:
            assert await conn.head()
            conn.tell("head")
            while piece := await conn.body_some():
                conn.tell(piece)
            await conn.send(respond("200 OK", ("Content-Length", "0")))

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        size = sum(map(len, pieces))
        field = CHUNKED if framing == "chunked" else ("Content-Length", str(size))
        await user.send(request("POST", "/", HOST, field))
        assert await peer.told() == "head"
        for piece in pieces:
            await user.send(chunk(piece) if framing == "chunked" else piece)
            assert await peer.told() == piece
        if framing == "chunked":
            await user.send(b"0\r\n\r\n")
        assert (await user.response()).status == 200

    @pytest.mark.parametrize("framing", ["chunked", "length"])
    async def test_both_ways_at_once(
        self, behind: Behind, client: MakeClient, framing: str
    ) -> None:
        """The answer begins before the request ends, and each piece answers the one before."""
        pieces = [b"piece %02d" % number for number in range(20)]
        size = ("Content-Length", str(sum(map(len, pieces))))

        async def script(conn: EndpointConnection) -> None:
            assert await conn.head()
            await conn.send(respond("200 OK", CHUNKED if framing == "chunked" else size))
            while piece := await conn.body_some():
                await conn.send(chunk(piece) if framing == "chunked" else piece)
            if framing == "chunked":
                await conn.send(b"0\r\n\r\n")
            conn.tell(await conn.eof())

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(request("POST", "/", HOST, CHUNKED if framing == "chunked" else size))
        assert (await user.response_head()).status == 200
        for piece in pieces:
            await user.send(chunk(piece) if framing == "chunked" else piece)
            assert await some_body(user, len(piece)) == piece
        if framing == "chunked":
            await user.send(b"0\r\n\r\n")
        assert await user.body_some() == b""
        user.close()
        await peer.wait_connections(1)

    async def test_a_slow_reader_holds_up_nobody_else(
        self, behind: Behind, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if received.target == b"/endless":
                    await conn.send(respond("200 OK", CHUNKED))
                    while True:
                        await conn.send(chunk(bytes(1 << 16)))
                await conn.send(respond("200 OK", ("Content-Length", "2"), body=b"ok"))

        proxy, peer = await behind(script)
        slow = await client(proxy.port)
        await slow.send(get("/endless"))
        await slow.response_head()
        user = await client(proxy.port)
        for _ in range(20):
            await user.send(get())
            assert (await user.response()).body == b"ok"
        slow.abort()
        await peer.wait_open(1)


# --- large bodies --------------------------------------------------------------------------------

BLOCK = bytes(1 << 20)
BLOCKS = 1024
"""1 GiB."""
MAY_GROW = 50 << 20
"""What a proxy process may take for one such body."""
ON_THE_WAY = 64 << 20
"""More than all socket buffers between the peers can hold."""


class ServingProcess:
    """``stickyproxy serve`` in a process of its own."""

    def __init__(self, process: Process, port: int) -> None:
        self.port = port
        self._process = process

    def memory(self, name: str) -> int:
        """A size of the process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak."""
        status = Path(f"/proc/{self._process.pid}/status").read_text("ascii")
        match = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert match, status
        return int(match[1]) * 1024

    def forget_peak(self) -> None:
        """Let ``VmHWM`` begin anew."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", "ascii")


@asynccontextmanager
async def serving(peer: ScriptedEndpoint, directory: Path) -> AsyncIterator[ServingProcess]:
    """The proxy in front of that endpoint, ended with SIGTERM."""
    config = directory / "config.toml"
    config.write_text(
        f"""
        [[listeners]]
        address = "127.0.0.1:0"
        [access_log]
        format = "off"
        [[services]]
        name = "demo"
        hosts = ["demo.local"]
        endpoints = ["{peer.address}"]
        """,
        "ascii",
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stickyproxy", "serve", "--config", str(config), stderr=PIPE
    )
    try:
        async with asyncio.timeout(60):
            yield ServingProcess(process, await announced_port(process))
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


async def announced_port(process: Process) -> int:
    """The port that the log says it listens on."""
    assert process.stderr is not None
    log = b""
    while line := await process.stderr.readline():
        log += line
        if match := re.search(rb" on 127\.0\.0\.1:(\d+)$", line.strip()):
            return int(match[1])
    raise AssertionError(f"stickyproxy did not start: {log.decode()}")


async def until_stalled(progress: Callable[[], int]) -> int:
    """The sender has been held up for as long as it takes to be sure; how far it got."""
    seen = -1
    while seen != progress() or seen == 0:
        seen = progress()
        await asyncio.sleep(0.25)
    return seen


class TestLargeBodies:
    """1 GiB past a peer that first takes nothing at all: the proxy makes the sender wait."""

    async def test_download(
        self, endpoint: MakeEndpoint, client: MakeClient, tmp_path: Path
    ) -> None:
        sent = 0

        async def script(conn: EndpointConnection) -> None:
            nonlocal sent
            while (received := await conn.request()) is not None:
                blocks = BLOCKS if received.target == b"/large" else 1
                size = str(blocks * len(BLOCK))
                await conn.send(respond("200 OK", ("Content-Length", size)))
                for _ in range(blocks):
                    await conn.send(BLOCK)
                    sent += len(BLOCK)

        async with serving(await endpoint(script), tmp_path) as proxy:
            user = await client(proxy.port)
            await user.send(get())
            assert len((await user.response()).body) == len(BLOCK)
            proxy.forget_peak()
            before = proxy.memory("VmRSS")
            sent = 0
            await user.send(get("/large"))
            await user.response_head()
            assert await until_stalled(lambda: sent) < ON_THE_WAY
            total = 0
            while piece := await user.body_some():
                total += len(piece)
            assert total == BLOCKS * len(BLOCK)
            assert proxy.memory("VmHWM") - before < MAY_GROW
            user.close()

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_upload(
        self, endpoint: MakeEndpoint, client: MakeClient, tmp_path: Path, framing: str
    ) -> None:
        take = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.head()) is not None:
                if received.target == b"/large":
                    await take.wait()
                total = 0
                while piece := await conn.body_some():
                    total += len(piece)
                await conn.send(respond("200 OK", ("X-Total", str(total)), ("Content-Length", "0")))

        async with serving(await endpoint(script), tmp_path) as proxy:
            user = await client(proxy.port)
            await user.send(post(BLOCK))
            assert (await user.response()).header("x-total") == str(len(BLOCK)).encode()
            proxy.forget_peak()
            before = proxy.memory("VmRSS")
            size = BLOCKS * len(BLOCK)
            field = CHUNKED if framing == "chunked" else ("Content-Length", str(size))
            block = chunk(BLOCK) if framing == "chunked" else BLOCK
            await user.send(request("POST", "/large", HOST, field))
            sent = 0

            async def send() -> None:
                nonlocal sent
                for _ in range(BLOCKS):
                    await user.send(block)
                    sent += len(block)
                if framing == "chunked":
                    await user.send(b"0\r\n\r\n")

            sending = asyncio.create_task(send())
            assert await until_stalled(lambda: sent) < ON_THE_WAY
            take.set()
            await sending
            assert (await user.response()).header("x-total") == str(size).encode()
            assert proxy.memory("VmHWM") - before < MAY_GROW
            user.close()
