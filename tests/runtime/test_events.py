"""Events of the real program with two workers, read from its stream, and its log as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import TIMEOUT, StartProgram, document, programs, service
from tests.conftest import MakeEndpoint
from tests.runtime.test_supervisor import Gate, Proxies, Proxy
from tests.scripted import RawClient, get

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

STICKY = 'sticky_session_cookie = "session"'


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


@pytest.fixture
async def proxies(start: StartProgram, tmp_path: Path) -> AsyncIterator[Proxies]:
    """Starts proxies with two workers."""
    made = Proxies(start, tmp_path)
    async with made.stack:
        yield made


class Stream:
    """The events of a proxy."""

    def __init__(self, admin: Path) -> None:
        self._admin = admin
        self._writer: asyncio.StreamWriter | None = None
        self.seen: list[dict[str, Any]] = []

    async def __aenter__(self) -> Stream:
        self._reader, self._writer = await asyncio.open_unix_connection(self._admin)
        self._writer.write(get("/v1/events"))
        await self._reader.readuntil(b"retry: 2000\n\n")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        self._writer.close()
        await self._writer.wait_closed()

    async def says(self, event: str, **details: object) -> dict[str, Any]:
        """Read until it says this."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                line = await self._reader.readline()
                assert line, "the stream has ended"
                if not line.startswith(b"data: "):
                    continue
                found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                self.seen.append(found)
                if found["event"] == event and details.items() <= found.items():
                    return found

    def of(self, event: str) -> list[dict[str, Any]]:
        """Those that were read of a word."""
        return [each for each in self.seen if each["event"] == event]


async def pinned(proxy: Proxy, wanted: bytes) -> dict[int, list[tuple[RawClient, str]]]:
    """Connections to each worker, with a pin of the endpoint that responds like this."""
    found: dict[int, list[tuple[RawClient, str]]] = {}
    for pid, users in (await proxy.users(each=1)).items():
        for user in users:
            async with asyncio.timeout(TIMEOUT):
                while True:
                    await user.send(get())
                    response = await user.response()
                    if response.body == wanted:
                        break
            [cookie] = response.values("set-cookie")
            found.setdefault(pid, []).append((user, cookie.partition(b";")[0].decode()))
    return found


async def test_an_endpoint_that_dies_and_comes_back(
    proxies: Proxies, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    """Both workers eject it, and it is told once; so is its coming back. Every session that moves
    is counted, whichever worker has it."""
    well, ill = await endpoint(Gate(b"well")), await endpoint(Gate(b"ill"))
    admin = tmp_path / "admin.sock"
    table = service("demo", [well.address, ill.address], STICKY)
    proxy = await proxies(table, admin=f'address = "unix:{admin}"')
    users = await pinned(proxy, b"ill")
    async with Stream(admin) as stream:
        await ill.stop()
        moves = 0
        for each in users.values():
            user, cookie = each[0]
            for _ in range(4):
                await user.send(get(Cookie=cookie))
                assert (await user.response()).body == b"well"
                moves += 1
        found = await stream.says("endpoint-ejected")
        assert (found["service"], found["endpoint"]) == ("demo", ill.address)
        assert (found["level"], found["reason"]) == ("warning", "it accepts no connections")
        while sum(each["sessions"] for each in stream.of("sessions-moved")) < moves:
            moved = await stream.says("sessions-moved", service="demo")
            assert moved["from"] == ill.address
            assert moved["reason"] in ("repinned-failed", "repinned-down")
        assert sum(each["sessions"] for each in stream.of("sessions-moved")) == moves
        await ill.start()
        await stream.says("endpoint-back", endpoint=ill.address)
        for verb in ("is down: it accepts", "is back"):
            for number in (1, 2):
                said = rf"worker {number}: service demo: .* {verb}"
                await proxy.program.err.says(said, anywhere=True)
        assert len(stream.of("endpoint-ejected")) == 1
        assert len(stream.of("endpoint-back")) == 1


async def test_what_else_happens(proxies: Proxies, endpoint: MakeEndpoint, tmp_path: Path) -> None:
    one, two = await endpoint(Gate(b"one")), await endpoint(Gate(b"two"))
    admin = f'address = "unix:{tmp_path}/admin.sock"'
    proxy = await proxies(service("demo", [one.address], STICKY), admin=admin)
    async with Stream(tmp_path / "admin.sock") as stream:
        proxies.write(service("demo", [one.address, two.address], STICKY), admin=admin)
        joined = await stream.says("endpoint-joined")
        assert joined["endpoint"] == two.address
        await stream.says("table-swapped", services=1, endpoints=2)
        await stream.says("config-reloaded", services=1)
        proxies.config.write_text("[[services]]\nname = 1\n")
        refused = await stream.says("config-refused")
        assert refused["level"] == "error"
        assert "services[0]" in refused["reason"]
        proxies.write(service("demo", [two.address], STICKY), admin=admin)
        left = await stream.says("endpoint-left")
        assert left["endpoint"] == one.address
        os.kill(proxy.pids[2], signal.SIGKILL)
        lost = await stream.says("worker-lost")
        assert (lost["worker"], lost["reason"]) == (2, "was killed by SIGKILL")
        await stream.says("worker-ready", worker=2)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "admin.sock")
        body = b'{"target": "demo/1", "admin_state": "drain"}'
        writer.write(
            b"POST /v1/admin_state HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()
        order = await stream.says("order-given")
        assert (order["target"], order["admin_state"]) == (f"demo/{two.address}", "drain")
        await stream.says("endpoint-draining", endpoint=two.address)


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_log_as_json(
    start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path, workers: int
) -> None:
    """Every line, whoever writes it."""
    well, gone = await endpoint(Gate(b"well")), await endpoint(listening=False)
    config = tmp_path / "config.toml"
    table = service("demo", [well.address, gone.address])
    config.write_text(document(table, '[log]\nformat = "json"', workers=workers))
    program = await start("serve", "--config", config)
    match = await program.err.says(r" on 127\.0\.0\.1:(\d+)\"")
    async with await RawClient.connect(int(match[1])) as user:
        for _ in range(8):
            await user.send(get())
            assert (await user.response()).body == b"well"
    await program.err.says("endpoint-ejected")
    await program.stop()
    rows = [json.loads(line) for line in program.err.text.splitlines()]
    assert all({"time", "level", "text"} <= row.keys() for row in rows)
    [ejected] = [row for row in rows if row.get("event") == "endpoint-ejected"]
    assert ejected["endpoint"] == gone.address
    assert ejected["level"] == "warning"
    assert ("worker" in ejected) == (workers > 1)
