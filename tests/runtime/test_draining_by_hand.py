"""Endpoints are drained by ``stickyproxy drain`` while the proxy runs: real processes, real
sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest

from tests.cli.test_main import Program, StartProgram, asked, document, programs, service
from tests.conftest import MakeEndpoint
from tests.scripted import EndpointConnection, RawClient, Script, get, ok

both = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


def says(name: bytes) -> Script:
    async def script(conn: EndpointConnection) -> None:
        while await conn.request() is not None:
            await conn.send(ok(name))

    return script


class Site:
    """A proxy with two endpoints, ``one`` and ``two``, and the operator in front of it."""

    def __init__(
        self, start: StartProgram, folder: Path, addresses: tuple[str, str], workers: int
    ) -> None:
        self._start = start
        self.admin = f"unix:{folder}/admin.sock"
        page = f"[admin]\naddress = '{self.admin}'\nstate_file = '{folder}/orders.json'\n"
        shop = service("shop", addresses, 'sticky_session_cookie = "session"')
        self.config = folder / "config.toml"
        self.config.write_text(document(page, shop, workers=workers))

    async def serve(self) -> tuple[Program, int]:
        """It runs; with the port."""
        program = await self._start("serve", "--config", self.config)
        return program, await program.listening()

    async def admin_state(self, wanted: str) -> dict[str, Any]:
        """Of the first endpoint, after this is wanted of it."""
        socket = aiohttp.UnixConnector(self.admin.removeprefix("unix:"))
        url = "http://localhost/v1/admin_state"
        async with aiohttp.ClientSession(connector=socket) as session:
            body = {"target": "shop/1", "admin_state": wanted}
            async with session.post(url, json=body) as answer:
                found: dict[str, Any] = (await answer.json())["endpoints"][0]
                return found

    async def operator(self, *words: str) -> tuple[int, str]:
        """Exit status and output of a command."""
        program = await self._start(*words, "--config", self.config)
        return await program.ended(), program.out.text + program.err.text


async def visit(port: int, cookie: bytes = b"") -> tuple[bytes, bytes]:
    """(name of the endpoint, cookie to show the next time)."""
    shown = {"cookie": cookie.decode()} if cookie else {}
    response = await asked(port, get(host="shop.local", **shown))
    given = response.header("set-cookie")
    return response.body, cookie if given is None else given.partition(b";")[0]


async def session_at(port: int, name: bytes) -> bytes:
    """The cookie of a new session there."""
    for _ in range(50):
        found, cookie = await visit(port)
        if found == name:
            return cookie
    raise AssertionError(f"no session at {name!r}")


@pytest.fixture
async def addresses(endpoint: MakeEndpoint) -> tuple[str, str]:
    one, two = await endpoint(says(b"one")), await endpoint(says(b"two"))
    return one.address, two.address


@both
async def test_sessions_stay_and_new_ones_go_elsewhere(
    start: StartProgram, tmp_path: Path, addresses: tuple[str, str], workers: int
) -> None:
    site = Site(start, tmp_path, addresses, workers)
    program, port = await site.serve()
    pinned = await session_at(port, b"one")

    status, said = await site.operator("drain", "shop/1")
    assert status == 0, said
    assert {(await visit(port))[0] for _ in range(20)} == {b"two"}
    assert {await visit(port, pinned) for _ in range(10)} == {(b"one", pinned)}

    status, said = await site.operator("drain", "shop/1", "--wait", "--idle=1h", "--timeout=0s")
    assert status == 1
    assert f"after 0s it is not empty: shop/{addresses[0]}: drain, 1 endpoint" in said

    await program.stop()
    program, port = await site.serve()
    assert {(await visit(port))[0] for _ in range(20)} == {b"two"}
    assert (await visit(port, pinned))[0] == b"one"

    status, said = await site.operator("undrain", f"shop/{addresses[0]}")
    assert status == 0, said
    assert await session_at(port, b"one") == pinned
    await program.stop()


@both
async def test_it_ends_when_nothing_is_left(
    start: StartProgram, tmp_path: Path, addresses: tuple[str, str], workers: int
) -> None:
    site = Site(start, tmp_path, addresses, workers)
    program, port = await site.serve()
    pinned = await session_at(port, b"one")
    assert (await site.operator("drain", "shop/1"))[0] == 0
    assert (await visit(port, pinned))[0] == b"one"
    status, said = await site.operator("drain", "shop/1", "--wait", "--idle=1s", "--json")
    assert status == 0, said
    [found] = json.loads(said)["endpoints"]
    assert (found["sessions"], found["busy"], found["empty"]) == (0, 0, True)
    assert found["quiet"] >= 1
    await program.stop()


@both
async def test_it_waits_for_what_is_under_way(
    start: StartProgram,
    tmp_path: Path,
    addresses: tuple[str, str],
    endpoint: MakeEndpoint,
    workers: int,
) -> None:
    async def slow(conn: EndpointConnection) -> None:
        assert await conn.request() is not None
        conn.tell("asked")
        await conn.eof()

    one = await endpoint(slow)
    site = Site(start, tmp_path, (one.address, addresses[1]), workers)
    program, port = await site.serve()
    assert (await site.operator("maintenance", "shop/2"))[0] == 0
    async with await RawClient.connect(port) as client:
        await client.send(get(host="shop.local"))
        await one.told()
        assert (await site.operator("undrain", "shop/2"))[0] == 0
        status, said = await site.operator("maintenance", "shop/1")
        assert status == 0, said
        waiting = await start("maintenance", "shop/1", "--wait", "--config", str(site.config))
        await waiting.out.says(r"1 requests under way")
        assert {(await visit(port))[0] for _ in range(10)} == {b"two"}
    assert await waiting.ended() == 0, waiting.err.text
    assert "empty" in waiting.out.text
    await program.stop()


@both
async def test_counting_begins_anew(
    start: StartProgram, tmp_path: Path, addresses: tuple[str, str], workers: int
) -> None:
    """What was seen, or not, under an earlier order says nothing of this one."""
    site = Site(start, tmp_path, addresses, workers)
    program, _ = await site.serve()
    first = await site.admin_state("drain")
    assert first["quiet"] is not None, "all workers have told when the order is in force"
    withdrawn = monotonic()
    await site.admin_state("ready")
    again = await site.admin_state("drain")
    assert again["quiet"] <= monotonic() - withdrawn + 0.001, "it is rounded"
    await program.stop()


async def test_what_is_refused(
    start: StartProgram, tmp_path: Path, addresses: tuple[str, str]
) -> None:
    site = Site(start, tmp_path, addresses, 1)
    program, _ = await site.serve()
    status, said = await site.operator("drain", "shup")
    assert (status, said) == (1, 'there is no service "shup": there are shop\n')
    status, said = await site.operator("drain", "shop", "--timeout", "5")
    assert status == 2
    assert "has no unit" in said
    await program.stop()
    status, said = await site.operator("drain", "shop")
    assert status == 1
    assert "no proxy answers on" in said


async def test_a_controller_is_told(start: StartProgram, tmp_path: Path) -> None:
    """It is found by its configuration, which has the token; there is no Swarm here."""
    config = tmp_path / "controller.toml"
    swarm = f"[providers.swarm]\nendpoint = 'unix://{tmp_path}/none.sock'\nproxy_service = 'lb'\n"
    table = f"[controller]\ntoken = 's3cret'\nstate_file = '{tmp_path}/orders.json'\n"
    config.write_text(f"{swarm}{table}address = '127.0.0.1:0'\n")
    program = await start("controller", "--config", config)
    port = (await program.err.says(r"127\.0\.0\.1:(\d+)"))[1]
    config.write_text(f"{table}address = '127.0.0.1:{port}'\n")
    command = await start("drain", "shop", "--config", config)
    assert await command.ended() == 1
    assert command.err.text == 'there is no service "shop": there are none\n'
    command = await start("drain", "shop", "--admin", f"127.0.0.1:{port}")
    assert await command.ended() == 1
    assert command.err.text.startswith("the token is missing or wrong")
    assert command.err.text.endswith(" (--token-file FILE, or --config FILE)\n")
    await program.stop()
