"""One proxy after another on the same listeners: real programs, and clients that do not notice."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from stickyproxy.base.addresses import join_host_port
from stickyproxy.base.errors import ListenError
from stickyproxy.dataplane.downstream.delivery import undelivered
from stickyproxy.handover import taking
from tests.cli.test_main import (
    TIMEOUT,
    Program,
    StartProgram,
    asked,
    document,
    over_unix,
    programs,
    service,
)
from tests.conftest import MakeClient
from tests.runtime.test_supervisor import children
from tests.scripted import RawClient, get, ok

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SOCK_SEQPACKET, SO_PEERCRED")

SIZE = 20_000_000


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


SOME = 200_000
"""Bytes that the kernel takes at once, and a client that does not read hardly any of."""


@asynccontextmanager
async def files() -> AsyncIterator[str]:
    """The address of an endpoint that has 20 MB at /big, less at /some, else a greeting. A scripted
    one would not wait for a client that reads later."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = {b"/big": SIZE, b"/some": SOME}.get(head.split()[1])
                writer.write(ok(b"hello" if size is None else b"x" * size))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield join_host_port(*server.sockets[0].getsockname()[:2])
    finally:
        # Not waiting for connections: after a test that failed, a proxy may still hold some.
        server.close()


class Proxies:
    """Proxies that follow one another, with a service "demo"."""

    def __init__(self, start: StartProgram, folder: Path, endpoint: str) -> None:
        self._start = start
        self.folder = folder
        self.endpoint = endpoint
        self.source = f'handover = "{folder}/handover.sock"'

    async def launch(self, workers: int = 1, *more: str, listener: str = "127.0.0.1:0") -> Program:
        """Start one; ``more`` are further tables."""
        config = self.folder / f"{len(list(self.folder.iterdir()))}.toml"
        config.write_text(
            document(
                *(service("demo", [self.endpoint]), *more),
                listener=listener,
                # However long the test takes: a download under way is read at its end.
                proxy=[self.source, 'grace_period = "10m"', 'client_timeout = "10m"'],
                workers=workers,
            )
        )
        return await self._start("serve", "--config", config)

    async def next(self, workers: int = 1) -> tuple[Program, int]:
        """Start one and wait until it accepts; returns its port too."""
        program = await self.launch(workers)
        return program, await program.listening()


@pytest.fixture
async def proxies(start: StartProgram, tmp_path: Path) -> AsyncIterator[Proxies]:
    """Starts proxies that follow one another."""
    async with files() as address:
        yield Proxies(start, tmp_path, address)


class Load:
    """Clients that ask all the time, on connections of their own and on kept ones, until the end
    of the test at the latest."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = asyncio.Event()
        self.answers = 0
        self._tasks = [asyncio.create_task(self._fresh()) for _ in range(4)]
        self._tasks += [asyncio.create_task(self._kept()) for _ in range(4)]

    async def end(self) -> None:
        """Stop asking. Raises what any client met."""
        self._over.set()
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*self._tasks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()

    async def _fresh(self) -> None:
        while not self._over.is_set():
            self._good((await asked(self._port, get(host="demo.local"))).status)

    async def _kept(self) -> None:
        while not self._over.is_set():
            async with await RawClient.connect(self._port) as user:
                closes = False
                while not (closes or self._over.is_set()):
                    await user.send(get(host="demo.local"))
                    response = await user.response()
                    self._good(response.status)
                    closes = response.closes

    def _good(self, status: int) -> None:
        assert status == 200
        self.answers += 1


async def all_are_answered(port: int, clients: int = 64) -> None:
    """So many connections at a time that every socket that shares the port gets some."""
    answers = await asyncio.gather(*(asked(port, get(host="demo.local")) for _ in range(clients)))
    assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize("workers", [(1, 1, 1, 1, 1, 1), (2, 3, 1, 4, 2, 2)])
async def test_no_client_notices_an_upgrade(proxies: Proxies, workers: Sequence[int]) -> None:
    first, *others = workers
    program, port = await proxies.next(first)
    ended = [program]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/big", host="demo.local"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    with Load(port) as load:
        for count in others:
            program, same_port = await proxies.next(count)
            assert same_port == port
            ended.append(program)
            await all_are_answered(port)
        await load.end()
        assert load.answers > 0
    async with asyncio.timeout(TIMEOUT):
        body = await reader.readexactly(SIZE)
    assert body == b"x" * SIZE
    writer.close()
    for program in ended[:-1]:
        assert await program.ended() == 0
        assert "another process has taken over" in program.err.text
    await ended[-1].stop()


async def test_an_idle_connection_is_told_that_its_next_response_is_the_last(
    proxies: Proxies, client: MakeClient
) -> None:
    old, port = await proxies.next()
    user = await client(port)
    await user.send(get(host="demo.local"))
    assert not (await user.response()).closes
    await proxies.next()
    await old.err.says("stopping")
    await user.send(get(host="demo.local"))
    response = await user.response()
    assert (response.status, response.closes) == (200, True)
    assert await user.closed() == "eof"
    assert await old.ended() == 0


async def test_a_signal_does_not_end_at_once_what_leaves_already(proxies: Proxies) -> None:
    """A Swarm, too, tells the old one to stop."""
    old, port = await proxies.next()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/big", host="demo.local"))
    await reader.readuntil(b"\r\n\r\n")
    await proxies.next()
    await old.err.says("stopping")
    old.signal(signal.SIGTERM)
    async with asyncio.timeout(TIMEOUT):
        assert len(await reader.readexactly(SIZE)) == SIZE
    writer.close()
    assert await old.ended() == 0


async def test_unix_sockets_too(proxies: Proxies) -> None:
    path = proxies.folder / "web.sock"
    old = await proxies.launch(listener=f"unix:{path}")
    await old.err.says("serves on")
    new = await proxies.launch(listener=f"unix:{path}")
    await new.err.says("serves on")
    assert await old.ended() == 0
    assert await over_unix(path) == b"hello"
    await new.stop()
    assert not path.exists()


async def test_the_admin_page_goes_along(proxies: Proxies) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    admin = f'[admin]\naddress = "127.0.0.1:{port}"'
    old = await proxies.launch(1, admin)
    await old.listening()
    new = await proxies.launch(1, admin)
    await new.listening()
    assert await old.ended() == 0
    assert (await asked(port, get("/healthz"))).status == 200
    await new.stop()


async def test_listening_beside_a_frozen_proxy(proxies: Proxies) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    old = await proxies.launch(listener=f"127.0.0.1:{port}")
    await old.listening()
    old.signal(signal.SIGSTOP)
    new = await proxies.launch(listener=f"127.0.0.1:{port}")
    assert await new.listening() == port
    assert "is frozen" in new.err.text
    asking = [asyncio.create_task(asked(port, get(host="demo.local"))) for _ in range(32)]
    try:
        done, _ = await asyncio.wait(asking, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().status for task in done} == {200}
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    await old.kill()
    await all_are_answered(port)
    await new.stop()


async def test_a_successor_that_cannot_start_changes_nothing(
    proxies: Proxies, start: StartProgram
) -> None:
    old, port = await proxies.next()
    with Load(port) as load:
        bad = proxies.folder / "bad.toml"
        bad.write_text("[proxy]\nnonsense = 1\n")
        program = await start("serve", "--config", bad)
        assert await program.ended() == 1
        # This one gets the listeners, and then fails.
        with socket.create_server(("127.0.0.1", 0)) as taken:
            another = f'[[listeners]]\naddress = "127.0.0.1:{taken.getsockname()[1]}"'
            program = await proxies.launch(1, another)
            assert await program.ended() == 1
            assert "another program listens there" in program.err.text
        await old.err.says("has ended; serving goes on")
        await all_are_answered(port)
        _, same_port = await proxies.next()
        assert same_port == port
        await load.end()
    assert await old.ended() == 0


async def test_nobody_takes_over_who_knows_no_routes(proxies: Proxies) -> None:
    old, port = await proxies.next()
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    follow = f'[providers.controller]\nurl = "http://127.0.0.1:{nobody}"\ntoken = "{"t" * 32}"'
    new = await proxies.launch(1, follow)
    assert await new.ended() == 1
    assert "not taking over from the proxy that serves now" in new.err.text
    await all_are_answered(port)
    await old.stop()


async def test_one_successor_at_a_time(proxies: Proxies) -> None:
    old, port = await proxies.next()
    socket_file = proxies.folder / "handover.sock"
    path = str(socket_file)
    first = await asyncio.to_thread(taking.take, path, ["127.0.0.1:0"], 1)
    assert first.groups["127.0.0.1:0"][0][0].getsockname()[1] == port
    with pytest.raises(ListenError, match="another process is taking over"):
        await asyncio.to_thread(taking.take, path, ["127.0.0.1:0"], 1)
    first.drop()
    await old.err.says("has ended; serving goes on")
    await all_are_answered(port)
    await old.stop()
    assert not socket_file.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="it needs another user")
async def test_another_user_gets_nothing(proxies: Proxies) -> None:
    old, _ = await proxies.next()
    path = proxies.folder / "handover.sock"
    path.chmod(0o777)
    for folder in [proxies.folder, *proxies.folder.parents][:3]:
        folder.chmod(0o755)
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.connect(sys.argv[1]); print(socket.recv_fds(s, 100, 9)[:2])"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        ["/usr/bin/env", "python3", "-c", script, str(path)],
        user=65534,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.stdout == "(b'', [])\n", done.stderr
    await old.err.says("listeners were not handed over: user 65534")
    await old.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="it makes a PID namespace")
@pytest.mark.parametrize("workers", [1, 2])
async def test_the_first_process_of_a_container_waits_for_the_last_bytes(
    tmp_path: Path, workers: int
) -> None:
    """A download to a slow client was cut: the network goes with the container, and with it what
    was written and not yet sent."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "config.toml"
    async with files() as address:
        config.write_text(
            document(service("demo", [address]), listener=f"127.0.0.1:{port}", workers=workers)
        )
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "stickyproxy"),
            *("serve", "--config", str(config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        program = Program(process)
        try:
            await program.listening()
            with socket.socket() as user:
                user.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                user.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(user, ("127.0.0.1", port))
                await loop.sock_sendall(user, get("/some", host="demo.local"))
                begun = await loop.sock_recv(user, 1)
                [first] = children(process.pid)
                os.kill(first, signal.SIGTERM)
                await program.err.says("the last bytes of 1 connections are on their way")
                async with asyncio.timeout(TIMEOUT):
                    while data := await loop.sock_recv(user, 65536):
                        begun += data
            assert begun.endswith(b"\r\n\r\n" + b"x" * SOME)
            assert await program.ended() == 0
        finally:
            await program.kill()


class TestUndelivered:
    def test_what_a_closed_connection_has_yet_to_send(self) -> None:
        """The end of a container takes it along."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as reader:
                writer, _ = server.accept()
                writer.setblocking(False)
                sent = 0
                try:
                    while True:
                        sent += writer.send(b"x" * 65536)
                except BlockingIOError:
                    pass
                assert undelivered({port}) == 0, "it is still open"
                writer.close()
                assert undelivered({port}) == 1
                assert undelivered({port + 1}) == 0
                got = 0
                while data := reader.recv(1 << 20):
                    got += len(data)
                assert got == sent
                assert undelivered({port}) == 0
