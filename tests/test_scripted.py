"""The scripted peers, tested against each other."""

from __future__ import annotations

import asyncio
import re

import pytest
import uvloop

from tests import scripted
from tests.conftest import MakeClient, MakeEndpoint
from tests.scripted import (
    EndpointConnection,
    RawClient,
    ScriptedEndpoint,
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


def sending(data: bytes) -> scripted.Script:
    """Answer the first request with these bytes, whatever they are, and close."""

    async def script(conn: EndpointConnection) -> None:
        await conn.request()
        await conn.send(data)

    return script


async def swallow(conn: EndpointConnection) -> None:
    """Take one request, or fail because it is none."""
    await conn.request()


async def silent(conn: EndpointConnection) -> None:
    """Neither read nor write."""
    await asyncio.Event().wait()


async def answered(client: MakeClient, endpoint: ScriptedEndpoint, data: bytes) -> RawClient:
    """A client whose GET is answered with ``data`` and a close."""
    endpoint.script = sending(data)
    peer = await client(endpoint.port)
    await peer.send(get())
    return peer


async def test_runs_on_uvloop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


class TestMessages:
    """RFC 9112, 2 to 6: what goes in comes out."""

    async def test_request_and_response(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        peer = await endpoint(answering(ok(b"hello", X_One="1")))
        user = await client(peer.port)
        await user.send(post(b"body", "/p?q", X_Two="2", x_two="3"))
        response = await user.response()
        assert (response.status, response.reason, response.version) == (200, b"OK", b"1.1")
        assert response.headers == [(b"Content-Length", b"5"), (b"X-One", b"1")]
        assert response.body == b"hello"
        assert response.chunks is None
        [received] = peer.requests
        assert (received.method, received.target, received.version) == (b"POST", b"/p?q", b"1.1")
        assert received.body == b"body"
        assert received.names == [b"host", b"content-length", b"x-two", b"x-two"]
        assert received.values("X-Two") == [b"2", b"3"]
        assert received.head + received.body == post(b"body", "/p?q", X_Two="2", x_two="3")
        with pytest.raises(AssertionError, match="2 fields named x-two"):
            received.header("x-two")
        assert received.header("x-three") is None

    async def test_keep_alive_and_pipelining(
        self, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        peer = await endpoint(playing(ok(b"1"), ok(b"2")))
        user = await client(peer.port)
        await user.send(get("/a") + get("/b"))
        assert [(await user.response()).body, (await user.response()).body] == [b"1", b"2"]
        assert await user.closed() == "eof"
        assert peer.connections == 1
        assert [received.target for received in peer.requests] == [b"/a", b"/b"]

    async def test_chunked_both_ways(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        head = respond("200 OK", ("Transfer-Encoding", "chunked"))
        peer = await endpoint(answering(head + chunked(b"ab", b"c", trailers=[("X-T", "t")])))
        user = await client(peer.port)
        fields = ("Host", "demo.local"), ("Transfer-Encoding", "chunked")
        await user.send(request("PUT", "/", *fields, body=chunked(b"x" * 100_000, b"y")))
        response = await user.response()
        assert response.chunks == [b"ab", b"c"]
        assert response.body == b"abc"
        assert response.trailers == [(b"X-T", b"t")]
        assert peer.requests[0].chunks == [b"x" * 100_000, b"y"]

    async def test_close_delimited(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        user = await answered(
            client,
            await endpoint(),
            respond("200 OK", ("Connection", "close"), body=b"till the end"),
        )
        response = await user.response()
        assert response.closes
        assert response.body == b"till the end"

    @pytest.mark.parametrize(
        ("to", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("HEAD", "404 No")]
    )
    async def test_no_body_whatever_the_length(
        self, endpoint: MakeEndpoint, client: MakeClient, to: scripted.Method, status: str
    ) -> None:
        """RFC 9110, 8.6: Content-Length of what a GET would have given."""
        head = respond(status, ("Content-Length", "7"))
        user = await answered(client, await endpoint(), head + ok(b"next"))
        response = await user.response(to)
        assert (response.body, response.header("content-length")) == (b"", b"7")
        assert (await user.response()).body == b"next"

    async def test_interim_then_final(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        data = respond("100 Continue") + respond("103 Early Hints", ("Link", "x")) + ok()
        user = await answered(client, await endpoint(), data)
        assert (await user.interim()).status == 100
        assert (await user.interim()).header("link") == b"x"
        assert (await user.response()).status == 200

    async def test_interim_is_not_final(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        user = await answered(client, await endpoint(), respond("100 Continue"))
        with pytest.raises(AssertionError, match="interim, not final"):
            await user.response()
        user = await answered(client, await endpoint(), ok())
        with pytest.raises(AssertionError, match="final, not interim"):
            await user.interim()

    async def test_read_and_read_until_eof(
        self, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        user = await answered(client, await endpoint(), b"anything at all")
        assert await user.read(8) == b"anything"
        assert await user.read_until_eof() == b" at all"


class TestPieces:
    """Bodies read piece by piece, in step with the peer."""

    async def test_response_in_step(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        seen = asyncio.Queue[bytes]()

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", ("Transfer-Encoding", "chunked")))
            for piece in (b"one", b"two"):
                await conn.send(chunk(piece)[:-2])
                assert await seen.get() == piece
                await conn.send(b"\r\n")
            await conn.send(b"0\r\n\r\n")

        user = await client((await endpoint(script)).port)
        await user.send(get())
        assert (await user.response_head()).status == 200
        while piece := await user.body_some():
            seen.put_nowait(piece)
        assert await user.body_some() == b""

    async def test_request_in_step(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            head = await conn.head()
            assert head is not None
            assert head.method == b"POST"
            while piece := await conn.body_some():
                conn.tell(piece)
            conn.tell("end")

        peer = await endpoint(script)
        user = await client(peer.port)
        data = post(b"onetwo")
        for piece in (data[:-6], b"one", b"two"):
            await user.send(piece)
            if len(piece) == 3:
                assert await peer.told() == piece
        assert await peer.told() == "end"

    async def test_body_must_be_read(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            with pytest.raises(AssertionError, match="the last body is unread"):
                await conn.request()
            conn.tell("refused")

        peer = await endpoint(script)
        await (await client(peer.port)).send(post(b"body"))
        assert await peer.told() == "refused"

    async def test_nothing_is_read_ahead(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        """A sender is held up by a peer that does not ask for bytes."""
        release = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            await release.wait()
            total = 0
            while piece := await conn.body_some():
                total += len(piece)
            conn.tell(total)

        peer = await endpoint(script)
        user = await client(peer.port)
        size = 32 << 20
        sending = asyncio.create_task(user.send(post(bytes(size))))
        await peer.wait_heads(1)
        assert not sending.done()
        release.set()
        await sending
        assert await peer.told() == size


class TestStrictness:
    """RFC 9112: what is not well-formed fails, and the failure shows the bytes."""

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"HTTP/1.1 200\r\n\r\n", "not a status line"),
            (b"HTTP/2 200 OK\r\n\r\n", "not a status line"),
            (b"HTTP/1.1 2x0 OK\r\n\r\n", "not a status line"),
            (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", "bare CR or LF"),
            (b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", "bare CR or LF"),
            (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "not a field line"),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "not a field line"),
            (b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", "not a field line"),
            (b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", "not a field line"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "bad Content-Length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "bad Content-Length"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n",
                "several Content-Length",
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "beside Transfer-Encoding",
            ),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "nobody speaks"),
            (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "in HTTP/1.0"),
            (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "declares a body"),
            (b"HTTP/1.1 200 OK\r\n\r\nbody", "no end of body"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "not a chunk size"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "not a chunk size"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\n", "bare LF"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "longer"),
        ],
    )
    async def test_bad_response(
        self, endpoint: MakeEndpoint, client: MakeClient, data: bytes, reason: str
    ) -> None:
        user = await answered(client, await endpoint(), data)
        with pytest.raises(AssertionError, match=re.escape(reason)):
            await user.response()

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", "0 Host fields"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "2 Host fields"),
            (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "not a request line"),
            (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "not a request line"),
            (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "not a request line"),
            (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "not a request line"),
            (b"GET / HTTP/1.1\nHost: a\r\n\r\n", "bare CR or LF"),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "not a field line"),
            (post(b"", Content_Length="0"), "several Content-Length"),
            (post(b"", Transfer_Encoding="chunked"), "beside Transfer-Encoding"),
        ],
    )
    async def test_bad_request(
        self, endpoint: MakeEndpoint, client: MakeClient, data: bytes, reason: str
    ) -> None:
        peer = await endpoint(swallow)
        user = await client(peer.port)
        await user.send(data)
        with pytest.raises(AssertionError, match=re.escape(reason)):
            await peer.wait_requests(1)
        assert await user.closed() == "reset"

    async def test_non_ascii_and_odd_bytes_are_no_error(
        self, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        peer = await endpoint(answering(ok(X="\xff\tb")))
        user = await client(peer.port)
        await user.send(request("M-SEARCH", b'/\xff?"<>{}|\\^`#', ("Host", ""), ("X", " ")))
        assert (await user.response()).header("x") == b"\xff\tb"
        assert peer.requests[0].target == b'/\xff?"<>{}|\\^`#'
        assert peer.requests[0].header("x") == b""

    @pytest.mark.parametrize(
        ("data", "body"),
        [
            (b"HTTP/1.1 200 OK\r\nConte", b""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", b"abc"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", b"abc"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"abc"),
        ],
    )
    @pytest.mark.parametrize("how", ["eof", "reset"])
    async def test_truncated(
        self, endpoint: MakeEndpoint, client: MakeClient, data: bytes, body: bytes, how: str
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(data)
            if how == "reset":
                conn.abort()

        user = await client((await endpoint(script)).port)
        await user.send(get())
        with pytest.raises(Truncated) as cut:
            await user.response()
        assert (cut.value.how, cut.value.body) == (how, body)

    async def test_reset_does_not_end_a_close_delimited_body(
        self, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", ("Connection", "close"), body=b"abc"))
            conn.abort()

        peer = await endpoint(script)
        for read in (RawClient.response, RawClient.read_until_eof):
            user = await client(peer.port)
            await user.send(get())
            with pytest.raises(Truncated) as cut:
                await read(user)
            assert cut.value.how == "reset"
            assert cut.value.body.endswith(b"abc")


class TestEnds:
    """How connections end, as either side sees it."""

    @pytest.mark.parametrize("how", ["eof", "reset"])
    async def test_endpoint_sees_the_client_leave(
        self, endpoint: MakeEndpoint, client: MakeClient, how: str
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            conn.tell(await conn.eof())

        peer = await endpoint(script)
        user = await client(peer.port)
        await user.send(post(b"half of it")[:-5])
        await peer.wait_heads(1)
        if how == "eof":
            user.close()
        else:
            user.abort()
        assert await peer.told() == how
        await peer.wait_open(0)
        assert peer.requests == []

    @pytest.mark.parametrize("how", ["eof", "reset"])
    async def test_leaving_between_requests_is_no_failure(
        self, endpoint: MakeEndpoint, client: MakeClient, how: str
    ) -> None:
        peer = await endpoint()
        user = await client(peer.port)
        await user.send(get())
        await user.response()
        if how == "eof":
            user.finish()
            assert await user.closed() == "eof"
        else:
            user.abort()
        await peer.wait_open(0)

    async def test_bytes_before_the_end(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        user = await answered(client, await endpoint(), ok(b"hello") + b"surplus")
        await user.response()
        with pytest.raises(AssertionError, match="surplus"):
            await user.closed()
        assert user.unread() == b"surplus"
        assert await user.eof() == "eof"

    async def test_sending_to_a_peer_that_left_is_no_failure(
        self, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            while True:
                await conn.send(bytes(1 << 16))

        peer = await endpoint(script)
        user = await client(peer.port)
        await user.read(1 << 16)
        user.abort()
        await peer.wait_open(0)


class TestEndpoint:
    """The endpoint's own life."""

    async def test_refuses_until_started_and_after_stop(
        self, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        peer = await endpoint(listening=False)
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await client(peer.port)
            await peer.start()
            user = await client(peer.port)
            await user.send(get())
            assert (await user.response()).body == b"hello"
            await peer.stop()
            assert await user.closed() == "eof"
        assert peer.connections == 2

    async def test_given_port(self, client: MakeClient) -> None:
        async with ScriptedEndpoint(answering(ok())) as first:
            port = first.port
        async with ScriptedEndpoint(answering(ok(b"heir")), port=port) as second:
            user = await client(port)
            await user.send(get())
            assert (await user.response()).body == b"heir"
        assert second.address == first.address

    async def test_script_can_be_replaced(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        peer = await endpoint(answering(ok(b"old")))
        user = await client(peer.port)
        await user.send(get())
        await user.response()
        peer.script = answering(ok(b"new"))
        later = await client(peer.port)
        for asker, body in ((user, b"old"), (later, b"new")):
            await asker.send(get())
            assert (await asker.response()).body == body

    async def test_local_address(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            conn.tell(conn.sock.getpeername()[0])

        peer = await endpoint(script)
        user = await client(peer.port, local="127.0.0.5")
        assert await peer.told() == "127.0.0.5"
        assert user.address.startswith("127.0.0.5:")

    async def test_a_failing_script_fails_the_test(self, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            raise ValueError(await conn.request())

        peer = ScriptedEndpoint(script)
        await peer.start()
        user = await client(peer.port)
        await user.send(get())
        assert await user.closed() == "reset"
        with pytest.raises(ValueError, match="Request"):
            await peer.close()

    async def test_waits_are_bounded(
        self, endpoint: MakeEndpoint, client: MakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scripted, "TIMEOUT", 0.05)
        peer = await endpoint()
        with pytest.raises(AssertionError, match=r"waited 0.05 s for 3 connections"):
            await peer.wait_connections(3)
        peer.script = silent
        user = await client(peer.port)
        with pytest.raises(
            AssertionError, match=r"waited 0.05 s for .* GET; last received nothing"
        ):
            await user.response()
