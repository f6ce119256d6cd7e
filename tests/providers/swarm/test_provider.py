"""providers/swarm without an engine: pauses, and what is said.
Everything that needs an engine is shown by tests/swarm, on real ones."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import SwarmSettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.engine.client import BACKOFF, explained
from stickyproxy.providers.engine.events import EventWatch
from stickyproxy.providers.swarm.engine import Engine, list_once, payloads
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


class TestOutputOfACommand:
    def test_frames(self) -> None:
        one, two = b"\x01\0\0\0\0\0\0\x03abc", b"\x01\0\0\0\0\0\x01\x00" + b"d" * 256
        assert b"".join(payloads(one + two)) == b"abc" + b"d" * 256

    @given(stream=st.binary(max_size=40))
    def test_anything_ends(self, stream: bytes) -> None:
        assert len(b"".join(payloads(stream))) <= len(stream)


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

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            ("200 OK", b"<!doctype html><title>Welcome</title>"),
            ("200 OK", b"[]"),
            ("200 OK", b"{}"),
            ("404 Not Found", b"nothing here"),
        ],
    )
    def test_a_web_server_is_no_engine(self, status: str, body: bytes) -> None:
        response = f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_server(("127.0.0.1", 0)) as server:

            def respond() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(response)

            endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            thread = threading.Thread(target=respond)
            thread.start()
            with pytest.raises(ProviderError) as found:
                list_once(SwarmSettings(endpoint))
            thread.join()
        assert str(found.value) == (
            f"what answers at {endpoint} is no Docker engine: set endpoint to the address of one"
        )

    @pytest.mark.parametrize(
        ("contained", "remedy"),
        [(False, "add it to group docker"), (True, "give the container a user or group that may")],
    )
    def test_without_permission_it_is_said_what_applies_here(
        self, contained: bool, remedy: str
    ) -> None:
        error = PermissionError(errno.EACCES, "Permission denied")
        said = explained("unix:///run/docker.sock", error, contained=contained)
        assert said.startswith("this user may not use the engine at unix:///run/docker.sock: ")
        assert remedy in said

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
