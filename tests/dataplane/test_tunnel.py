"""Upgrades: after the 101 a connection is a tunnel, and until then a request like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import (
    ClientSession,
    ClientWebSocketResponse,
    CookieJar,
    WSCloseCode,
    WSMsgType,
    WSServerHandshakeError,
)

from stickyproxy.dataplane.downstream.http1 import ClientConnection
from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.demo.app import DemoOptions, DemoReplica
from stickyproxy.model.service import EndpointSpec
from tests.cli.test_main import refused
from tests.conftest import Behind, MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.running import InProcessProxy
from tests.scripted import (
    TIMEOUT,
    EndpointConnection,
    RawClient,
    Script,
    get,
    ok,
    playing,
    request,
    respond,
)
from tests.specs import service_spec

SWITCH = respond("101 Switching Protocols", ("Connection", "Upgrade"), ("Upgrade", "websocket"))
BLOCK = bytes(range(256)) * 4096
"""1 MiB."""


def upgrade(path: str = "/ws", protocol: str = "websocket", **headers: str) -> bytes:
    """A request to switch."""
    return get(path, Connection="Upgrade", Upgrade=protocol, **headers)


def switching(*, then: Script | None = None, with_it: bytes = b"") -> Script:
    """A script that switches protocols and goes on with ``then``, by default echoing."""

    async def script(conn: EndpointConnection) -> None:
        assert await conn.request() is not None
        await conn.send(SWITCH + with_it)
        await (then or echo)(conn)

    return script


async def echo(conn: EndpointConnection) -> None:
    """Send back what comes, until no more does."""
    while data := await conn._read_some(None):
        await conn.send(data)


async def switched(client: MakeClient, proxy: RunningProxy, data: bytes = b"") -> RawClient:
    """A client that has been switched; ``data`` is what it sends right behind its request."""
    user = await client(proxy.port)
    await user.send(upgrade() + data)
    response = await user.response_head()
    assert response.status == 101, response
    return user


class TestHandshake:
    """RFC 9110, 7.8."""

    async def test_what_the_endpoint_sees(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(switching())
        user = await client(proxy.port)
        handshake = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Version": "13"}
        await user.send(upgrade("/ws?x=1", **handshake))
        await user.response_head()
        [request] = peer.requests
        assert (request.method, request.target) == (b"GET", b"/ws?x=1")
        assert request.header("connection") == b"Upgrade"
        assert request.header("upgrade") == b"websocket"
        assert request.header("sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="
        assert request.header("sec-websocket-version") == b"13"
        assert request.header("x-forwarded-for") == b"127.0.0.1"

    async def test_what_the_client_sees(self, behind: Behind, client: MakeClient) -> None:
        accept = ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        fields = (("Upgrade", "websocket"), ("connection", "upgrade"), accept)
        proxy, peer = await behind(playing(respond("101 Switching", *fields)))
        user = await client(proxy.port)
        await user.send(upgrade())
        response = await user.response_head()
        assert (response.status, response.reason) == (101, b"Switching")
        assert response.header("connection") == b"Upgrade"
        assert response.header("upgrade") == b"websocket"
        assert response.header("sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert response.header("x-upstream-addr") == peer.address.encode()

    @pytest.mark.parametrize("connection", ["upgrade", "keep-alive, Upgrade", "Upgrade, close"])
    async def test_spellings(self, behind: Behind, client: MakeClient, connection: str) -> None:
        proxy, peer = await behind(switching())
        user = await client(proxy.port)
        await user.send(get("/ws", Connection=connection, Upgrade="WebSocket"))
        assert (await user.response_head()).status == 101
        assert peer.requests[0].header("upgrade") == b"WebSocket"
        await user.send(b"hello")
        assert await user.read(5) == b"hello"

    async def test_other_protocols(self, behind: Behind, client: MakeClient) -> None:
        fields = (("Connection", "Upgrade"), ("Upgrade", "tcp"))

        async def script(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.send(respond("101 UPGRADED", *fields))
            await echo(conn)

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(upgrade("/exec", "tcp"))
        response = await user.response_head()
        assert (response.status, response.reason) == (101, b"UPGRADED")
        assert peer.requests[0].header("upgrade") == b"tcp"
        await user.send(b"\x00\xff")
        assert await user.read(2) == b"\x00\xff"

    @pytest.mark.parametrize(
        "headers",
        [
            {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAA"},
            {"Connection": "Upgrade", "Upgrade": "H2C"},
            {"Connection": "Upgrade", "Upgrade": "h2c , H2C"},
            {"Connection": "keep-alive", "Upgrade": "websocket"},
            {"Upgrade": "websocket"},
            {"Connection": "Upgrade"},
        ],
    )
    async def test_not_forwarded(
        self, behind: Behind, client: MakeClient, headers: dict[str, str]
    ) -> None:
        """The request is answered as if it had not asked."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(get(**headers))
        response = await user.response()
        assert (response.status, response.body) == (200, b"hello")
        [request] = peer.requests
        for name in ("connection", "upgrade", "http2-settings"):
            assert request.header(name) is None

    @pytest.mark.parametrize(
        "fields",
        [
            ["h2c, websocket"],
            ["websocket, h2c"],
            ["WebSocket,H2C"],
            ["h2c", "websocket"],
            ["websocket", "h2c"],
        ],
    )
    async def test_h2c_among_others(
        self, behind: Behind, client: MakeClient, fields: list[str]
    ) -> None:
        """An endpoint that chose it would speak a protocol that passes unseen."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        wanted = [("Upgrade", protocol) for protocol in fields]
        host, connection = ("Host", "demo.local"), ("Connection", "Upgrade")
        await user.send(request("GET", "/", host, connection, *wanted))
        assert (await user.response()).status == 200
        assert peer.requests[0].header("upgrade") in (None, b"websocket", b"WebSocket")

    async def test_unasked(self, behind: Behind, client: MakeClient) -> None:
        """Bytes that nobody can tell the protocol of must reach nobody."""
        proxy, peer = await behind(playing(SWITCH + b"rubbish"))
        user = await client(proxy.port)
        await user.send(get())
        response = await user.response()
        assert response.status == 502
        await peer.wait_open(0)
        peer.script = playing(ok(b"fine"))
        await user.send(get())
        assert (await user.response()).body == b"fine"

    async def test_length_of_nothing(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9110, 8.6: a 1xx has none, whatever the endpoint thinks."""
        proxy, _ = await behind(playing(SWITCH[:-2] + b"Content-Length: 0\r\n\r\n"))
        user = await client(proxy.port)
        await user.send(upgrade())
        assert (await user.response_head()).header("content-length") is None

    async def test_interim_answers_before(self, behind: Behind, client: MakeClient) -> None:
        hints = respond("103 Early Hints", ("Link", "</style.css>"))
        proxy, _ = await behind(playing(hints + SWITCH + b"hello"))
        user = await client(proxy.port)
        await user.send(upgrade())
        assert (await user.interim()).status == 103
        assert (await user.response_head()).status == 101
        assert await user.read_until_eof() == b"hello"

    @pytest.mark.parametrize("fields", [[("Upgrade", "websocket")], [("Connection", "Upgrade")]])
    async def test_half_a_switch(
        self, behind: Behind, client: MakeClient, fields: list[tuple[str, str]]
    ) -> None:
        """A 101 without all it should have is an answer that works or none: not one that is cut."""

        async def script(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.send(respond("101 Switching Protocols", *fields))
            await echo(conn)

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        await user.send(upgrade())
        response = await user.response_head()
        if response.status == 101:
            await user.send(b"hello")
            assert await user.read(5) == b"hello"
        else:
            assert response.status == 502


class TestDeclined:
    @pytest.mark.parametrize("status", ["403 Forbidden", "426 Upgrade Required", "200 OK"])
    async def test_is_answered_and_closed(
        self, behind: Behind, client: MakeClient, status: str
    ) -> None:
        """aiohttp stops parsing at such a request: what the client sent behind it, believing to be
        heard by another protocol, must not be taken for requests."""
        declined = respond(status, ("Content-Length", "8"), body=b"go away\n")
        proxy, peer = await behind(playing(declined, declined))
        user = await client(proxy.port)
        await user.send(upgrade() + get("/smuggled"))
        response = await user.response()
        assert response.status == int(status[:3])
        assert response.body == b"go away\n"
        assert response.closes
        assert await user.closed() == "eof"
        assert len(peer.requests) == 1

    async def test_with_what_is_wanted(self, behind: Behind, client: MakeClient) -> None:
        """426 says which protocol; 7.8: that is hop-by-hop, and nobody needs it from us."""
        wants = respond("426 Upgrade Required", ("Upgrade", "HTTP/3.0"), ("Content-Length", "0"))
        proxy, _ = await behind(playing(wants))
        user = await client(proxy.port)
        await user.send(get())
        response = await user.response()
        assert response.status == 426
        assert response.header("connection") is None

    async def test_by_the_proxy(self, start_proxy: StartProxy, client: MakeClient) -> None:
        proxy = await start_proxy([])
        user = await client(proxy.port)
        await user.send(upgrade() + b"\x81\x05hello")
        response = await user.response()
        assert response.status == 404
        assert response.closes
        assert await user.closed() == "eof"

    async def test_endpoint_closes_instead(self, behind: Behind, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        await user.send(upgrade())
        assert (await user.response()).status == 502


class TestRestricted:
    """``websocket_endpoints``: which paths may upgrade."""

    @pytest.mark.parametrize(
        ("path", "may"),
        [
            ("/ws", True),
            ("/ws?token=x", True),
            ("/live", True),
            ("/", False),
            ("/ws/", False),
            ("/wss", False),
            ("/x?/ws", False),
        ],
    )
    async def test_paths(self, behind: Behind, client: MakeClient, path: str, may: bool) -> None:
        proxy, peer = await behind(playing(SWITCH), websocket_endpoints=("/ws", "/live"))
        if not may:
            peer.script = playing(ok(b"plain"))
        user = await client(proxy.port)
        await user.send(upgrade(path))
        response = await user.response_head()
        assert response.status == (101 if may else 200)
        assert peer.requests[0].header("upgrade") == (b"websocket" if may else None)

    async def test_none(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(playing(SWITCH), websocket_endpoints=())
        user = await client(proxy.port)
        await user.send(upgrade())
        assert (await user.response()).status == 502  # it switched though nobody asked

    async def test_path_is_the_client_s(self, behind: Behind, client: MakeClient) -> None:
        """Not what is left of it when the context root is stripped."""
        proxy, peer = await behind(
            playing(SWITCH),
            context_root="/shop",
            context_root_rewrite=True,
            websocket_endpoints=("/shop/ws",),
        )
        user = await client(proxy.port)
        await user.send(upgrade("/shop/ws"))
        assert (await user.response_head()).status == 101
        assert peer.requests[0].target == b"/ws"


class TestTunnel:
    async def test_bytes_pass_both_ways(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(switching())
        user = await switched(client, proxy)
        for data in (b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x81\x05hello", b"\r\n\r\n", BLOCK):
            await user.send(data)
            assert await user.read(len(data)) == data

    async def test_bytes_together_with_the_101(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(switching(with_it=b"HTTP/1.1 200 OK\r\n\r\nhello"))
        user = await switched(client, proxy)
        assert await user.read(24) == b"HTTP/1.1 200 OK\r\n\r\nhello"
        await user.send(b"again")
        assert await user.read(5) == b"again"

    @pytest.mark.parametrize("size", [1, 1000, 300_000])
    async def test_bytes_right_behind_the_request(
        self, behind: Behind, client: MakeClient, size: int
    ) -> None:
        """They wait for the 101; an endpoint that declines must not see them."""
        proxy, peer = await behind(switching())
        data = BLOCK[:size]
        user = await client(proxy.port)
        sending = asyncio.create_task(user.send(upgrade() + data))
        assert (await user.response_head()).status == 101
        assert await user.read(size) == data
        await sending
        assert len(peer.requests) == 1
        await user.send(b"more")
        assert await user.read(4) == b"more"

    async def test_bytes_while_the_endpoint_thinks(
        self, behind: Behind, client: MakeClient
    ) -> None:
        may_switch = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await may_switch.wait()
            await conn.send(SWITCH)
            await echo(conn)

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(upgrade())
        await peer.wait_requests(1)
        for piece in (b"one", b"two"):
            await user.send(piece)
        may_switch.set()
        assert (await user.response_head()).status == 101
        assert await user.read(6) == b"onetwo"

    async def test_its_connections_are_not_used_again(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, peer = await behind(switching())
        user = await switched(client, proxy)
        peer.script = playing(ok(b"another connection"))
        other = await client(proxy.port)
        await other.send(get())
        assert (await other.response()).body == b"another connection"
        assert peer.connections == 2
        await user.send(b"hello")
        assert await user.read(5) == b"hello"

    async def test_on_connections_used_before(self, behind: Behind, client: MakeClient) -> None:
        """Both sides: a page, then its websocket."""

        async def script(conn: EndpointConnection) -> None:
            while (request := await conn.request()) is not None:
                if request.header("upgrade"):
                    await conn.send(SWITCH)
                    await echo(conn)
                    return
                await conn.send(ok(b"page"))

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(get())
        assert (await user.response()).body == b"page"
        await user.send(upgrade())
        assert (await user.response_head()).status == 101
        await user.send(b"hello")
        assert await user.read(5) == b"hello"
        assert peer.connections == 1

    async def test_silence_is_no_timeout(self, behind: Behind, client: MakeClient) -> None:
        """A websocket may be quiet for hours. Meanwhile, a request that is as quiet is not."""

        async def script(conn: EndpointConnection) -> None:
            request = await conn.request()
            assert request is not None
            if request.header("upgrade"):
                await conn.send(SWITCH)
                await echo(conn)
            else:
                await conn.eof()

        proxy, _ = await behind(
            script,
            response_timeout=0.1,
            client_timeout=0.1,
            keepalive_timeout=0.1,
            head_timeout=0.1,
            upstream_idle_timeout=0.1,
        )
        user = await switched(client, proxy)
        for _ in range(2):
            other = await client(proxy.port)
            await other.send(get())
            assert (await other.response()).status == 504
        await user.send(b"hello")
        assert await user.read(5) == b"hello"


class TestEnd:
    """Either side's end is the other's."""

    @pytest.mark.parametrize("how", ["close", "abort", "finish"])
    async def test_client(self, behind: Behind, client: MakeClient, how: str) -> None:
        async def tell_all(conn: EndpointConnection) -> None:
            data = b""
            while piece := await conn._read_some(None):
                data += piece
            conn.tell(data)

        proxy, peer = await behind(switching(then=tell_all))
        user = await switched(client, proxy)
        await user.send(b"goodbye")
        if how != "abort":  # a reset may overtake
            getattr(user, how)()
            assert await peer.told() == b"goodbye"
        else:
            user.abort()
        await peer.wait_open(0)

    @pytest.mark.parametrize("how", ["close", "abort", "finish"])
    async def test_endpoint(self, behind: Behind, client: MakeClient, how: str) -> None:
        async def leave(conn: EndpointConnection) -> None:
            assert await conn.read(2) == b"go"
            await conn.send(b"goodbye")
            getattr(conn, how)()
            if how == "finish":
                await conn.eof()

        proxy, peer = await behind(switching(then=leave))
        user = await switched(client, proxy)
        await user.send(b"go")
        if how != "abort":
            assert await user.read_until_eof() == b"goodbye"
        else:
            await user.eof()
        await peer.wait_open(0)

    async def test_all_that_was_sent_before_arrives(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """More than the buffers hold, and then the end."""

        async def leave(conn: EndpointConnection) -> None:
            for _ in range(8):
                await conn.send(BLOCK)

        proxy, _ = await behind(switching(then=leave))
        user = await switched(client, proxy)
        assert await user.read_until_eof() == BLOCK * 8

    async def test_all_that_was_sent_before_arrives_upstream(
        self, behind: Behind, client: MakeClient
    ) -> None:
        may_read = asyncio.Event()

        async def count(conn: EndpointConnection) -> None:
            await may_read.wait()
            total = 0
            while piece := await conn._read_some(None):
                total += len(piece)
            conn.tell(total)

        proxy, peer = await behind(switching(then=count))
        user = await switched(client, proxy)
        sending = asyncio.create_task(user.send(BLOCK * 16))
        may_read.set()
        await sending
        user.close()
        assert await peer.told() == 16 << 20


async def until(ready: Callable[[], bool]) -> None:
    """Wait for the condition; it becomes true inside this event loop."""
    async with asyncio.timeout(TIMEOUT):
        while not ready():  # noqa: ASYNC110  # transports tell nobody
            await asyncio.sleep(0.001)


def transports(proxy: RunningProxy) -> tuple[asyncio.Transport, asyncio.Transport]:
    """Those of the only tunnel: the client's and the endpoint's."""
    assert isinstance(proxy, InProcessProxy)
    [client] = proxy.app._server._clients.connections
    assert isinstance(client, ClientConnection)
    assert client.transport is not None
    exchange = client._handler
    assert isinstance(exchange, Exchange)
    assert exchange._upstream is not None
    return client.transport, exchange._upstream.transport


class TestBackPressure:
    """A slow side makes the other one wait; the proxy does not fill up in between."""

    FLOOD = 64
    """MiB: more than all socket buffers between the peers can hold."""
    MAY_HOLD = 1 << 20
    """Bytes that the proxy may hold of one direction."""

    async def test_slow_client(self, behind: Behind, client: MakeClient) -> None:
        sent = 0

        async def flood(conn: EndpointConnection) -> None:
            nonlocal sent
            while sent < self.FLOOD:
                await asyncio.get_running_loop().sock_sendall(conn.sock, BLOCK)
                sent += 1

        proxy, peer = await behind(switching(then=flood))
        user = await switched(client, proxy)
        down, up = transports(proxy)
        await until(lambda: not up.is_reading() or sent == self.FLOOD)
        assert sent < self.FLOOD
        assert down.get_write_buffer_size() < self.MAY_HOLD
        for _ in range(self.FLOOD):
            assert await user.read(len(BLOCK)) == BLOCK
        assert await user.closed() == "eof"
        await peer.wait_open(0)

    @pytest.mark.parametrize("ahead", [0, len(BLOCK)])
    async def test_slow_endpoint(self, behind: Behind, client: MakeClient, ahead: int) -> None:
        """``ahead``: bytes that the client sends before it has the 101, or tries to."""
        may_switch, may_read = asyncio.Event(), asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await may_switch.wait()
            await conn.send(SWITCH)
            await may_read.wait()
            received = 0
            while data := await conn._read_some(None):
                received += len(data)
            conn.tell(received)

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            await user.send(upgrade() + BLOCK[:ahead])
            while sent < self.FLOOD:
                await asyncio.get_running_loop().sock_sendall(user.sock, BLOCK)
                sent += 1

        flooding = asyncio.create_task(flood())
        await peer.wait_requests(1)
        down, up = transports(proxy)
        if ahead:
            await until(lambda: not down.is_reading())
        may_switch.set()
        assert (await user.response_head()).status == 101
        await until(
            lambda: (up.get_write_buffer_size() > 0 and not down.is_reading()) or sent == self.FLOOD
        )
        assert sent < self.FLOOD
        assert up.get_write_buffer_size() < self.MAY_HOLD
        may_read.set()
        await flooding
        user.close()
        assert await peer.told() == (self.FLOOD << 20) + ahead
        await peer.wait_open(0)


# --- the demo app, by people who speak websocket -------------------------------------------------


@pytest.fixture
async def replicas() -> AsyncIterator[list[DemoReplica]]:
    """Two demo replicas."""
    started = [await DemoReplica.start(DemoOptions(instance=f"demo-{n}")) for n in (1, 2)]
    yield started
    for replica in started:
        await replica.stop()


@pytest.fixture
async def demo(replicas: list[DemoReplica], start_proxy: StartProxy) -> RunningProxy:
    """A sticky proxy in front of them."""
    endpoints = tuple(EndpointSpec(replica.address, replica.address) for replica in replicas)
    spec = service_spec("demo", ("127.0.0.1",), endpoints, sticky_session_cookie="session")
    return await start_proxy([spec])


@pytest.fixture
async def browser(demo: RunningProxy) -> AsyncIterator[ClientSession]:
    """Keeps cookies."""
    jar = CookieJar(unsafe=True)  # of IP addresses too
    async with ClientSession(f"http://127.0.0.1:{demo.port}/", cookie_jar=jar) as session:
        yield session


class TestWebsocket:
    async def test_echo(self, browser: ClientSession) -> None:
        async with browser.ws_connect("ws", max_msg_size=0) as websocket:
            await websocket.send_str("grüße")
            assert await websocket.receive_str() == "grüße"
            await websocket.send_bytes(b"\x00\xff")
            assert await websocket.receive_bytes() == b"\x00\xff"
            for size in (125, 126, 65535, 65536, 2 << 20):
                await websocket.send_bytes(BLOCK * 2 if size > len(BLOCK) else BLOCK[:size])
                assert len(await websocket.receive_bytes()) == size
            await websocket.ping(b"are you there")
            await websocket.send_str("still")
            assert await websocket.receive_str() == "still"

    async def test_many_at_once(self, browser: ClientSession) -> None:
        async def talk(number: int) -> None:
            async with browser.ws_connect("ws") as websocket:
                for turn in range(20):
                    await websocket.send_str(f"{number}/{turn}")
                    assert await websocket.receive_str() == f"{number}/{turn}"

        await asyncio.gather(*(talk(number) for number in range(20)))

    async def test_goodbye_of_the_client(self, browser: ClientSession) -> None:
        async with browser.ws_connect("ws") as websocket:
            await websocket.close(code=4000, message=b"enough")
            assert websocket.close_code == WSCloseCode.OK  # the endpoint's answer to it

    async def test_goodbye_of_the_endpoint(
        self, browser: ClientSession, replicas: list[DemoReplica]
    ) -> None:
        async with browser.ws_connect("ws") as websocket:
            for replica in replicas:
                await replica.stop()
            message = await websocket.receive()
            assert message.type is WSMsgType.CLOSE
            assert message.data == WSCloseCode.GOING_AWAY

    async def test_sticky_pin(self, browser: ClientSession) -> None:
        """The session's websocket reaches the session's endpoint, whoever came first."""
        for _ in range(4):
            browser.cookie_jar.clear()
            async with browser.get("ping") as page:
                instance = page.headers["x-upstream-addr"]
            for _ in range(3):
                async with browser.ws_connect("ws") as websocket:
                    assert upstream_of(websocket) == instance
        for _ in range(4):
            browser.cookie_jar.clear()
            async with browser.ws_connect("ws") as websocket:
                instance = upstream_of(websocket)
            for _ in range(3):
                async with browser.get("ping") as page:
                    assert page.headers["x-upstream-addr"] == instance

    async def test_no_websocket(self, browser: ClientSession) -> None:
        with pytest.raises(WSServerHandshakeError) as declined:
            await browser.ws_connect("ping")
        assert declined.value.status == 200


def upstream_of(websocket: ClientWebSocketResponse) -> str:
    """Which endpoint switched."""
    return websocket._response.headers["x-upstream-addr"]


class TestShutdown:
    async def test_tunnels_may_end_themselves(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(switching(), grace_period=60.0)
        user = await switched(client, proxy)
        stopping = asyncio.create_task(proxy.stop())
        await refused(proxy.port)
        await user.send(b"hello")
        assert await user.read(5) == b"hello"
        user.close()
        await stopping
        await peer.wait_open(0)

    async def test_or_are_cut(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(switching(), grace_period=0.05)
        user = await switched(client, proxy)
        await user.send(b"hello")
        assert await user.read(5) == b"hello"
        await proxy.stop()
        await user.closed()
        await peer.wait_open(0)

    async def test_handshake_under_way(self, behind: Behind, client: MakeClient) -> None:
        may_switch = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await may_switch.wait()
            await conn.send(SWITCH + b"hello")

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(upgrade())
        await peer.wait_requests(1)
        stopping = asyncio.create_task(proxy.stop())
        await refused(proxy.port)
        may_switch.set()
        response = await user.response_head()
        assert response.status == 101
        assert response.header("connection") == b"Upgrade"
        assert await user.read_until_eof() == b"hello"
        await stopping


class TestRetries:
    async def test_of_a_refused_connection(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        down, up = await endpoint(listening=False), await endpoint(switching())
        proxy = await start_proxy([service(down, up)])
        for _ in range(2):
            user = await switched(client, proxy)
            await user.send(b"hello")
            assert await user.read(5) == b"hello"
        assert up.connections == 2
