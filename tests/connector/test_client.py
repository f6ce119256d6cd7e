"""connector/client.py: against real connectors, and against scripted ones where it takes what no
real one does."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from stickyproxy.base.errors import ConnectError, NetworkUnavailable, OutOfResources
from stickyproxy.connector import wire
from stickyproxy.connector.client import Connectors
from tests.connector.running import NETWORK, FullListener, RunningConnector

LONG = 20.0
"""Seconds in which anything here comes about."""


@pytest.fixture
async def connectors(tmp_path: Path) -> AsyncIterator[Connectors]:
    """Those of a directory that has none at first."""
    made = Connectors(str(tmp_path))
    yield made
    made.close()


@pytest.fixture
async def greeter() -> AsyncIterator[tuple[str, int]]:
    """A TCP server that says "hello", and then what it is sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    async with server:
        yield server.sockets[0].getsockname()


Script = Callable[["ScriptedConnector"], Awaitable[None]]


class ScriptedConnector:
    """Does as it is told; accepts one peer. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(directory / f"{NETWORK}.sock"))
        self._listener.listen(1)
        self._listener.setblocking(False)
        self.peer: socket.socket | None = None

    def __enter__(self) -> ScriptedConnector:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        if self.peer is not None:
            self.peer.close()

    async def accept(self, version: int | None = wire.VERSION) -> None:
        """Take a peer, and say READY unless ``version`` is None."""
        loop = asyncio.get_running_loop()
        self.peer, _ = await loop.sock_accept(self._listener)
        self.peer.setblocking(False)
        if version is not None:
            self.answer(wire.READY, version, 0)

    async def request(self) -> int:
        """The number of the next one."""
        assert self.peer is not None
        loop = asyncio.get_running_loop()
        data = await loop.sock_recv(self.peer, 64)
        return int(wire.REQUEST.unpack(data)[3])

    def answer(self, kind: int, value: int, number: int, sock: socket.socket | None = None) -> None:
        """Send that, and perhaps a descriptor with it."""
        assert self.peer is not None
        message = wire.ANSWER.pack(kind, 0, value, number)
        if sock is None:
            self.peer.send(message)
        else:
            socket.send_fds(self.peer, [message], [sock.fileno()])


async def _hello(connectors: Connectors, address: tuple[str, int]) -> None:
    """Connect, and see that it is a connection."""
    sock = await connectors.connect(NETWORK, *address, LONG)
    with sock:
        assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"hello"


class TestConnecting:
    async def test_what_comes_makes_a_transport(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        with RunningConnector(tmp_path):
            sock = await connectors.connect(NETWORK, *greeter, LONG)
            assert not sock.getblocking()
            assert sock.family == socket.AF_INET
            reader, writer = await asyncio.open_connection(sock=sock)
            assert await reader.readexactly(5) == b"hello"
            writer.write(b"and back")
            assert await reader.readexactly(8) == b"and back"
            writer.close()
            await writer.wait_closed()

    async def test_it_is_not_inherited(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        with RunningConnector(tmp_path):
            sock = await connectors.connect(NETWORK, *greeter, LONG)
            with sock:
                assert not sock.get_inheritable()

    async def test_many_at_once(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        with RunningConnector(tmp_path):
            await asyncio.gather(*(_hello(connectors, greeter) for _ in range(500)))

    async def test_a_refusal(self, tmp_path: Path, connectors: Connectors) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            host, port = gone.getsockname()
        with (
            RunningConnector(tmp_path),
            pytest.raises(ConnectError, match=f"{host}:{port}: Connection refused .*network back"),
        ):
            await connectors.connect(NETWORK, host, port, LONG)

    async def test_no_answer_in_time(self, tmp_path: Path, connectors: Connectors) -> None:
        with (
            RunningConnector(tmp_path),
            FullListener() as address,
            pytest.raises(ConnectError, match=r"accepted no connection within 0\.1 s"),
        ):
            await connectors.connect(NETWORK, *address, 0.1)

    async def test_no_address(self, tmp_path: Path, connectors: Connectors) -> None:
        with RunningConnector(tmp_path), pytest.raises(ConnectError, match="Invalid argument"):
            await connectors.connect(NETWORK, "app.example", 80, LONG)

    async def test_two_networks_have_nothing_to_do_with_each_other(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        with RunningConnector(tmp_path):
            with pytest.raises(NetworkUnavailable, match="network front"):
                await connectors.connect("front", *greeter, 0.05)
            await _hello(connectors, greeter)


class TestOutOfResources:
    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL])
    async def test_at_the_connector(
        self, tmp_path: Path, connectors: Connectors, number: int
    ) -> None:
        with ScriptedConnector(tmp_path) as scripted:
            connecting = asyncio.create_task(connectors.connect(NETWORK, "10.0.0.1", 80, LONG))
            await scripted.accept()
            scripted.answer(wire.FAILED, number, await scripted.request())
            with pytest.raises(OutOfResources, match=r"10\.0\.0\.1:80 through the connector"):
                await connecting

    async def test_here(self, tmp_path: Path, connectors: Connectors) -> None:
        """The kernel drops a descriptor for which the receiver has no room."""
        with ScriptedConnector(tmp_path) as scripted:
            connecting = asyncio.create_task(connectors.connect(NETWORK, "10.0.0.1", 80, LONG))
            await scripted.accept()
            scripted.answer(wire.CONNECTED, 0, await scripted.request())
            with pytest.raises(OutOfResources, match="Too many open files"):
                await connecting


class TestNobodyWaits:
    async def test_a_descriptor_that_comes_too_late_is_closed(
        self, tmp_path: Path, connectors: Connectors
    ) -> None:
        here, there = socket.socketpair()
        with ScriptedConnector(tmp_path) as scripted, here:
            connecting = asyncio.create_task(connectors.connect(NETWORK, "10.0.0.1", 80, LONG))
            await scripted.accept()
            number = await scripted.request()
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            with there:
                scripted.answer(wire.CONNECTED, 0, number, there)
            here.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(here, 1) == b""

    async def test_one_that_comes_as_its_asker_is_cancelled_is_closed(
        self, tmp_path: Path, connectors: Connectors
    ) -> None:
        here, there = socket.socketpair()
        loop = asyncio.get_running_loop()
        with ScriptedConnector(tmp_path) as scripted, here:
            connecting = asyncio.create_task(connectors.connect(NETWORK, "10.0.0.1", 80, LONG))
            await scripted.accept()
            number = await scripted.request()
            # In the turn of the loop that reads both, the asker has its answer and does not run.
            second = asyncio.create_task(connectors.connect(NETWORK, "10.0.0.2", 80, LONG))
            failing = await scripted.request()
            second.add_done_callback(lambda _: connecting.cancel())
            with there:
                scripted.answer(wire.FAILED, errno.ECONNREFUSED, failing)
                scripted.answer(wire.CONNECTED, 0, number, there)
            results = await asyncio.gather(connecting, second, return_exceptions=True)
            if isinstance(results[0], socket.socket):  # it was faster
                results[0].close()
            here.setblocking(False)
            assert await loop.sock_recv(here, 1) == b""


class TestNoConnector:
    async def test_missing(self, connectors: Connectors) -> None:
        with pytest.raises(
            NetworkUnavailable, match=r"no connector for network back is on this node \(yet\)"
        ):
            await connectors.connect(NETWORK, "10.0.0.1", 80, 0.05)

    async def test_one_that_is_about_to_come_is_waited_for(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        waiting = [asyncio.create_task(_hello(connectors, greeter)) for _ in range(10)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        with RunningConnector(tmp_path):
            await asyncio.gather(*waiting)

    async def test_patience_ends(self, tmp_path: Path, greeter: tuple[str, int]) -> None:
        """And then nobody waits, until one has come."""
        connectors = Connectors(str(tmp_path), patience=0.0)
        loop = asyncio.get_running_loop()
        for _ in range(3):
            began = loop.time()
            with pytest.raises(NetworkUnavailable):
                await connectors.connect(NETWORK, *greeter, LONG)
            assert loop.time() - began < LONG / 2
        with RunningConnector(tmp_path):
            while True:
                try:
                    await _hello(connectors, greeter)
                    break
                except NetworkUnavailable:
                    await asyncio.sleep(0.05)
        connectors.close()

    async def test_stale_socket(self, tmp_path: Path, connectors: Connectors) -> None:
        with RunningConnector(tmp_path) as killed:
            killed.end(signal.SIGKILL)
        with pytest.raises(NetworkUnavailable, match="has ended, and there is no other one yet"):
            await connectors.connect(NETWORK, "10.0.0.1", 80, 0.05)

    async def test_no_name_of_a_network(self, connectors: Connectors) -> None:
        with pytest.raises(
            NetworkUnavailable, match=r"'\.\./x' is not the name of a Docker network"
        ):
            await connectors.connect("../x", "10.0.0.1", 80, 0.05)

    async def test_it_hangs_up(self, tmp_path: Path, connectors: Connectors) -> None:
        with ScriptedConnector(tmp_path) as scripted:
            connecting = asyncio.create_task(connectors.connect(NETWORK, "10.0.0.1", 80, 0.3))
            await scripted.accept(None)
            assert scripted.peer is not None
            scripted.peer.close()
            with pytest.raises(NetworkUnavailable, match=r"hangs up|does not answer"):
                await connecting

    async def test_another_version(self, tmp_path: Path) -> None:
        connectors = Connectors(str(tmp_path), patience=0.0)
        with ScriptedConnector(tmp_path) as scripted:
            connecting = asyncio.create_task(connectors.connect(NETWORK, "10.0.0.1", 80, LONG))
            await scripted.accept(77)
            with pytest.raises(NetworkUnavailable, match=r"version 77 .* update its service"):
                await connecting
        connectors.close()


class TestFrozen:
    async def test_before_it_is_known(self, tmp_path: Path, connectors: Connectors) -> None:
        with RunningConnector(tmp_path) as running:
            running.signal(signal.SIGSTOP)
            with pytest.raises(NetworkUnavailable, match="does not answer"):
                await connectors.connect(NETWORK, "10.0.0.1", 80, 0.1)

    async def test_later(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        """Connections that were made live on, and it is used again as soon as it answers."""
        with RunningConnector(tmp_path) as running:
            sock = await connectors.connect(NETWORK, *greeter, LONG)
            loop = asyncio.get_running_loop()
            with sock:
                running.signal(signal.SIGSTOP)
                with pytest.raises(NetworkUnavailable, match="does not answer"):
                    await connectors.connect(NETWORK, *greeter, 0.1)
                assert await loop.sock_recv(sock, 5) == b"hello"
                await loop.sock_sendall(sock, b"on")
                assert await loop.sock_recv(sock, 5) == b"on"
                running.signal(signal.SIGCONT)
                await _hello(connectors, greeter)
                # Its end is noticed, although it had been given up.
                running.end(signal.SIGKILL)
                assert await loop.sock_recv(sock, 5) == b""


class TestEnd:
    async def test_its_connections_end_with_it(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        with RunningConnector(tmp_path) as running:
            # No name for the socket here: it is the transport that keeps it.
            reader, writer = await asyncio.open_connection(
                sock=await connectors.connect(NETWORK, *greeter, LONG)
            )
            assert await reader.readexactly(5) == b"hello"
            running.end(signal.SIGKILL)
            assert await reader.read(1) == b""
            writer.close()

    async def test_the_next_one_is_waited_for(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        with RunningConnector(tmp_path) as killed:
            await _hello(connectors, greeter)
            killed.end(signal.SIGKILL)
        waiting = asyncio.create_task(_hello(connectors, greeter))
        with RunningConnector(tmp_path):
            await waiting

    async def test_what_was_under_way_is_asked_of_the_next_one(
        self, tmp_path: Path, connectors: Connectors, greeter: tuple[str, int]
    ) -> None:
        with ScriptedConnector(tmp_path) as scripted:
            waiting = asyncio.create_task(_hello(connectors, greeter))
            await scripted.accept()
            await scripted.request()
        with RunningConnector(tmp_path):
            await waiting

    async def test_one_that_leaves_is_not_asked_again(
        self, tmp_path: Path, greeter: tuple[str, int]
    ) -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        connectors = Connectors(str(tmp_path), told.put_nowait)
        loop = asyncio.get_running_loop()
        with RunningConnector(tmp_path, grace=600) as old:
            sock = await connectors.connect(NETWORK, *greeter, LONG)
            with RunningConnector(tmp_path) as new:
                old.signal(signal.SIGTERM)
                assert await told.get() == NETWORK
                await _hello(connectors, greeter)
                new.end(signal.SIGKILL)
            with sock:  # through the old one, which waits for it
                assert await loop.sock_recv(sock, 5) == b"hello"
                await loop.sock_sendall(sock, b"on")
                assert await loop.sock_recv(sock, 5) == b"on"
        assert told.empty()
        connectors.close()
