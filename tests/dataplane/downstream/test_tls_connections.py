"""What a connection does in the clear, it does over TLS: bodies under back-pressure, responses that
are cut, tunnels, and the ways in which it ends."""

from __future__ import annotations

import asyncio
import hashlib
import ssl

import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.tls import ListenerTls
from tests.certificates import client_context, make_ca, make_certificate
from tests.conftest import MakeClient, MakeEndpoint, StartProxy, service
from tests.running import InProcessProxy
from tests.scripted import EndpointConnection, Truncated, get, ok, post, respond
from tests.tls import TlsClient

CA = make_ca()
DEMO = make_certificate(["demo.local"], CA, name="demo")
TLS = ListenerSpec(Address("127.0.0.1", 0), tls=ListenerTls())
BIG = bytes(range(256)) * 32768  # 8 MiB
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def context(request: pytest.FixtureRequest) -> ssl.SSLContext:
    made = client_context(CA)
    made.minimum_version = made.maximum_version = request.param
    return made


async def digest(conn: EndpointConnection) -> None:
    """Answer with the hash of the body."""
    while (received := await conn.request()) is not None:
        await conn.send(ok(hashlib.sha256(received.body).hexdigest().encode()))


class TestBodies:
    async def test_download(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        context: ssl.SSLContext,
    ) -> None:
        async def big(conn: EndpointConnection) -> None:
            while await conn.request() is not None:
                await conn.send(ok(BIG))

        proxy = await start_proxy(
            [service(await endpoint(big))], listeners=[TLS], certificates=[DEMO]
        )
        connection = await TlsClient.over(await client(proxy.port), context)
        for _ in range(2):
            await connection.send(get())
            assert (await connection.response()).body == BIG

    async def test_upload(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        context: ssl.SSLContext,
    ) -> None:
        peer = await endpoint(digest)
        proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
        connection = await TlsClient.over(await client(proxy.port), context)
        for _ in range(2):
            await connection.send(post(BIG))
            body = (await connection.response("POST")).body
            assert body == hashlib.sha256(BIG).hexdigest().encode()

    async def test_a_client_that_takes_nothing_stops_the_endpoint(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """What is buffered is bounded."""
        sent = 0
        stuck = asyncio.Event()

        async def endless(conn: EndpointConnection) -> None:
            nonlocal sent
            await conn.request()
            await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            conn.sock.setblocking(False)
            loop = asyncio.get_running_loop()
            while True:
                try:
                    async with asyncio.timeout(1.0):
                        await loop.sock_sendall(conn.sock, b"x" * 65536)
                except TimeoutError:
                    stuck.set()
                    return
                sent += 65536

        proxy = await start_proxy(
            [service(await endpoint(endless))], listeners=[TLS], certificates=[DEMO]
        )
        connection = await TlsClient.over(await client(proxy.port), client_context(CA))
        await connection.send(get())
        await stuck.wait()
        assert sent < 32 << 20  # most of it is the kernel's: three buffers

    async def test_the_rest_of_a_slow_last_response_arrives(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """The connection closes after it; who takes it slowly gets all of it."""

        async def big(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok(BIG))

        proxy = await start_proxy(
            [service(await endpoint(big))], listeners=[TLS], certificates=[DEMO], client_timeout=2.0
        )
        connection = await TlsClient.over(await client(proxy.port), client_context(CA))
        await connection.send(get(Connection="close"))
        await connection.response_head()
        total = 0
        while piece := await connection.body_some():
            total += len(piece)
            if len(BIG) - total < 1 << 20:  # the endpoint is done with it; we are slow
                await asyncio.sleep(0.1)
        assert total == len(BIG)
        assert await connection.closed() == "eof"


class TestEnds:
    async def test_after_the_last_response(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        context: ssl.SSLContext,
    ) -> None:
        proxy = await start_proxy([service(await endpoint())], listeners=[TLS], certificates=[DEMO])
        connection = await TlsClient.over(await client(proxy.port), context)
        await connection.send(get(Connection="close"))
        assert (await connection.response()).body == b"hello"
        assert await connection.closed() == "eof"  # with a close_notify

    @pytest.mark.parametrize(
        "length", [b"", b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"]
    )
    async def test_a_response_that_is_cut_is_seen_to_be(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        context: ssl.SSLContext,
        length: bytes,
    ) -> None:
        """Above all in HTTP/1.0, where its end is that of the connection: no close_notify."""

        async def cut(conn: EndpointConnection) -> None:
            await conn.request()
            piece = b"5\r\nparts\r\n" if b"chunked" in length else b"parts"
            await conn.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + piece)
            await conn.release.wait()  # type: ignore[attr-defined]
            conn.abort()

        release = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            conn.release = release  # type: ignore[attr-defined]
            await cut(conn)

        proxy = await start_proxy(
            [service(await endpoint(script))], listeners=[TLS], certificates=[DEMO]
        )
        connection = await TlsClient.over(await client(proxy.port), context)
        version = "1.0" if not length else "1.1"
        await connection.send(f"GET / HTTP/{version}\r\nHost: demo.local\r\n\r\n".encode())
        await connection.response_head()
        assert await connection.body_some() == b"parts"
        release.set()
        with pytest.raises(Truncated):
            await connection.body_some()
        assert connection.ended == "reset"

    async def test_a_refused_upload_gets_its_answer(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        context: ssl.SSLContext,
    ) -> None:
        proxy = await start_proxy([service(await endpoint())], listeners=[TLS], certificates=[DEMO])
        connection = await TlsClient.over(await client(proxy.port), context)
        head = (
            b"POST / HTTP/1.1\r\nHost: demo.local\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
        )
        await connection.send(head + b"x" * 300_000)
        assert (await connection.response("POST")).status == 400
        assert await connection.closed() == "eof"

    async def test_who_never_ends_tls_is_let_go(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """A close_notify is not answered: the connection is closed all the same."""
        proxy = await start_proxy([service(await endpoint())], listeners=[TLS], certificates=[DEMO])
        assert isinstance(proxy, InProcessProxy)
        connection = await TlsClient.over(await client(proxy.port), client_context(CA))
        await connection.send(get(Connection="close"))
        assert (await connection.response()).body == b"hello"
        raw = await asyncio.wait_for(_until_fin(connection), 20)
        assert raw
        await proxy.stop()

    async def test_a_client_that_leaves_ends_its_request(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        context: ssl.SSLContext,
    ) -> None:
        gone = asyncio.Event()

        async def wait(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.eof()
            gone.set()

        proxy = await start_proxy(
            [service(await endpoint(wait))], listeners=[TLS], certificates=[DEMO]
        )
        connection = await TlsClient.over(await client(proxy.port), context)
        await connection.send(get())
        await connection.end_tls()
        connection.close()
        async with asyncio.timeout(10):
            await gone.wait()


async def _until_fin(connection: TlsClient) -> bool:
    """Read below TLS, answering nothing."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(connection.sock, 65536):
        pass
    return True


class TestTunnels:
    async def test_a_websocket(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        context: ssl.SSLContext,
    ) -> None:
        async def echo(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(
                respond(
                    "101 Switching Protocols", ("Connection", "Upgrade"), ("Upgrade", "websocket")
                )
            )
            for _ in range(100):
                await conn.send(await conn.read(1000))
            await conn.eof()

        proxy = await start_proxy(
            [service(await endpoint(echo))], listeners=[TLS], certificates=[DEMO]
        )
        connection = await TlsClient.over(await client(proxy.port), context)
        await connection.send(get(Connection="Upgrade", Upgrade="websocket"))
        assert (await connection.response_head()).status == 101
        for number in range(100):
            await connection.send(bytes([number]) * 1000)
            assert await connection.read(1000) == bytes([number]) * 1000
        await connection.end_tls()
        connection.close()


class TestDraining:
    async def test_idle_connections_are_closed_properly(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        proxy = await start_proxy([service(await endpoint())], listeners=[TLS], certificates=[DEMO])
        idle = await TlsClient.over(await client(proxy.port), client_context(CA))
        await idle.send(get())
        await idle.response()
        stopping = asyncio.create_task(proxy.stop())
        assert await idle.closed() == "eof"
        await idle.end_tls()
        idle.close()
        await stopping

    async def test_handshakes_under_way_do_not_hold_it_up(
        self, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        proxy = await start_proxy([], listeners=[TLS], certificates=[DEMO], grace_period=0.5)
        silent = await client(proxy.port)
        async with asyncio.timeout(8):  # less than the handshake may take
            await proxy.stop()
        await silent.closed()

    async def test_a_request_under_way_is_finished(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def slow(conn: EndpointConnection) -> None:
            await conn.request()
            asked.set()
            await answer.wait()
            await conn.send(ok(b"late"))

        proxy = await start_proxy(
            [service(await endpoint(slow))], listeners=[TLS], certificates=[DEMO]
        )
        busy = await TlsClient.over(await client(proxy.port), client_context(CA))
        idle = await TlsClient.over(await client(proxy.port), client_context(CA))
        await busy.send(get())
        await asked.wait()
        stopping = asyncio.create_task(proxy.stop())
        assert await idle.closed() == "eof"  # it has begun
        idle.close()
        answer.set()
        response = await busy.response()
        assert response.body == b"late"
        assert response.header("connection") == b"close"
        assert await busy.closed() == "eof"
        busy.close()
        await stopping

    async def test_a_connection_that_comes_into_being_meanwhile(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """It is closed like those that were idle, and not only when all others have ended."""
        asked, answer, is_there, go_on = (asyncio.Event() for _ in range(4))

        async def slow(conn: EndpointConnection) -> None:
            await conn.request()
            asked.set()
            await answer.wait()
            await conn.send(ok(b"late"))

        async def wait() -> None:
            is_there.set()
            await go_on.wait()

        proxy = await start_proxy(
            [service(await endpoint(slow))], listeners=[TLS], certificates=[DEMO]
        )
        busy = await TlsClient.over(await client(proxy.port), client_context(CA))
        idle = await TlsClient.over(await client(proxy.port), client_context(CA))
        handshake = TlsClient.over(
            await client(proxy.port), client_context(CA), before_the_last=wait
        )
        coming = asyncio.create_task(handshake)
        await busy.send(get())
        await asked.wait()
        await is_there.wait()
        stopping = asyncio.create_task(proxy.stop())
        assert await idle.closed() == "eof"  # it has begun
        go_on.set()
        late = await coming
        assert await late.closed() == "eof"
        answer.set()
        assert (await busy.response()).body == b"late"
        for each in (busy, idle, late):
            each.close()
        await stopping
