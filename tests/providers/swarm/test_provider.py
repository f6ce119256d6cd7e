"""providers/swarm without an engine: pauses, and what is said.
Everything that needs an engine is shown by tests/swarm, on real ones."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import SwarmSettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.engine.client import BACKOFF
from stickyproxy.providers.engine.events import EventWatch
from stickyproxy.providers.swarm.engine import Engine, list_once
from stickyproxy.providers.swarm.provider import SwarmProvider


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """Listens where an engine would."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def accepted(peer: socket.socket) -> tuple[socket.socket, bytes]:
    """The next connection and the head of the request that comes on it."""
    connection, _ = peer.accept()
    connection.settimeout(20)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(65536)
    return connection, head


class TestEventWatch:
    def watch(self, peer: socket.socket) -> EventWatch:
        host, port = peer.getsockname()
        return EventWatch(SwarmSettings(endpoint=f"tcp://{host}:{port}"), lambda: None)

    @pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
    def test_notices_when_the_machine_at_the_other_end_is_gone(self, peer: socket.socket) -> None:
        """By keepalive: a stream without events is silent, whoever is there or not."""
        watch = self.watch(peer)
        connection, _ = accepted(peer)
        with connection:
            timers: set[str] = set()
            ours = f"0100007F:{connection.getpeername()[1]:04X}"
            for _ in range(2000):  # until the kernel has seen its request acknowledged
                table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
                timers = {line[5][:2] for line in table if line[1] == ours}
                if "02" in timers:  # keepalive
                    break
                time.sleep(0.005)
            watch.stop()
        assert "02" in timers

    def test_stop_counts_before_there_is_a_stream(self, peer: socket.socket) -> None:
        watch = self.watch(peer)
        connection, head = accepted(peer)
        with connection:
            assert head.startswith(b"GET /version ")
            body = b'{"ApiVersion": "1.41"}'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            stream, head = accepted(peer)
            with stream:
                assert head.startswith(b"GET /v1.41/events?")
                watch.stop()
                stream.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                assert stream.recv(1) == b""


class TestWithoutAnEngine:
    @pytest.mark.parametrize(
        ("endpoint", "said"),
        [
            ("unix://{tmp}/none.sock", "there is no engine at unix://{tmp}/none.sock: start it"),
            ("tcp://127.0.0.1:1", "the engine at tcp://127.0.0.1:1 does not answer"),
        ],
    )
    def test_the_reason_is_said(self, tmp_path: Path, endpoint: str, said: str) -> None:
        settings = SwarmSettings(endpoint=endpoint.format(tmp=tmp_path))
        with pytest.raises(ProviderError) as caught:
            list_once(settings)
        assert str(caught.value).startswith(said.format(tmp=tmp_path))

    def test_it_may_come_later(self, tmp_path: Path) -> None:
        engine = Engine(SwarmSettings(endpoint=f"unix://{tmp_path}/none"), forwards_here=True)
        for _ in range(2):
            with pytest.raises(ProviderError):
                engine.look()

    async def test_nothing_is_published(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        published: list[Snapshot] = []
        settings = SwarmSettings(endpoint=f"unix://{tmp_path}/none", proxy_service="lb")
        provider = SwarmProvider(settings, published.append)
        running = asyncio.create_task(provider.run())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(BACKOFF[0] * 4):
                await provider.ready.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert published == []
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(warnings) == 1, "it is said once"
        assert warnings[0].endswith("no route is known yet, trying again")
