"""What an endpoint sees of a request and a client of the answer, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import socket
from collections.abc import Sequence
from ipaddress import ip_network
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import Behind, MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.scripted import (
    EndpointConnection,
    Field,
    RawClient,
    Response,
    Truncated,
    answering,
    chunk,
    chunked,
    get,
    ok,
    playing,
    post,
    request,
    respond,
)

HOST = ("Host", "demo.local")
CHUNKED = ("Transfer-Encoding", "chunked")
CLOSE = ("Connection", "close")
KEEP_ALIVE = ("Connection", "keep-alive")

INFO = (
    "x-request-id",
    "x-proxy-id",
    "x-server-info",
    "x-upstream-addr",
    "x-upstream-response-time",
)


async def echo(conn: EndpointConnection) -> None:
    """Answer with what came: the target in a header, the body as the body."""
    while (received := await conn.request()) is not None:
        await conn.send(ok(received.body, X_Target=received.target.decode("latin-1")))


def only(fields: Sequence[Field], prefix: bytes = b"x-test") -> list[Field]:
    """The fields whose name begins so; the proxy adds others."""
    return [(name, value) for name, value in fields if name.lower().startswith(prefix)]


async def asked(client: MakeClient, proxy: RunningProxy, data: bytes) -> Response:
    """The answer to this request on a connection of its own."""
    user = await client(proxy.port)
    await user.send(data)
    return await user.response()


async def until_refused(client: MakeClient, proxy: RunningProxy) -> None:
    """Connect until the listener is closed."""
    with contextlib.suppress(ConnectionRefusedError):
        async with asyncio.timeout(10):
            while True:
                user = await client(proxy.port)
                await user.eof()


async def still_open(user: RawClient) -> bool:
    """The connection takes another request."""
    await user.send(get("/again"))
    return (await user.response()).status == 200


class TestConnections:
    """RFC 9112, 9.3: which connections last."""

    async def test_http_1_1_persists(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(echo)
        user = await client(proxy.port)
        for target in ("/1", "/2", "/3"):
            await user.send(get(target))
            response = await user.response()
            assert response.header("x-target") == target.encode()
            assert not response.closes
        assert [seen.version for seen in peer.requests] == [b"1.1"] * 3

    @pytest.mark.parametrize("option", ["close", "Close", "foo, close", "close, foo"])
    async def test_http_1_1_close(self, behind: Behind, client: MakeClient, option: str) -> None:
        proxy, _ = await behind()
        user = await client(proxy.port)
        await user.send(get(Connection=option))
        response = await user.response()
        assert response.closes
        assert response.body == b"hello"
        assert await user.closed() == "eof"

    async def test_the_client_s_close_is_not_the_endpoint_s(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, peer = await behind()
        for _ in range(3):
            await asked(client, proxy, get(Connection="close"))
        assert peer.connections == 1

    async def test_the_endpoint_s_close_is_not_the_client_s(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, peer = await behind(playing(ok(b"bye", Connection="close")))
        user = await client(proxy.port)
        for _ in range(3):
            await user.send(get())
            response = await user.response()
            assert response.body == b"bye"
            assert not response.closes
        assert peer.connections == 3

    async def test_http_1_0_closes(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, version="HTTP/1.0"))
        assert (await user.response()).body == b"hello"
        assert await user.closed() == "eof"
        assert peer.requests[0].version == b"1.1"
        assert peer.requests[0].header("host") == b"demo.local"

    async def test_http_1_0_keep_alive(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9112, C.2.2: it must be told, for it would not assume it."""
        proxy, _ = await behind()
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(request("GET", "/", HOST, KEEP_ALIVE, version="HTTP/1.0"))
            response = await user.response()
            assert response.body == b"hello"
            assert (response.header("connection") or b"").lower() == b"keep-alive"

    async def test_pipelined(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9112, 9.3.2: answered in order."""
        proxy, _ = await behind(echo)
        user = await client(proxy.port)
        targets = [f"/{number}" for number in range(100)]
        await user.send(b"".join(post(b"x" * 10, target) + get(target) for target in targets))
        for target in targets:
            for body in (b"x" * 10, b""):
                response = await user.response()
                assert response.header("x-target") == target.encode()
                assert response.body == body

    async def test_pipelined_behind_a_slow_one(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        release = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if received.target == b"/slow":
                    await release.wait()
                await conn.send(ok(received.target))

        peers = [await endpoint(script), await endpoint(script)]
        proxy = await start_proxy([service(*peers)])
        user = await client(proxy.port)
        await user.send(get("/slow") + get("/fast"))
        other = await client(proxy.port)
        for _ in range(4):
            await other.send(get("/other"))
            await other.response()
        release.set()
        assert [(await user.response()).body for _ in range(2)] == [b"/slow", b"/fast"]

    async def test_idle_ones_do_not_delay_the_end(self, behind: Behind, client: MakeClient) -> None:
        """They are closed when the proxy stops, without waiting out the grace period."""
        proxy, _ = await behind(grace_period=60.0)
        users = [await client(proxy.port) for _ in range(5)]
        for user in users[1:]:
            await user.send(get())
            await user.response()
        async with asyncio.timeout(10):
            await proxy.stop()
        for user in users:
            assert await user.closed() == "eof"

    async def test_the_request_under_way_is_finished_before_the_end(
        self, behind: Behind, client: MakeClient
    ) -> None:
        release = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", CHUNKED, body=chunk(b"begun")))
            await release.wait()
            await conn.send(chunked(b" and ended"))

        proxy, _ = await behind(script, grace_period=60.0)
        user = await client(proxy.port)
        await user.send(get() + get("/never"))
        await user.response_head()
        assert await user.body_some() == b"begun"
        stopping = asyncio.create_task(proxy.stop())
        await until_refused(client, proxy)
        release.set()
        assert await user.body_some() == b" and ended"
        assert await user.body_some() == b""
        await user.eof()
        async with asyncio.timeout(10):
            await stopping

    async def test_empty_lines_before_a_request(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9112, 2.2: at least one is ignored."""
        proxy, _ = await behind()
        user = await client(proxy.port)
        await user.send(b"\r\n" + get() + b"\r\n" + get())
        assert (await user.response()).body == b"hello"
        assert (await user.response()).body == b"hello"

    async def test_head_in_small_pieces(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        data = get("/pieces", X_Test="value")
        for at in range(len(data)):
            await user.send(data[at : at + 1])
        assert (await user.response()).body == b"hello"
        assert peer.requests[0].target == b"/pieces"
        assert peer.requests[0].header("x-test") == b"value"

    async def test_answer_in_small_pieces(self, behind: Behind, client: MakeClient) -> None:
        answer = respond("200 OK", CHUNKED, ("X-Test", "value"), body=chunked(b"hello", b"bye"))

        async def script(conn: EndpointConnection) -> None:
            while await conn.request() is not None:
                for at in range(len(answer)):
                    await conn.send(answer[at : at + 1])

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(get())
            response = await user.response()
            assert response.body == b"hellobye"
            assert response.header("x-test") == b"value"

    async def test_client_that_has_finished_sending(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """RFC 9112, 9.6 leaves half-closed clients to the server: an answer or nothing, never
        half of one."""
        proxy, _ = await behind()
        user = await client(proxy.port)
        await user.send(get())
        user.finish()
        answer = await user.read_until_eof()
        assert answer == b"" or answer.endswith(b"\r\n\r\nhello")


class TestWithoutATask:
    """A second request finds an idle connection to its endpoint: then callbacks alone do the
    work. What goes wrong must go as it does otherwise."""

    async def test_pipelined_behind_one_under_way(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        release = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if received.target == b"/slow":
                    await release.wait()
                await conn.send(ok(received.target))

        peer = await endpoint(script)
        proxy = await start_proxy([service(peer)])
        user = await client(proxy.port)
        await user.send(get("/warm"))
        await user.response()
        await user.send(get("/slow"))
        await peer.wait_requests(2)
        targets = [f"/{number}" for number in range(50)]
        await user.send(b"".join(map(get, targets)))
        release.set()
        bodies = [(await user.response()).body for _ in range(51)]
        assert bodies == [b"/slow", *(target.encode() for target in targets)]

    async def test_the_client_leaves(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if received.target == b"/slow":
                    await conn.eof()
                    return
                await conn.send(ok())

        peer = await endpoint(script)
        proxy = await start_proxy([service(peer)])
        user = await client(proxy.port)
        await user.send(get("/warm"))
        await user.response()
        await user.send(get("/slow"))
        await peer.wait_requests(2)
        user.close()
        await peer.wait_open(0)
        assert peer.connections == 1

    async def test_the_endpoint_dies_within_its_answer(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if received.target == b"/half":
                    await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                    return
                await conn.send(ok())

        proxy = await start_proxy([service(await endpoint(script))])
        user = await client(proxy.port)
        await user.send(get("/warm"))
        await user.response()
        await user.send(get("/half"))
        with pytest.raises(Truncated, match="reset"):
            await user.read_until_eof()


class TestBodies:
    """RFC 9112, 6 and 7: framing is each connection's own."""

    ANSWERS: ClassVar = {
        "length": ok(b"hello"),
        "chunked": respond("200 OK", CHUNKED, body=chunked(b"hel", b"lo")),
        "close": respond("200 OK", CLOSE, body=b"hello"),
        "old": b"HTTP/1.0 200 OK\r\n\r\nhello",
        "old length": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    }

    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
    @pytest.mark.parametrize("kind", ANSWERS)
    async def test_response(
        self, behind: Behind, client: MakeClient, kind: str, version: str
    ) -> None:
        """The strict client sees to it that an HTTP/1.0 one gets no chunks."""
        once = kind in ("close", "old", "old length")
        answer = self.ANSWERS[kind]
        proxy, _ = await behind(playing(answer) if once else answering(answer))
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, version=version))
        response = await user.response()
        assert response.status == 200
        assert response.body == b"hello"
        if version == "HTTP/1.0":
            assert response.chunks is None
            assert await user.closed() == "eof"
        else:
            assert not response.closes
            assert await still_open(user)
        if "length" in kind:
            assert response.header("content-length") == b"5"

    async def test_http_1_0_keep_alive_cannot_last_without_a_length(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, _ = await behind(answering(self.ANSWERS["chunked"]))
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, KEEP_ALIVE, version="HTTP/1.0"))
        response = await user.response()
        assert response.closes
        assert response.body == b"hello"

    @pytest.mark.parametrize("body", [b"", b"x", b"x" * 65536, bytes(range(256)) * 12345])
    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_both_ways(
        self, behind: Behind, client: MakeClient, framing: str, body: bytes
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if framing == "length":
                    await conn.send(ok(received.body))
                else:
                    pieces = [received.body] if received.body else []
                    await conn.send(respond("200 OK", CHUNKED, body=chunked(*pieces)))

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        if framing == "length":
            data = post(body)
        else:
            data = request("POST", "/", HOST, CHUNKED, body=chunked(*([body] if body else [])))
        for _ in range(2):
            sending = asyncio.create_task(user.send(data))
            assert (await user.response()).body == body
            await sending
        assert [seen.body == body for seen in peer.requests] == [True, True]
        if framing == "length":
            assert peer.requests[0].header("content-length") == str(len(body)).encode()

    @pytest.mark.parametrize(
        "body",
        [
            b'5;ext=1;other="quo;ted"\r\nhello\r\n0;last\r\n\r\n',
            b"0005\r\nhello\r\n000\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX-Trailer: t\r\nX-Other: u\r\n\r\n",
            b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        ],
    )
    @pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
    async def test_extensions_and_trailers_end_here(
        self, behind: Behind, client: MakeClient, body: bytes, coding: str
    ) -> None:
        """RFC 9112, 7.1.1 and 7.1.2; coding names have no case (RFC 9112, 7)."""
        answer = respond("200 OK", ("Transfer-Encoding", coding), ("Trailer", "X-Trailer"))
        proxy, peer = await behind(answering(answer + body))
        fields = (HOST, ("transfer-encoding", coding), ("Trailer", "X-Trailer"))
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(request("POST", "/", *fields, body=body))
            response = await user.response()
            assert response.body == b"hello"
            assert response.trailers == []
            assert response.header("trailer") is None
        for seen in peer.requests:
            assert seen.body == b"hello"
            assert seen.trailers == []
            assert seen.header("trailer") is None

    async def test_content_coding_is_not_ours(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9110, 8.4: the body stays as it is, whether or not it is what it says."""
        for body in (gzip.compress(b"hello" * 1000), b"this is no gzip"):
            proxy, peer = await behind(answering(ok(body, Content_Encoding="gzip")))
            response = await asked(client, proxy, post(body, Content_Encoding="gzip"))
            assert response.body == peer.requests[0].body == body
            assert response.header("content-encoding") == b"gzip"
            assert peer.requests[0].header("content-encoding") == b"gzip"
            assert peer.requests[0].header("accept-encoding") is None

    async def test_get_with_a_body(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9110, 9.3.1: without meaning, but part of the message."""
        proxy, peer = await behind(echo)
        data = request("GET", "/", HOST, ("Content-Length", "4"), body=b"body")
        assert (await asked(client, proxy, data)).body == b"body"
        assert peer.requests[0].method == b"GET"

    @pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "TRACE"])
    async def test_no_body_stays_none(
        self, behind: Behind, client: MakeClient, method: str
    ) -> None:
        """RFC 9110, 8.6: no Content-Length is made up for methods that expect no body."""
        proxy, peer = await behind()
        assert (await asked(client, proxy, request(method, "/", HOST))).status == 200
        assert peer.requests[0].header("content-length") is None
        assert peer.requests[0].header("transfer-encoding") is None

    async def test_empty_post(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        assert (await asked(client, proxy, post(b""))).status == 200
        assert peer.requests[0].header("content-length") == b"0"

    @pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE", "PROPFIND", "M-SEARCH", "QUERY"])
    async def test_methods(self, behind: Behind, client: MakeClient, method: str) -> None:
        """RFC 9110, 9.1."""
        proxy, peer = await behind()
        data = request(method, "/", HOST, ("Content-Length", "4"), body=b"body")
        assert (await asked(client, proxy, data)).status == 200
        assert peer.requests[0].method == method.encode()
        assert peer.requests[0].body == b"body"

    @pytest.mark.parametrize("method", ["get", "X", "X!#$%&'*+.^_`|~9", "BREW"])
    async def test_unknown_methods(self, behind: Behind, client: MakeClient, method: str) -> None:
        """RFC 9110, 9.1: passed as they are, or refused."""
        proxy, peer = await behind()
        status = (await asked(client, proxy, request(method, "/", HOST))).status
        assert status in (200, 400, 501)
        assert [seen.method for seen in peer.requests] == [method.encode()] * (status == 200)


class TestBodiless:
    """RFC 9110, 9.3.2, 15.3.5 and 15.4.5; RFC 9112, 6.3: answers without a body."""

    @pytest.mark.parametrize(
        "fields",
        [
            [("Content-Length", "5")],
            [("Content-Length", "0")],
            [CHUNKED],
            [],
            [CLOSE],
            [CLOSE, ("Content-Length", "5")],
        ],
    )
    async def test_head(
        self, behind: Behind, client: MakeClient, fields: list[tuple[str, str]]
    ) -> None:
        """Content-Length is what a GET would have given, and is not made up."""
        closing = CLOSE in fields
        answer = respond("200 OK", *fields, ("X-Test", "value"))
        proxy, peer = await behind(playing(answer) if closing else answering(answer))
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(request("HEAD", "/", HOST))
            response = await user.response("HEAD")
            assert response.status == 200
            assert not response.closes
            assert response.header("x-test") == b"value"
            length = dict(fields).get("Content-Length")
            assert response.header("content-length") == (length.encode() if length else None)
        assert [seen.method for seen in peer.requests] == [b"HEAD", b"HEAD"]

    async def test_head_then_get(self, behind: Behind, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                answer = ok(b"hello")
                await conn.send(answer[:-5] if received.method == b"HEAD" else answer)

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(request("HEAD", "/", HOST) + get() + request("HEAD", "/", HOST) + get())
        for _ in range(2):
            assert (await user.response("HEAD")).header("content-length") == b"5"
            assert (await user.response()).body == b"hello"
        assert peer.connections == 1

    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
    async def test_head_by_either_version(
        self, behind: Behind, client: MakeClient, version: str
    ) -> None:
        proxy, _ = await behind(answering(respond("200 OK", CHUNKED)))
        user = await client(proxy.port)
        await user.send(request("HEAD", "/", HOST, CLOSE, version=version))
        assert (await user.response("HEAD")).status == 200
        assert await user.closed() == "eof"

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    async def test_status(self, behind: Behind, client: MakeClient, status: str) -> None:
        proxy, peer = await behind(answering(respond(status, ("ETag", '"x"'))))
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(get())
            response = await user.response()
            assert f"{response.status} {response.reason.decode()}" == status
            assert response.header("etag") == b'"x"'
            assert response.header("content-length") is None
            assert not response.closes
        assert peer.connections == 1

    async def test_304_with_a_length(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9110, 8.6: the length of what is not sent."""
        proxy, peer = await behind(
            answering(respond("304 Not Modified", ("Content-Length", "12345")))
        )
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(get())
            response = await user.response()
            assert response.status == 304
            assert response.header("content-length") == b"12345"
            assert response.body == b""
        assert peer.connections == 1

    @pytest.mark.parametrize("field", [("Content-Length", "0"), CHUNKED])
    async def test_204_that_declares_a_body(
        self, behind: Behind, client: MakeClient, field: tuple[str, str]
    ) -> None:
        """RFC 9110, 8.6 and RFC 9112, 6.1: it must not, and ours does not."""
        proxy, _ = await behind(answering(respond("204 No Content", field)))
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(get())
            assert (await user.response()).status == 204

    async def test_empty_body(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(answering(ok()))
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(get())
            response = await user.response()
            assert response.header("content-length") == b"0"
            assert response.body == b""

    @pytest.mark.parametrize(
        "status", ["200 ", "299 Odd but fine", "404 Pas trouv\xe9", "599 X", "700 Odd"]
    )
    async def test_status_line_is_kept(
        self, behind: Behind, client: MakeClient, status: str
    ) -> None:
        """RFC 9110, 15: unknown codes and any reason phrase, or none, pass."""
        proxy, _ = await behind(answering(respond(status, ("Content-Length", "0"))))
        response = await asked(client, proxy, get())
        assert response.head.startswith(f"HTTP/1.1 {status}\r\n".encode("latin-1"))


class TestInterim:
    """RFC 9110, 10.1.1 and 15.2: what comes before the answer."""

    async def test_early_hints(self, behind: Behind, client: MakeClient) -> None:
        hints = respond("103 Early Hints", ("Link", "</a.css>"), ("Link", "</b.css>"))
        proxy, _ = await behind(answering(hints + hints + ok(b"hello")))
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(get())
            for _ in range(2):
                response = await user.interim()
                assert response.status == 103
                assert response.values("link") == [b"</a.css>", b"</b.css>"]
            assert (await user.response()).body == b"hello"

    async def test_hints_come_before_the_answer_does(
        self, behind: Behind, client: MakeClient
    ) -> None:
        seen = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("103 Early Hints", ("Link", "</a.css>")))
            await seen.wait()
            await conn.send(ok(b"hello"))

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        await user.send(get())
        assert (await user.interim()).status == 103
        seen.set()
        assert (await user.response()).body == b"hello"

    async def test_http_1_0_gets_none(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(
            answering(respond("100 Continue") + respond("103 Early Hints") + ok(b"hello"))
        )
        data = request("GET", "/", HOST, version="HTTP/1.0")
        assert (await asked(client, proxy, data)).body == b"hello"

    async def test_continue_that_nobody_asked_for(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(answering(respond("100 Continue") + ok(b"hello")))
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(post(b"body"))
            assert (await user.response(interims=[])).body == b"hello"

    async def test_expect_continue(self, behind: Behind, client: MakeClient) -> None:
        """The endpoint decides: nobody says 100 before it does."""
        may_continue = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            received = await conn.head()
            assert received
            conn.tell(received.header("expect"))
            await may_continue.wait()
            await conn.send(respond("100 Continue"))
            body = b""
            while piece := await conn.body_some():
                body += piece
            await conn.send(ok(body))
            await echo(conn)

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        data = post(b"hello", Expect="100-continue")
        await user.send(data[:-5])
        assert await peer.told() == b"100-continue"
        assert user.unread() == b""
        may_continue.set()
        assert (await user.interim()).status == 100
        await user.send(b"hello")
        assert (await user.response()).body == b"hello"
        assert await still_open(user)

    async def test_expect_continue_chunked(self, behind: Behind, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            await conn.send(respond("100 Continue"))
            while piece := await conn.body_some():
                conn.tell(piece)
            await conn.send(ok(b"thanks"))
            await conn.eof()

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(request("PUT", "/", HOST, CHUNKED, ("Expect", "100-continue")))
        assert (await user.interim()).status == 100
        await user.send(chunked(b"hello"))
        assert (await user.response()).body == b"thanks"
        assert await peer.told() == b"hello"

    async def test_expect_continue_with_the_body_at_once(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """RFC 9110, 10.1.1: a client need not wait."""
        proxy, peer = await behind(echo)
        user = await client(proxy.port)
        await user.send(post(b"hello", Expect="100-continue"))
        assert (await user.response(interims=[])).body == b"hello"
        assert peer.requests[0].body == b"hello"

    @pytest.mark.parametrize("status", ["417 Expectation Failed", "200 OK", "401 Unauthorized"])
    async def test_expect_answered_for_good(
        self, behind: Behind, client: MakeClient, status: str
    ) -> None:
        """The client need not send the body then, and must not be kept waiting."""

        async def script(conn: EndpointConnection) -> None:
            if conn.number > 1:
                await echo(conn)
                return
            await conn.head()
            await conn.send(respond(status, ("Content-Length", "5"), body=b"no no"))
            await conn.eof()

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        await user.send(post(b"hello", Expect="100-continue")[:-5])
        response = await user.response()
        assert f"{response.status} {response.reason.decode()}" == status
        assert response.body == b"no no"
        if response.closes:
            await user.closed()
        else:
            await user.send(b"hello")
            assert await still_open(user)
        assert (await asked(client, proxy, get())).status == 200

    async def test_expect_of_http_1_0_is_ignored(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9110, 10.1.1: no 100 for it, whoever says so."""
        proxy, _ = await behind(answering(respond("100 Continue") + ok(b"hello")))
        fields = (HOST, ("Content-Length", "4"), ("Expect", "100-continue"))
        data = request("POST", "/", *fields, version="HTTP/1.0", body=b"body")
        assert (await asked(client, proxy, data)).body == b"hello"

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_answer_before_the_body_is_whole(
        self, behind: Behind, client: MakeClient, framing: str
    ) -> None:
        """RFC 9112, 9.6: it reaches the client, and the connection stays in step or closes."""

        async def script(conn: EndpointConnection) -> None:
            if conn.number > 1:
                await echo(conn)
                return
            await conn.head()
            await conn.body_some()
            answer = ("Content-Length", "8"), CLOSE
            await conn.send(respond("413 Content Too Large", *answer, body=b"too much"))
            conn.finish()
            await conn.eof()

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        if framing == "length":
            data, rest = post(b"half" + b"rest")[:-4], b"rest"
        else:
            data = request("POST", "/", HOST, CHUNKED, body=chunk(b"half"))
            rest = chunked(b"rest")
        await user.send(data)
        response = await user.response()
        assert response.status == 413
        assert response.body == b"too much"
        if response.closes:
            await user.closed()
        else:
            await user.send(rest)
            assert await still_open(user)

    async def test_answer_to_an_upload_that_goes_on(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """RFC 9112, 9.6: an answer is not lost to a reset because the client is still sending."""

        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            await conn.send(respond("413 Content Too Large", ("Content-Length", "3"), body=b"no!"))
            await conn.eof()

        proxy, _ = await behind(script)
        user = await client(proxy.port)

        async def upload() -> None:
            with contextlib.suppress(ConnectionError):  # it need not be read to its end
                await user.send(post(bytes(8 << 20)))

        sending = asyncio.create_task(upload())
        response = await user.response()
        assert response.status == 413
        assert response.body == b"no!"
        user.abort() if sending.done() else sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


class TestFields:
    """RFC 9110, 5.3 and 7.6.1: fields pass as they are, but for those of the connection."""

    SENT: ClassVar = [
        ("X-Test-B", "1"),
        ("x-test-a", "2"),
        ("X-TEST-B", "3"),
        ("X-Test-Empty", ""),
        ("X-Test-Bytes", "caf\xe9 \xff\x80"),
        ("X-Test-Inside", "a  b\tc"),
        ("X-Test-B", "1"),
        ("X-Test-Long", "y" * 4000),
        ("X-Test-Quoted", '"a, b", c;d="e"'),
        ("x-test_under", "score"),
        ("X-Test-!#$%&'*+.^_`|~9", "token"),
    ]

    async def test_order_case_and_duplicates(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(
            answering(respond("200 OK", *self.SENT, ("Content-Length", "0")))
        )
        response = await asked(client, proxy, request("GET", "/", HOST, *self.SENT))
        wanted = [(name.encode(), value.encode("latin-1")) for name, value in self.SENT]
        assert only(peer.requests[0].headers) == wanted
        assert only(response.headers) == wanted

    async def test_well_known_ones_pass(self, behind: Behind, client: MakeClient) -> None:
        sent = [
            ("User-Agent", "curl/7.54.0"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "br"),
            ("Authorization", "Basic eDp5"),
            ("Cookie", "a=b; c=d"),
            ("If-None-Match", '"x"'),
            ("Range", "bytes=0-1"),
            ("Content-Type", "text/plain"),
            ("Via", "1.1 elsewhere"),
            ("Forwarded", "for=1.2.3.4"),
        ]
        answered = [
            ("Server", "app/1"),
            ("Date", "Wed, 08 Nov 2017 20:04:36 GMT"),
            ("Set-Cookie", "session=1; Path=/"),
            ("Set-Cookie", "other=2"),
            ("WWW-Authenticate", "Basic"),
            ("Location", "http://elsewhere/"),
            ("Vary", "Accept"),
            ("Last-Modified", "Wed, 08 Nov 2017 20:04:36 GMT"),
        ]
        proxy, peer = await behind(answering(respond("200 OK", *answered, ("Content-Length", "0"))))
        response = await asked(client, proxy, request("GET", "/", HOST, *sent))
        for name, value in sent[:-2]:
            assert peer.requests[0].header(name) == value.encode()
        for name in ("Server", "Date", "WWW-Authenticate", "Location", "Vary", "Last-Modified"):
            assert response.header(name) == dict(answered)[name].encode()
        assert response.values("Set-Cookie") == [b"session=1; Path=/", b"other=2"]

    async def test_hop_by_hop_requests(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        fields = [
            ("X-Test-Kept", "1"),
            ("Connection", "keep-alive, X-Test-Mine"),
            ("x-test-mine", "2"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("connection", "\tX-TEST-OURS ,, X-Test-Absent"),
            ("X-Test-Ours", "3"),
            ("TE", "trailers"),
            ("Trailer", "X-Test-T"),
            ("X-Test-Mine", "4"),
            ("Upgrade", "h2c"),
        ]
        response = await asked(client, proxy, request("GET", "/", HOST, *fields))
        assert response.status == 200
        [seen] = peer.requests
        assert only(seen.headers) == [(b"X-Test-Kept", b"1")]
        for name in ("keep-alive", "proxy-connection", "te", "trailer", "upgrade"):
            assert seen.values(name) == [], name
        assert b"X-Test" not in b",".join(seen.values("connection"))

    async def test_hop_by_hop_responses(self, behind: Behind, client: MakeClient) -> None:
        fields = [
            ("X-Test-Kept", "1"),
            ("Connection", "X-Test-Mine, keep-alive"),
            ("x-test-mine", "2"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Upgrade", "h2,h2c"),
            ("Connection", "Upgrade"),
            ("Trailer", "X-Test-T"),
            ("Content-Length", "0"),
        ]
        proxy, _ = await behind(answering(respond("200 OK", *fields)))
        user = await client(proxy.port)
        for _ in range(2):
            await user.send(get())
            response = await user.response()
            assert only(response.headers) == [(b"X-Test-Kept", b"1")]
            for name in ("keep-alive", "proxy-connection", "upgrade", "trailer"):
                assert response.values(name) == [], name
            assert b"X-Test" not in b",".join(response.values("connection"))
            assert not response.closes

    @pytest.mark.parametrize("named", ["Host", "Content-Length", "Cookie", "X-Forwarded-For"])
    async def test_connection_cannot_drop_what_matters(
        self, behind: Behind, client: MakeClient, named: str
    ) -> None:
        proxy, peer = await behind(echo)
        data = post(b"hello", Connection=named, Cookie="a=b")
        assert (await asked(client, proxy, data)).body == b"hello"
        [seen] = peer.requests
        assert seen.header("host") == b"demo.local"
        assert seen.header("content-length") == b"5"
        assert seen.header("cookie") == b"a=b"
        assert seen.header("x-forwarded-for") == b"127.0.0.1"

    async def test_proxy_field_is_dropped(self, behind: Behind, client: MakeClient) -> None:
        """CVE-2016-5385: CGI programs take it for HTTP_PROXY."""
        proxy, peer = await behind()
        assert (await asked(client, proxy, get(Proxy="http://evil/"))).status == 200
        assert peer.requests[0].values("proxy") == []


TARGET_BYTES = bytes(set(range(0x21, 0x7F)) - {ord("#")})


class TestTargets:
    """RFC 9112, 3.2: the endpoint gets the target that the client sent."""

    @pytest.mark.parametrize(
        "target",
        [
            b"/",
            b"//",
            b"//evil.example/path",
            b"///",
            b"/.",
            b"/..",
            b"/a/../b",
            b"/a/./b",
            b"/%2e%2e/%2F%2f/%00/%ff/%zz/%",
            b"/%41%61",
            b"/a%20b+c",
            b"/?",
            b"/??",
            b"/?a",
            b"/?a=b&&c=;d",
            b"/?a=%26&b=%zz&c=+",
            b"/a?b?c/d",
            b"/a;b=c;d",
            b"/:80/@x",
            b"/http://evil.example/",
            b"/?http://evil.example/#"[:-1],
            b'/"<>\\^`{|}',
            b"/[::1]/",
            b"/" + b"a" * 4000,
        ],
    )
    async def test_byte_for_byte(self, behind: Behind, client: MakeClient, target: bytes) -> None:
        proxy, peer = await behind()
        assert (await asked(client, proxy, get(target))).status == 200
        assert peer.requests[0].target == target

    @pytest.mark.parametrize("target", [b"/\xc3\xa9", b"/?\xe9=\xff", b"/\x80\xff/a"])
    async def test_not_ascii(self, behind: Behind, client: MakeClient, target: bytes) -> None:
        """RFC 3986 has no such bytes in a target, browsers' URLs have: passed as they are, or
        refused, never altered."""
        proxy, peer = await behind()
        status = (await asked(client, proxy, get(target))).status
        assert status in (200, 400)
        assert [seen.target for seen in peer.requests] == [target] * (status == 200)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.lists(st.sampled_from(TARGET_BYTES), max_size=20), min_size=1, max_size=5))
    @example([list(b"//[/"), list(b"?[")])
    @example([list(b"/@:"), list(b"//%")])
    async def test_any_bytes(
        self, behind: Behind, client: MakeClient, targets: list[list[int]]
    ) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        for target in targets:
            await user.send(get(b"/" + bytes(target)))
            assert (await user.response()).status == 200
        assert [seen.target for seen in peer.requests] == [b"/" + bytes(each) for each in targets]

    @pytest.mark.parametrize(
        ("target", "host", "origin"),
        [
            ("http://demo.local/path?query", "demo.local", "/path?query"),
            ("http://demo.local", "demo.local", "/"),
            ("http://demo.local?query", "demo.local", "/?query"),
            ("http://demo.local:8080/", "demo.local:8080", "/"),
            ("HTTP://demo.local//a/../%zz", "demo.local", "//a/../%zz"),
            ("https://demo.local/path", "demo.local", "/path"),
            ("http://demo.local/http://demo.local/", "demo.local", "/http://demo.local/"),
        ],
    )
    async def test_absolute_form(
        self, behind: Behind, client: MakeClient, target: str, host: str, origin: str
    ) -> None:
        """RFC 9112, 3.2.2: the host of the target wins over Host."""
        proxy, peer = await behind()
        for field in ("demo.local", "nowhere.example", ""):
            assert (await asked(client, proxy, get(target, host=field))).status == 200
            assert peer.requests[-1].target == origin.encode()
            assert peer.requests[-1].header("host") == host.encode()

    async def test_options_of_the_server(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9110, 9.3.7."""
        proxy, peer = await behind()
        assert (await asked(client, proxy, request("OPTIONS", "*", HOST))).status == 200
        assert peer.requests[0].target == b"*"
        assert peer.requests[0].method == b"OPTIONS"

    @pytest.mark.parametrize(
        "host", ["demo.local", "DEMO.Local", "demo.local:8080", "demo.local.", "demo.local:"]
    )
    async def test_host_is_kept(self, behind: Behind, client: MakeClient, host: str) -> None:
        """RFC 9110, 7.2 and RFC 3986, 6.2.2: matched without case, port and root dot, sent on as
        it came."""
        proxy, peer = await behind()
        assert (await asked(client, proxy, get(host=host))).status == 200
        assert peer.requests[0].header("host") == host.encode()

    @pytest.mark.parametrize("position", [0, 3, 20])
    async def test_host_may_stand_anywhere(
        self, behind: Behind, client: MakeClient, position: int
    ) -> None:
        proxy, peer = await behind()
        fields = [("X-Test", "a")] * 20
        fields.insert(position, ("hOST", "demo.local"))
        assert (await asked(client, proxy, request("GET", "/", *fields))).status == 200
        assert peer.requests[0].header("host") == b"demo.local"

    @pytest.mark.parametrize("rewrite", [False, True])
    @pytest.mark.parametrize(
        ("target", "rewritten"),
        [
            ("/app", "/"),
            ("/app/", "/"),
            ("/app?q", "/?q"),
            ("/app/?q", "/?q"),
            ("/app/x/y?q=/app/", "/x/y?q=/app/"),
            ("/app//x", "//x"),
            ("/app/app/x", "/app/x"),
            ("/app/../x", "/../x"),
            ("/app/%41%zz", "/%41%zz"),
        ],
    )
    async def test_context_root(
        self, behind: Behind, client: MakeClient, target: str, rewritten: str, rewrite: bool
    ) -> None:
        proxy, peer = await behind(context_root="/app", context_root_rewrite=rewrite)
        assert (await asked(client, proxy, get(target))).status == 200
        assert peer.requests[0].target == (rewritten if rewrite else target).encode()

    async def test_longest_context_root_wins(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        roots = ("/", "/a", "/a/b")
        proxy = await start_proxy(
            [
                service(
                    await endpoint(answering(ok(root.encode()))),
                    name=f"root{number}",
                    context_root=root,
                )
                for number, root in enumerate(roots)
            ]
        )
        for target, root in (
            ("/", "/"),
            ("/x", "/"),
            ("/ab", "/"),
            ("/a", "/a"),
            ("/a?x", "/a"),
            ("/a/", "/a"),
            ("/a/bc", "/a"),
            ("/a/b", "/a/b"),
            ("/a/b/c", "/a/b"),
        ):
            response = await asked(client, proxy, get(target))
            assert response.body == root.encode(), target


class TestForwarded:
    """X-Forwarded-*: what the proxy knows, not what strangers say."""

    LIES: ClassVar = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "666"),
        ("X-Real-IP", "6.6.6.6"),
    ]

    async def test_of_a_client(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        for lies in ([], self.LIES):
            user = await client(proxy.port, local="127.0.0.5")
            await user.send(request("GET", "/", ("Host", "Demo.local:81"), *lies))
            assert (await user.response()).status == 200
            seen = peer.requests[-1]
            assert seen.header("x-forwarded-for") == b"127.0.0.5"
            assert seen.header("x-real-ip") == b"127.0.0.5"
            assert seen.header("x-forwarded-proto") == b"http"
            assert seen.header("x-forwarded-host") == b"Demo.local:81"
            assert seen.header("x-forwarded-port") == str(proxy.port).encode()

    async def test_lies_with_underscores(self, behind: Behind, client: MakeClient) -> None:
        """CGI programs cannot tell them from hyphens."""
        proxy, peer = await behind()
        lies = [(name.replace("-", "_"), value) for name, value in self.LIES]
        assert (await asked(client, proxy, request("GET", "/", HOST, *lies))).status == 200
        names = [name.replace(b"_", b"-") for name in peer.requests[0].names]
        for name, _ in self.LIES:
            assert names.count(name.lower().encode()) == 1, name

    async def test_of_a_trusted_proxy(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(trusted_proxies=(ip_network("127.0.0.5/32"),))
        told = [
            ("X-Forwarded-For", "9.9.9.9"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "public.example"),
            ("X-Forwarded-Port", "443"),
            ("X-Real-IP", "9.9.9.9"),
        ]
        user = await client(proxy.port, local="127.0.0.5")
        await user.send(request("GET", "/", HOST, *told))
        assert (await user.response()).status == 200
        [seen] = peer.requests
        assert seen.header("x-forwarded-for") == b"9.9.9.9, 127.0.0.5"
        assert seen.header("x-forwarded-proto") == b"https"
        assert seen.header("x-forwarded-host") == b"public.example"
        assert seen.header("x-forwarded-port") == b"443"
        assert seen.header("x-real-ip") == b"9.9.9.9"
        assert seen.header("host") == b"demo.local"

    async def test_of_a_trusted_proxy_in_several_fields(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """RFC 9110, 5.3: several fields are one list."""
        proxy, peer = await behind(trusted_proxies=(ip_network("127.0.0.0/8"),))
        told = [("X-Forwarded-For", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 3.3.3.3")]
        user = await client(proxy.port, local="127.0.0.5")
        await user.send(request("GET", "/", HOST, *told))
        assert (await user.response()).status == 200
        value = peer.requests[0].header("x-forwarded-for") or b""
        assert value.replace(b" ", b"") == b"1.1.1.1,2.2.2.2,3.3.3.3,127.0.0.5"

    async def test_of_a_trusted_proxy_that_tells_nothing(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, peer = await behind(trusted_proxies=(ip_network("127.0.0.0/8"),))
        assert (await asked(client, proxy, get())).status == 200
        [seen] = peer.requests
        assert seen.header("x-forwarded-for") == b"127.0.0.1"
        assert seen.header("x-real-ip") == b"127.0.0.1"
        assert seen.header("x-forwarded-proto") == b"http"
        assert seen.header("x-forwarded-host") == b"demo.local"

    async def test_only_the_trusted_are_believed(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(trusted_proxies=(ip_network("127.0.0.5/32"),))
        user = await client(proxy.port, local="127.0.0.6")
        await user.send(request("GET", "/", HOST, *self.LIES))
        assert (await user.response()).status == 200
        assert peer.requests[0].header("x-forwarded-for") == b"127.0.0.6"


class TestInfoHeaders:
    """design.md, 7: who answered, and which request it was."""

    async def test_of_an_answer(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        response = await asked(client, proxy, get())
        assert re.fullmatch(rb"[0-9a-f]{32}", response.header("x-request-id") or b"")
        assert response.header("x-proxy-id") == socket.gethostname().encode()
        info = response.header("x-server-info") or b""
        assert re.fullmatch(rb"stickyproxy/\S+ \(\S+\) \w+/\w+", info)
        assert response.header("x-upstream-addr") == peer.address.encode()
        elapsed = response.header("x-upstream-response-time") or b""
        assert re.fullmatch(rb"\d+\.\d{3}", elapsed)

    async def test_request_id_reaches_the_endpoint(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        seen = set()
        for lies in ({}, {"X_Request_Id": "mine"}, {"x_request_id": "0" * 32}):
            await user.send(get(**lies))
            response = await user.response()
            assert response.header("x-request-id") == peer.requests[-1].header("x-request-id")
            seen.add(response.header("x-request-id"))
        assert len(seen) == 3
        assert b"0" * 32 not in seen

    async def test_the_endpoint_s_own_are_replaced(
        self, behind: Behind, client: MakeClient
    ) -> None:
        lies = [(name.title(), "lie") for name in INFO]
        proxy, peer = await behind(answering(respond("200 OK", *lies, ("Content-Length", "0"))))
        response = await asked(client, proxy, get())
        for name in INFO:
            assert response.header(name) not in (None, b"lie")
        assert response.header("x-upstream-addr") == peer.address.encode()

    async def test_of_our_own_answers(self, behind: Behind, client: MakeClient) -> None:
        """On every response; the last two only when an endpoint was contacted."""
        proxy, _ = await behind()
        for data, status in (
            (get(host="nowhere.example"), 404),
            (request("CONNECT", "demo.local:80", HOST), 405),
            (request("GET", "/", HOST, HOST), 400),
            (b"rubbish\r\n\r\n", 400),
        ):
            response = await asked(client, proxy, data)
            assert response.status == status
            assert re.fullmatch(rb"[0-9a-f]{32}", response.header("x-request-id") or b""), data
            assert response.header("x-proxy-id") == socket.gethostname().encode()
            assert (response.header("x-server-info") or b"").startswith(b"stickyproxy/")
            assert response.header("x-upstream-addr") is None
            assert response.header("x-upstream-response-time") is None

    async def test_hidden(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(hide_info_headers=True)
        for data in (get(), get(host="nowhere.example"), b"rubbish\r\n\r\n"):
            response = await asked(client, proxy, data)
            for name in INFO:
                assert response.values(name) == [], data
        assert re.fullmatch(rb"[0-9a-f]{32}", peer.requests[0].header("x-request-id") or b"")

    async def test_after_a_retry(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """All that were tried, the one that answered last, whichever came first."""
        dead = await endpoint(listening=False)
        alive = await endpoint()
        proxy = await start_proxy([service(dead, alive)])
        seen = set()
        for _ in range(4):
            response = await asked(client, proxy, get())
            assert response.status == 200
            tried = (response.header("x-upstream-addr") or b"").decode().replace(" ", "")
            times = (response.header("x-upstream-response-time") or b"").split(b",")
            assert len(times) == len(tried.split(","))
            assert all(re.fullmatch(rb"\d+\.\d{3}|-", time.strip()) for time in times)
            seen.add(tried)
        assert seen <= {alive.address, f"{dead.address},{alive.address}"}
        assert f"{dead.address},{alive.address}" in seen
