"""providers/docker/provider.py against something that answers like an engine, on a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import DockerSettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.docker.engine import list_containers
from stickyproxy.providers.docker.provider import DockerProvider
from tests.providers.docker.test_reader import composed, container, published


class FakeEngine:
    """What it lists, and the events that it tells when asked to."""

    def __init__(self) -> None:
        self.containers: list[dict[str, Any]] = []
        self.unhealthy: set[str] = set()
        self.refusals = 0
        """How many requests it will not answer."""
        self.watched = threading.Event()
        self._events: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = urlsplit(self.path)
                if path.path.endswith("/events"):
                    engine._stream(self)
                elif engine.refusals:
                    engine.refusals -= 1
                    self._answer(500, {"message": "the engine is not well"})
                else:
                    self._answer(200, engine._said(path.path, parse_qs(path.query)))

            def _answer(self, status: int, body: object) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name
                """It has nothing to say."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self._server.server_address[1]}"

    def tell(self) -> None:
        """That something has happened."""
        self._events.put(b'{"Type": "container", "Action": "die"}\n')

    def close(self) -> None:
        self._events.put(b"")
        self._server.shutdown()
        self._server.server_close()

    def _said(self, path: str, query: dict[str, list[str]]) -> object:
        if path.endswith("/version"):
            return {"ApiVersion": "1.41"}
        if path.endswith("/info"):
            return {"ID": "engine"}
        assert path.endswith("/containers/json"), path
        filters = json.loads(query.get("filters", ["{}"])[0])
        if not filters:
            assert query["all"] == ["1"]
            return self.containers
        [health] = filters["health"]
        ill = self.unhealthy if health == "unhealthy" else ()
        return [each for each in self.containers if each["Id"] in ill]

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        self.watched.set()
        while event := self._events.get():
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """It has one container."""
    started = FakeEngine()
    started.containers = [replica("c1")]
    yield started
    started.close()


def replica(identity: str) -> dict[str, Any]:
    return container(identity, composed(), ports=[published(8080, 32000 + int(identity[-1]))])


class Watched:
    """What a provider publishes, for as long as it takes."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self._news = asyncio.Event()

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self._news.set()

    @property
    def ids(self) -> list[str]:
        return [each.id for spec in self.snapshots[-1].services for each in spec.endpoints]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not self.snapshots or not holds():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running(
    engine: FakeEngine, watched: Watched, poll_interval: float
) -> AsyncIterator[DockerProvider]:
    settings = DockerSettings(endpoint=engine.endpoint, poll_interval=poll_interval)
    provider = DockerProvider(settings, watched.publish)
    task = asyncio.create_task(provider.run())
    try:
        yield provider
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_event_wakes_it(engine: FakeEngine) -> None:
    watched = Watched()
    async with running(engine, watched, poll_interval=3600):
        await watched.until(lambda: watched.ids == ["c1"])
        await asyncio.to_thread(engine.watched.wait, 20)
        engine.containers = [replica("c1"), replica("c2")]
        engine.tell()
        await watched.until(lambda: watched.ids == ["c1", "c2"])


async def test_without_events_the_clock_does(engine: FakeEngine) -> None:
    watched = Watched()
    async with running(engine, watched, poll_interval=0.01):
        await watched.until(lambda: watched.ids == ["c1"])
        engine.containers = [replica("c1"), replica("c2")]
        engine.unhealthy = {"c1"}
        await watched.until(lambda: watched.ids == ["c2"])


async def test_what_does_not_change_is_published_once(engine: FakeEngine) -> None:
    """The engine's own words about a container, "Up 5 seconds", change all the time."""
    watched = Watched()
    async with running(engine, watched, poll_interval=0.01):
        await watched.until(lambda: watched.ids == ["c1"])
        engine.containers = [replica("c1") | {"Status": "Up 6 seconds"}]
        engine.containers = [replica("c1") | {"Status": "Up 7 seconds"}, replica("c2")]
        await watched.until(lambda: watched.ids == ["c1", "c2"])
    assert len(watched.snapshots) == 2


async def test_while_the_engine_is_away_nothing_is_published(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watched = Watched()
    async with running(engine, watched, poll_interval=0.01) as provider:
        await watched.until(lambda: watched.ids == ["c1"])
        await asyncio.to_thread(engine.watched.wait, 20)  # who watches connects only once
        engine.refusals = 1
        engine.containers = [replica("c2")]
        await watched.until(lambda: watched.ids == ["c2"])
        assert provider.trouble == ""
    assert len(watched.snapshots) == 2
    [lost, again] = [each for each in caplog.messages if each.startswith("docker: ")]
    assert "routes are kept" in lost
    assert again == "docker: the engine answers again"


def test_listed_once(engine: FakeEngine) -> None:
    snapshot = list_containers(DockerSettings(endpoint=engine.endpoint))
    assert (snapshot.provider, snapshot.realm) == ("docker", "engine")
    [spec] = snapshot.services
    assert [each.address for each in spec.endpoints] == ["127.0.0.1:32001"]


def test_without_an_engine() -> None:
    with pytest.raises(ProviderError, match="does not answer"):
        list_containers(DockerSettings(endpoint="tcp://127.0.0.1:1"))
