"""dataplane/outcome.py: every request ends exactly once, however it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, cast

import pytest

from stickyproxy.base.errors import (
    ClientStalled,
    ConnectError,
    OutOfResources,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.dataplane.outcome import Outcome, outcome_of
from stickyproxy.dataplane.upstream.pool import Pool
from stickyproxy.routing.endpoint import Connections, Endpoint, Pick, Request
from stickyproxy.routing.table import Route, RoutingTable
from tests.conftest import MakeClient, MakeEndpoint, service
from tests.running import InProcessProxy
from tests.scripted import (
    TIMEOUT,
    EndpointConnection,
    RawClient,
    Script,
    ScriptedEndpoint,
    answering,
    chunk,
    get,
    ok,
    post,
    request,
    respond,
)

HOST = ("Host", "demo.local")
CHUNKED = ("Transfer-Encoding", "chunked")
UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "echo"))
SHORT = 0.3
"""Seconds of the timeouts that a test waits for."""


class Scene:
    """A proxy that collects how requests end."""

    def __init__(self, proxy: InProcessProxy, peer: ScriptedEndpoint, user: RawClient) -> None:
        self.proxy, self.peer, self.user = proxy, peer, user
        self.finished: list[Exchange] = []
        self._news = asyncio.Event()
        proxy.app.proxy.on_finish = self._note

    def _note(self, exchange: Exchange) -> None:
        self.finished.append(exchange)
        self._news.set()

    async def outcome(self) -> Outcome | None:
        """How the only request ended."""
        async with asyncio.timeout(TIMEOUT):
            while not self.finished:
                self._news.clear()
                await self._news.wait()
        self.user.close()
        await self.proxy.stop()  # nothing can end again after that
        [exchange] = self.finished
        return exchange.outcome


MakeScene = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def scene(endpoint: MakeEndpoint, client: MakeClient) -> AsyncIterator[MakeScene]:
    """Puts a proxy between a client and an endpoint; fields are those of ``ProxySettings``."""
    proxies: list[InProcessProxy] = []

    async def make(script: Script, *, listening: bool = True, **settings: Any) -> Scene:
        peer = await endpoint(script, listening=listening)
        redirects = (("old.local", "http://new.local"),)
        declared = [service(peer, redirects=redirects), service(name="empty", hosts=("none",))]
        proxy = InProcessProxy(declared, **settings)
        proxies.append(proxy)
        await proxy.start()
        return Scene(proxy, peer, await client(proxy.port))

    yield make
    for proxy in proxies:
        await proxy.stop()


async def hello(conn: EndpointConnection) -> None:
    await answering(ok(b"hello"))(conn)


async def silent(conn: EndpointConnection) -> None:
    """Take a request and say nothing, until the peer leaves."""
    await conn.head()
    conn.tell("asked")
    await conn.eof()


async def half(conn: EndpointConnection) -> None:
    """Begin a response, and say no more."""
    await conn.request()
    await conn.send(respond("200 OK", ("Content-Length", "10"), body=b"half"))
    await conn.eof()


async def half_and_away(conn: EndpointConnection) -> None:
    """Begin a response, and leave."""
    await conn.request()
    await conn.send(respond("200 OK", ("Content-Length", "10"), body=b"half"))


async def away(conn: EndpointConnection) -> None:
    """Take a request, and leave."""
    await conn.request()


class TestComplete:
    @pytest.mark.parametrize(
        ("data", "to"),
        [
            (get(), "GET"),
            (request("HEAD", "/", HOST), "HEAD"),
            (post(b"body"), "POST"),
            (request("POST", "/", HOST, CHUNKED, body=chunk(b"a") + b"0\r\n\r\n"), "POST"),
            (request("GET", "/", HOST, version="HTTP/1.0"), "GET"),
        ],
    )
    async def test_a_response(self, scene: MakeScene, data: bytes, to: Any) -> None:
        async def script(conn: EndpointConnection) -> None:
            while (asked := await conn.request()) is not None:
                await conn.send(ok() if asked.method == b"HEAD" else ok(b"hello"))

        made = await scene(script)
        await made.user.send(data)
        assert (await made.user.response(to=to)).status == 200
        assert await made.outcome() is Outcome.COMPLETE

    async def test_until_close(self, scene: MakeScene) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", ("Connection", "close"), body=b"all"))

        made = await scene(script)
        await made.user.send(get())
        assert (await made.user.response()).body == b"all"
        assert await made.outcome() is Outcome.COMPLETE

    async def test_after_a_retry(self, scene: MakeScene) -> None:
        """An attempt that failed is no end."""

        async def script(conn: EndpointConnection) -> None:
            if conn.number == 1:
                await conn.request()
                await conn.send(ok(b"first"))
                await conn.head()  # the connection was kept, and ends under the second request
                return
            await conn.request()
            await conn.send(ok(b"second"))

        made = await scene(script)
        await made.user.send(get())
        assert (await made.user.response()).body == b"first"
        made.finished.clear()
        await made.user.send(get())
        assert (await made.user.response()).body == b"second"
        assert await made.outcome() is Outcome.COMPLETE

    async def test_a_tunnel(self, scene: MakeScene) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("101 Switching Protocols", *UPGRADE))
            assert await conn.read(4) == b"ping"
            await conn.send(b"pong")

        made = await scene(script)
        await made.user.send(request("GET", "/", HOST, *UPGRADE))
        assert (await made.user.response_head()).status == 101
        assert made.finished == []
        await made.user.send(b"ping")
        assert await made.user.read(4) == b"pong"
        assert await made.outcome() is Outcome.SWITCHED

    async def test_a_tunnel_that_the_client_leaves(self, scene: MakeScene) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("101 Switching Protocols", *UPGRADE))
            await conn.eof()

        made = await scene(script)
        await made.user.send(request("GET", "/", HOST, *UPGRADE))
        await made.user.response_head()
        made.user.abort()
        assert await made.outcome() is Outcome.SWITCHED


class TestRepliesOfOurOwn:
    @pytest.mark.parametrize(
        ("data", "status", "outcome"),
        [
            (get(host="other.local"), 404, Outcome.NO_ROUTE),
            (request("HEAD", "/", ("Host", "other.local")), 404, Outcome.NO_ROUTE),
            (get(host="old.local"), 302, Outcome.REDIRECTED),
            (get(host="none"), 503, Outcome.NO_ENDPOINT),
            (b"nonsense\r\n\r\n", 400, Outcome.BAD_REQUEST),
            (get(host="a b"), 400, Outcome.BAD_REQUEST),
            (request("CONNECT", "demo.local:80", HOST), 405, Outcome.BAD_REQUEST),
            (request("POST", "/", HOST, ("Transfer-Encoding", "gzip")), 400, Outcome.BAD_REQUEST),
            (get("/" + "a" * 9000), 414, Outcome.BAD_REQUEST),
            (request("GET", "/", HOST, version="HTTP/2.0"), 505, Outcome.BAD_REQUEST),
        ],
    )
    async def test_at_once(
        self, scene: MakeScene, data: bytes, status: int, outcome: Outcome
    ) -> None:
        made = await scene(hello)
        await made.user.send(data)
        to = "HEAD" if data.startswith(b"HEAD") else "GET"
        assert (await made.user.response(to=cast("Any", to))).status == status
        assert await made.outcome() is outcome

    async def test_a_body_that_is_malformed(self, scene: MakeScene) -> None:
        made = await scene(silent)
        await made.user.send(request("POST", "/", HOST, CHUNKED, body=chunk(b"a")))
        await made.peer.wait_heads(1)
        await made.user.send(b"nonsense\r\n")
        assert (await made.user.response()).status == 400
        assert await made.outcome() is Outcome.BAD_REQUEST

    async def test_a_body_that_is_malformed_in_mid_response(self, scene: MakeScene) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            await conn.send(respond("200 OK", ("Content-Length", "10"), body=b"half"))
            await conn.eof()

        made = await scene(script)
        await made.user.send(request("POST", "/", HOST, CHUNKED, body=chunk(b"a")))
        await made.user.response_head()
        await made.user.send(b"nonsense\r\n")
        assert await made.user.eof() == "reset"
        assert await made.outcome() is Outcome.BAD_REQUEST

    async def test_a_head_that_does_not_come(self, scene: MakeScene) -> None:
        made = await scene(hello, head_timeout=SHORT)
        await made.user.send(b"GET / HTT")
        assert (await made.user.response()).status == 408
        assert await made.outcome() is Outcome.CLIENT_STALLED

    async def test_no_endpoint_takes_connections(self, scene: MakeScene) -> None:
        made = await scene(hello, listening=False)
        await made.user.send(get())
        assert (await made.user.response()).status == 502
        assert await made.outcome() is Outcome.RETRIES_SPENT


class TestTheClient:
    async def test_leaves_before_the_response(self, scene: MakeScene) -> None:
        made = await scene(silent)
        await made.user.send(get())
        assert await made.peer.told() == "asked"
        made.user.abort()
        assert await made.outcome() is Outcome.CLIENT_GONE

    async def test_leaves_in_mid_response(self, scene: MakeScene) -> None:
        made = await scene(half)
        await made.user.send(get())
        await made.user.response_head()
        made.user.abort()
        assert await made.outcome() is Outcome.CLIENT_GONE

    async def test_leaves_in_mid_request(self, scene: MakeScene) -> None:
        made = await scene(silent)
        await made.user.send(post(b"x" * 100)[:-50])
        assert await made.peer.told() == "asked"
        made.user.abort()
        assert await made.outcome() is Outcome.CLIENT_GONE

    async def test_leaves_in_mid_head(self, scene: MakeScene) -> None:
        """Then there is no request."""
        made = await scene(hello)
        await made.user.send(b"GET / HTT")
        made.user.close()
        await made.proxy.stop()
        assert made.finished == []

    async def test_sends_no_more_of_its_body(self, scene: MakeScene) -> None:
        made = await scene(silent, client_timeout=SHORT)
        await made.user.send(post(b"x" * 100)[:-50])
        assert (await made.user.response()).status == 408
        assert await made.outcome() is Outcome.CLIENT_STALLED

    async def test_takes_no_more_of_its_response(self, scene: MakeScene) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", ("Content-Length", str(1 << 28))))
            while True:
                await conn.send(b"x" * (1 << 20))

        made = await scene(script, client_timeout=SHORT)
        await made.user.send(get())
        assert await made.outcome() is Outcome.CLIENT_STALLED


class TestTheEndpoint:
    @pytest.mark.parametrize(
        ("script", "data", "status", "outcome"),
        [
            (away, post(b"body"), 502, Outcome.UPSTREAM_CLOSED),
            (away, get(), 502, Outcome.UPSTREAM_CLOSED),
            (answering(b"SSH-2.0\r\n"), get(), 502, Outcome.UPSTREAM_MALFORMED),
            (
                answering(respond("101 Switching Protocols", *UPGRADE)),
                get(),
                502,
                Outcome.UPSTREAM_MALFORMED,
            ),
            (silent, get(), 504, Outcome.HEAD_TIMEOUT),
        ],
        ids=["post", "get", "malformed", "unasked", "timeout"],
    )
    async def test_gives_no_response(
        self, scene: MakeScene, script: Script, data: bytes, status: int, outcome: Outcome
    ) -> None:
        made = await scene(script, response_timeout=SHORT)
        await made.user.send(data)
        assert (await made.user.response()).status == status
        assert await made.outcome() is outcome

    @pytest.mark.parametrize(
        ("script", "outcome"),
        [
            (half_and_away, Outcome.UPSTREAM_CLOSED),
            (half, Outcome.IDLE_TIMEOUT),
            (
                answering(respond("200 OK", CHUNKED, body=chunk(b"half") + b"nonsense\r\n")),
                Outcome.UPSTREAM_MALFORMED,
            ),
        ],
        ids=["away", "timeout", "malformed"],
    )
    async def test_gives_half_a_response(
        self, scene: MakeScene, script: Script, outcome: Outcome
    ) -> None:
        made = await scene(script, response_timeout=SHORT)
        await made.user.send(get())
        assert await made.user.eof() == "reset"
        assert await made.outcome() is outcome


class Broken(RoutingTable):
    """A bug."""

    def match(self, host: bytes, target: bytes) -> Route | None:
        raise RuntimeError("a bug that a test made")


class SecondTime:
    """A bug in a balancer that shows when the first attempt has failed."""

    strips: frozenset[bytes] = frozenset()

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        if tried:
            raise RuntimeError("a bug that a test made")
        return Pick(self._endpoint, cast("Any", None))


class Exhausted:
    """A pool that cannot connect for want of something here."""

    def take(self, *, replayable: bool) -> None:
        """It has none."""

    async def connect(self) -> Pool:
        raise OutOfResources("no more descriptors")

    def close(self) -> None:
        """There is nothing to close."""


class TestOurselves:
    async def test_a_bug(self, scene: MakeScene, caplog: pytest.LogCaptureFixture) -> None:
        made = await scene(hello)
        made.proxy.app.proxy.table = Broken({})
        with caplog.at_level(logging.ERROR):
            await made.user.send(get())
            assert (await made.user.response()).status == 500
        assert await made.outcome() is Outcome.BUG
        assert "this is a bug in stickyproxy" in caplog.text

    @pytest.mark.parametrize("connects", [False, True], ids=["refused", "died"])
    async def test_a_bug_after_an_attempt(self, scene: MakeScene, connects: bool) -> None:
        made = await scene(away, listening=connects)
        route = made.proxy.app.proxy.table.match(b"demo.local", b"/")
        assert route is not None
        assert route.cluster is not None
        route.cluster.balancer = SecondTime(route.cluster.endpoints[0])
        await made.user.send(get())
        assert (await made.user.response()).status == 500
        assert await made.outcome() is Outcome.BUG

    async def test_out_of_resources(self, scene: MakeScene) -> None:
        made = await scene(hello)
        route = made.proxy.app.proxy.table.match(b"demo.local", b"/")
        assert route is not None
        assert route.cluster is not None
        [endpoint] = route.cluster.endpoints
        endpoint.pool = cast("Connections", Exhausted())
        await made.user.send(get())
        assert (await made.user.response()).status == 503
        assert await made.outcome() is Outcome.NO_RESOURCES


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (ClientStalled(""), Outcome.CLIENT_STALLED, Outcome.CLIENT_STALLED),
        (UpstreamTimeout(""), Outcome.HEAD_TIMEOUT, Outcome.IDLE_TIMEOUT),
        (UpstreamClosed(""), Outcome.UPSTREAM_CLOSED, Outcome.UPSTREAM_CLOSED),
        (ConnectError(""), Outcome.RETRIES_SPENT, Outcome.RETRIES_SPENT),
        (OutOfResources(""), Outcome.NO_RESOURCES, Outcome.NO_RESOURCES),
        (UpstreamProtocolError(""), Outcome.UPSTREAM_MALFORMED, Outcome.UPSTREAM_MALFORMED),
    ],
)
def test_of_an_error(error: Exception, before: Outcome, after: Outcome) -> None:
    assert outcome_of(error, head_sent=False) is before
    assert outcome_of(error, head_sent=True) is after


def test_the_words_are_unlike() -> None:
    words = [outcome.value for outcome in Outcome]
    assert len({*words}) == len(words)
    assert all(word.replace("-", "").isalpha() for word in words)
