"""handover/keeper.py: it has the listeners, whatever becomes of proxies. Real programs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stickyproxy.base.errors import ListenError
from stickyproxy.handover import taking
from tests.cli.test_main import Program, StartProgram, programs, refused
from tests.conftest import MakeClient
from tests.runtime.test_succession import Load, Proxies, all_are_answered, files
from tests.scripted import RawClient, get

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SOCK_SEQPACKET, SO_PEERCRED")


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


@pytest.fixture
async def proxies(start: StartProgram, tmp_path: Path) -> AsyncIterator[Proxies]:
    """Starts proxies that have a keeper."""
    async with files() as address:
        made = Proxies(start, tmp_path, address)
        made.source = f'keeper = "{tmp_path}/listeners.sock"'
        yield made


async def keeper(start: StartProgram, folder: Path, *options: str) -> Program:
    """A keeper that listens."""
    program = await start("keeper", "--socket", folder / "listeners.sock", *options)
    await program.err.says("listens on")
    return program


@pytest.mark.parametrize("workers", [(1, 1, 1, 1, 1, 1), (2, 3, 1, 4, 2, 2)])
async def test_no_client_notices_an_upgrade(
    start: StartProgram, proxies: Proxies, workers: tuple[int, ...]
) -> None:
    """As an orchestrator does it: the next one is started, and then the one before it stopped."""
    keeps = await keeper(start, proxies.folder)
    first, *others = workers
    old, port = await proxies.next(first)
    load = Load(port)
    for count in others:
        new, same_port = await proxies.next(count)
        assert same_port == port
        await old.stop()
        await all_are_answered(port)
        old = new
    await load.end()
    await old.stop()
    await keeps.stop()
    await refused(port)


async def test_clients_wait_while_there_is_no_proxy(
    start: StartProgram, proxies: Proxies, client: MakeClient
) -> None:
    """Also those that the dead one had not accepted, although they were in its queue."""
    await keeper(start, proxies.folder)
    old, port = await proxies.next()
    old.signal(signal.SIGSTOP)
    waiting: list[RawClient] = [await client(port) for _ in range(5)]
    for user in waiting:
        await user.send(get(host="demo.local"))
    await old.kill()
    waiting.append(await client(port))
    await waiting[-1].send(get(host="demo.local"))
    new, _ = await proxies.next(2)
    assert [(await user.response()).status for user in waiting] == [200] * 6
    await new.stop()


async def test_after_a_while_clients_are_refused(start: StartProgram, proxies: Proxies) -> None:
    keeps = await keeper(start, proxies.folder, "--patience", "0.1")
    old, port = await proxies.next()
    await old.stop()
    await refused(port)
    await keeps.err.says("no proxy for 0.1 s: clients are refused until one comes")
    new, port = await proxies.next()
    await all_are_answered(port)
    await new.stop()


async def test_a_proxy_waits_for_its_keeper(start: StartProgram, proxies: Proxies) -> None:
    proxy = await proxies.launch()
    await keeper(start, proxies.folder)
    await all_are_answered(await proxy.listening())
    await proxy.stop()


async def test_a_proxy_ends_with_its_keeper(start: StartProgram, proxies: Proxies) -> None:
    """To be started again, and to be given the listeners of the next keeper."""
    first = await keeper(start, proxies.folder)
    proxy, _ = await proxies.next()
    await first.kill()
    second = await keeper(start, proxies.folder)
    assert await proxy.ended() == 1
    assert "the keeper has ended, and the listeners with it" in proxy.err.text
    again, port = await proxies.next()
    await all_are_answered(port)
    await again.stop()
    await second.stop()


async def test_one_keeper_after_another(start: StartProgram, proxies: Proxies) -> None:
    """Where both have the same network, a keeper can be replaced too."""
    first = await keeper(start, proxies.folder)
    proxy, port = await proxies.next(2)
    load = Load(port)
    second = await keeper(start, proxies.folder)
    await first.stop()
    await proxy.err.says("another keeper has taken over")
    await all_are_answered(port)
    new, same_port = await proxies.next()
    assert same_port == port
    await proxy.stop()
    await load.end()
    await new.stop()
    await second.stop()


async def test_an_address_that_nobody_wants_any_more_is_closed(
    start: StartProgram, proxies: Proxies
) -> None:
    await keeper(start, proxies.folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    old = await proxies.launch(1, f'[[listeners]]\naddress = "127.0.0.1:{port}"')
    await old.err.says("serves on")
    await all_are_answered(port)
    new, other = await proxies.next()
    await old.stop()
    await refused(port)
    await all_are_answered(other)
    await new.stop()


async def test_what_cannot_be_opened_is_said_to_the_proxy(
    start: StartProgram, proxies: Proxies
) -> None:
    await keeper(start, proxies.folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        proxy = await proxies.launch(listener=f"127.0.0.1:{taken.getsockname()[1]}")
        assert await proxy.ended() == 1
    assert "another program listens there" in proxy.err.text


async def test_nonsense_harms_nobody(start: StartProgram, proxies: Proxies) -> None:
    await keeper(start, proxies.folder)
    path = str(proxies.folder / "listeners.sock")
    for packet in (b"{", b"[]", b"{}", b'{"take": 5}', b'{"take": [], "shares": 1000}', b'"x"'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(path)
            sock.send(packet)
    taken = await asyncio.to_thread(taking.take, path, ["127.0.0.1:0"], 3)
    [group] = taken.groups["127.0.0.1:0"]
    assert len(group) == 3
    taken.drop()
    with pytest.raises(ListenError, match="no port"):
        await asyncio.to_thread(taking.take, path, ["nonsense"], 3)


def test_it_loads_little() -> None:
    """There is one on every node, and it never ends."""
    script = (
        "import sys, stickyproxy.handover.keeper;"
        "print(*sorted({'asyncio', 'aiohttp', 'pydantic', 'docker', 'ssl'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout == "\n"
