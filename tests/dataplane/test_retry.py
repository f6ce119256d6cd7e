"""Endpoints that fail: what is tried again, what is not, and what the client sees of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Behind, MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.scripted import (
    EndpointConnection,
    RawClient,
    Response,
    Script,
    Truncated,
    answering,
    chunk,
    chunked,
    get,
    ok,
    post,
    request,
    respond,
)

HOST = ("Host", "demo.local")
CHUNKED = ("Transfer-Encoding", "chunked")
CLOSE = ("Connection", "close")
ENDS = ("eof", "reset")


async def echo(conn: EndpointConnection) -> None:
    """Answer with the target and the body that came."""
    while (received := await conn.request()) is not None:
        await conn.send(ok(received.target + b" " + received.body))


def leave(conn: EndpointConnection, how: str) -> None:
    """End the connection in that way."""
    if how == "reset":
        conn.abort()
    else:
        conn.close()


async def asked(client: MakeClient, proxy: RunningProxy, data: bytes) -> Response:
    """The answer to this request on a connection of its own."""
    user = await client(proxy.port)
    await user.send(data)
    return await user.response()


def tried(response: Response) -> list[str]:
    """The endpoints that the answer says were contacted."""
    return (response.header("x-upstream-addr") or b"").decode().replace(" ", "").split(",")


class TestConnectFailures:
    """Nothing was sent, so any request may go to another endpoint."""

    @pytest.mark.parametrize(
        "data",
        [
            get(),
            post(b"body" * 100_000),
            request("POST", "/", HOST, CHUNKED, body=chunked(b"body" * 100_000)),
        ],
        ids=["get", "length", "chunked"],
    )
    async def test_the_next_one_answers(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        data: bytes,
    ) -> None:
        dead = [await endpoint(listening=False) for _ in range(3)]
        alive = await endpoint()
        proxy = await start_proxy([service(*dead, alive)])
        for _ in range(4):
            response = await asked(client, proxy, data)
            assert response.status == 200
            assert tried(response)[-1] == alive.address
            assert len(set(tried(response))) == len(tried(response))
        for seen in alive.requests:
            assert seen.body == (b"" if data == get() else b"body" * 100_000)

    async def test_nobody_accepts_until_one_does(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        assert (await asked(client, proxy, get())).status == 200
        await peer.stop()
        assert (await asked(client, proxy, get())).status == 502
        await peer.start()
        assert (await asked(client, proxy, get())).status == 200

    async def test_an_endpoint_that_goes_away_under_load(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """Its kept-alive connections die, then new ones are refused; no GET is lost."""
        peers = [await endpoint() for _ in range(3)]
        proxy = await start_proxy([service(*peers)])
        users = [await client(proxy.port) for _ in range(6)]
        for turn in range(12):
            if turn == 4:
                await peers[0].stop()
            if turn == 8:
                await peers[0].start()
                await peers[1].stop()
            for user in users:
                await user.send(get())
            for user in users:
                response = await user.response()
                assert response.status == 200, response


class TestReusedConnections:
    """RFC 9110, 9.2.2 and RFC 9112, 9.3.1: a connection may die as the request goes out; only
    what is idempotent is sent again."""

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
    async def test_safe_is_sent_again(
        self, behind: Behind, client: MakeClient, method: str, how: str
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok())
            if conn.number == 1:
                assert await conn.request()
                leave(conn, how)
            else:
                await echo(conn)

        proxy, peer = await behind(script)
        assert (await asked(client, proxy, get("/1"))).status == 200
        user = await client(proxy.port)
        await user.send(request(method, "/2", HOST))
        response = await user.response("HEAD" if method == "HEAD" else "GET")
        assert response.status == 200
        assert [seen.target for seen in peer.requests] == [b"/1", b"/2", b"/2"]
        assert peer.connections == 2

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize(
        "data",
        [
            post(b"body"),
            post(b""),
            request("PATCH", "/", HOST, CHUNKED, body=chunked(b"body")),
        ],
        ids=["post", "empty", "patch"],
    )
    async def test_unsafe_is_not(
        self, behind: Behind, client: MakeClient, data: bytes, how: str
    ) -> None:
        """Whether on a reused connection or on a new one: the endpoint may have carried it out."""

        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if received.method != b"GET":
                    leave(conn, how)
                    return
                await conn.send(ok())

        proxy, peer = await behind(script)
        assert (await asked(client, proxy, get())).status == 200
        response = await asked(client, proxy, data)
        assert response.status == 502
        assert len(peer.requests) == 2
        assert (await asked(client, proxy, get())).status == 200

    async def test_a_second_endpoint_does_not_get_it_either(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()

        peers = [await endpoint(script) for _ in range(3)]
        proxy = await start_proxy([service(*peers)])
        response = await asked(client, proxy, post(b"body"))
        assert response.status == 502
        assert len(tried(response)) == 1
        assert sum(len(peer.requests) for peer in peers) == 1

    @pytest.mark.parametrize("how", ENDS)
    async def test_a_part_of_the_answer_is_an_answer(
        self, behind: Behind, client: MakeClient, how: str
    ) -> None:
        """Even a GET is not sent again once the endpoint has begun to answer it."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok())
            await conn.request()
            await conn.send(b"HTTP/1.1 200 OK\r\nConte")
            conn.tell("begun")
            await asyncio.sleep(0)
            leave(conn, how)

        proxy, peer = await behind(script)
        assert (await asked(client, proxy, get())).status == 200
        response = await asked(client, proxy, get())
        assert response.status == 502
        assert len(peer.requests) == 2

    @pytest.mark.parametrize("data", [get(), post(b"body")], ids=["get", "post"])
    async def test_closed_while_idle(self, behind: Behind, client: MakeClient, data: bytes) -> None:
        """The proxy has seen it go: nothing is sent there, so nothing is at risk."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok())
            if conn.number == 1:
                conn.finish()
                conn.tell(await conn.eof())
            else:
                await echo(conn)

        proxy, peer = await behind(script)
        assert (await asked(client, proxy, get())).status == 200
        assert await peer.told() in ENDS
        assert (await asked(client, proxy, data)).status == 200
        assert len(peer.requests) == 2
        assert peer.connections == 2

    async def test_a_body_that_was_begun_is_not_sent_again(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """PUT is idempotent, but its body is gone."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok())
            await conn.head()
            while piece := await conn.body_some():
                conn.tell(piece)
                if conn.number == 1:
                    return

        proxy, peer = await behind(script)
        assert (await asked(client, proxy, get())).status == 200
        user = await client(proxy.port)
        await user.send(request("PUT", "/", HOST, CHUNKED, body=chunk(b"begun")))
        assert await peer.told() == b"begun"
        assert (await user.response()).status == 502
        assert len(peer.heads) == 2


LONG = b"x" * 50_000


class TestTruncation:
    """RFC 9112, 8: half an answer must never look like a whole one."""

    UPSTREAM = {  # noqa: RUF012
        "chunked": respond("200 OK", CHUNKED, body=chunk(LONG)),
        "inside a chunk": respond("200 OK", CHUNKED, body=chunk(LONG)[:-100]),
        "before the last line": respond("200 OK", CHUNKED, body=chunked(LONG)[:-2]),
        "length": ok(LONG + b"!")[:-1],
    }

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
    @pytest.mark.parametrize("framing", UPSTREAM)
    async def test_endpoint_dies_inside_its_answer(
        self, behind: Behind, client: MakeClient, framing: str, version: str, how: str
    ) -> None:
        """The strict client would raise nothing if the answer had a clean end; where only a close
        ends it (chunks for an HTTP/1.0 client), that must be a reset."""
        received = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            if conn.number > 1:
                await echo(conn)
                return
            await conn.request()
            await conn.send(self.UPSTREAM[framing])
            await received.wait()
            leave(conn, how)

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, version=version))
        await begin_body(user)
        received.set()
        with pytest.raises(Truncated) as cut:
            await rest_of_body(user)
        if version == "HTTP/1.0" and framing != "length":
            assert cut.value.how == "reset"
        assert (await asked(client, proxy, get())).status == 200
        assert peer.connections == 2

    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
    async def test_reset_of_an_answer_that_a_close_ends(
        self, behind: Behind, client: MakeClient, version: str
    ) -> None:
        received = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", CLOSE, body=LONG))
            await received.wait()
            conn.abort()

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, version=version))
        await begin_body(user)
        received.set()
        with pytest.raises(Truncated) as cut:
            await rest_of_body(user)
        if version == "HTTP/1.0":
            assert cut.value.how == "reset"

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize("framing", UPSTREAM)
    async def test_all_in_one_go(
        self, behind: Behind, client: MakeClient, framing: str, how: str
    ) -> None:
        """The end comes together with the bytes before it."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(self.UPSTREAM[framing])
            if how == "reset":
                conn.abort()

        proxy, _ = await behind(script)
        for version in ("HTTP/1.1", "HTTP/1.0"):
            user = await client(proxy.port)
            await user.send(request("GET", "/", HOST, version=version))
            try:
                response = await user.response()
            except Truncated:
                continue
            assert response.status == 502


async def begin_body(user: RawClient) -> None:
    """Take the head of a 200 and the first piece of its body."""
    assert (await user.response_head()).status == 200
    assert await user.body_some()


async def rest_of_body(user: RawClient) -> None:
    """Take the body to its end."""
    while await user.body_some():
        pass


class TestClientLeaves:
    """What nobody waits for is not worth an endpoint's work."""

    @pytest.mark.parametrize("how", ENDS)
    async def test_before_the_answer(self, behind: Behind, client: MakeClient, how: str) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            conn.tell(await conn.eof())

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(get())
        await peer.wait_requests(1)
        leave_as_client(user, how)
        assert await peer.told() in ENDS
        peer.script = echo
        assert (await asked(client, proxy, get())).status == 200

    @pytest.mark.parametrize("how", ENDS)
    async def test_inside_the_answer(self, behind: Behind, client: MakeClient, how: str) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", CHUNKED, body=chunk(b"first")))
            conn.tell(await conn.eof())

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(get())
        await begin_body(user)
        leave_as_client(user, how)
        assert await peer.told() in ENDS
        peer.script = echo
        assert (await asked(client, proxy, get())).status == 200

    @pytest.mark.parametrize("how", ENDS)
    async def test_while_the_answer_piles_up(
        self, behind: Behind, client: MakeClient, how: str
    ) -> None:
        """An endless download ends with its client, though that one has stopped reading before."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", CHUNKED))
            while True:
                await conn.send(chunk(LONG))

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(get())
        await begin_body(user)
        leave_as_client(user, how)
        await peer.wait_open(0)
        peer.script = echo
        assert (await asked(client, proxy, get())).status == 200

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize(
        "data",
        [post(LONG)[:-1], request("POST", "/", HOST, CHUNKED, body=chunked(LONG)[:-1])],
        ids=["length", "chunked"],
    )
    async def test_inside_its_request(
        self, behind: Behind, client: MakeClient, data: bytes, how: str
    ) -> None:
        """The endpoint must not take what it got for the whole."""

        async def script(conn: EndpointConnection) -> None:
            with pytest.raises(Truncated) as cut:
                await conn.request()
            conn.tell(len(cut.value.body))

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(data)
        await peer.wait_heads(1)
        leave_as_client(user, how)
        told = await peer.told()
        assert isinstance(told, int)
        assert told <= len(LONG)
        assert peer.requests == []
        peer.script = echo
        assert (await asked(client, proxy, get())).status == 200

    async def test_with_requests_in_the_pipe(self, behind: Behind, client: MakeClient) -> None:
        """What was queued behind the one that was being served is not served for nobody."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            conn.tell(await conn.eof())

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(get("/1") + get("/2") + get("/3"))
        await peer.wait_requests(1)
        user.abort()
        assert await peer.told() in ENDS
        peer.script = echo
        assert (await asked(client, proxy, get("/next"))).status == 200
        assert [seen.target for seen in peer.requests] == [b"/1", b"/next"]


def leave_as_client(user: RawClient, how: str) -> None:
    """End the connection in that way."""
    if how == "reset":
        user.abort()
    else:
        user.close()


def then(first: bytes, rest: Script = echo) -> Script:
    """Answer the first connection's first request with these bytes, tell how the proxy ends that
    connection; serve later ones well."""

    async def script(conn: EndpointConnection) -> None:
        if conn.number == 1:
            await conn.request()
            await conn.send(first)
            conn.tell(await conn.eof())
        else:
            await rest(conn)

    return script


class TestReuse:
    """RFC 9112, 9.3: connections to endpoints are kept, but only as long as they are in step."""

    async def test_one_connection_serves_many(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(echo)
        user = await client(proxy.port)
        for number in range(10):
            await user.send(get(f"/{number}"))
            assert (await user.response()).body == f"/{number} ".encode()
            response = await asked(client, proxy, post(b"body", f"/post{number}"))
            assert response.body == f"/post{number} body".encode()
        assert peer.connections == 1

    @pytest.mark.parametrize(
        "answer",
        [
            ok(b"hello"),
            respond("200 OK", CHUNKED, body=chunked(b"hello")),
            respond("204 No Content"),
            respond("304 Not Modified", ("Content-Length", "5")),
            respond("100 Continue") + ok(b"hello"),
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        ],
    )
    async def test_after_any_complete_answer(
        self, behind: Behind, client: MakeClient, answer: bytes
    ) -> None:
        proxy, peer = await behind(answering(answer))
        for _ in range(3):
            user = await client(proxy.port)
            await user.send(get())
            await user.response(interims=[])
        assert peer.connections == 1

    async def test_concurrent_requests_have_their_own(
        self, behind: Behind, client: MakeClient
    ) -> None:
        barrier = asyncio.Barrier(8)

        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                await barrier.wait()
                await conn.send(ok(received.target))

        proxy, peer = await behind(script)
        users = [await client(proxy.port) for _ in range(8)]
        for turn in range(3):
            for number, user in enumerate(users):
                await user.send(get(f"/{turn}/{number}"))
            for number, user in enumerate(users):
                assert (await user.response()).body == f"/{turn}/{number}".encode()
        assert peer.connections == 8

    @pytest.mark.parametrize(
        "answer",
        [
            ok(b"hello", Connection="close"),
            ok(b"hello", Connection="Foo, Close"),
            respond("200 OK", CHUNKED, CLOSE, body=chunked(b"hello")),
            b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ],
    )
    async def test_close_is_honoured(
        self, behind: Behind, client: MakeClient, answer: bytes
    ) -> None:
        """RFC 9112, 9.6: nothing more is sent on it, and the proxy closes its side."""
        proxy, peer = await behind(then(answer))
        assert (await asked(client, proxy, get())).body == b"hello"
        assert (await asked(client, proxy, get("/next"))).body == b"/next "
        assert await peer.told() in ENDS
        assert peer.connections == 2

    @pytest.mark.parametrize(
        "surplus",
        [ok(b"poison"), b"rubbish", b"\r\n", b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"\0"],
    )
    async def test_unasked_bytes_on_an_idle_connection(
        self, behind: Behind, client: MakeClient, surplus: bytes
    ) -> None:
        """RFC 9112, 9.2: they belong to no request, so not to the next one either."""
        may_poison = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            if conn.number > 1:
                await echo(conn)
                return
            await conn.request()
            await conn.send(ok(b"hello"))
            await may_poison.wait()
            await conn.send(surplus)
            conn.tell(await conn.eof())

        proxy, peer = await behind(script)
        assert (await asked(client, proxy, get())).body == b"hello"
        may_poison.set()
        assert await peer.told() in ENDS
        assert (await asked(client, proxy, get("/next"))).body == b"/next "
        assert peer.connections == 2

    @pytest.mark.parametrize(
        ("data", "answer"),
        [
            (get(), ok(b"hello") + ok(b"poison")),
            (get(), ok(b"hello") + b"rubbish"),
            (get(), ok(b"hello") + b"HTTP/1.1 2"),
            (get(), respond("200 OK", CHUNKED, body=chunked(b"hello")) + ok(b"poison")),
            (get(), respond("200 OK", CHUNKED, body=chunked(b"hello")) + b"rubbish"),
            (get(), respond("204 No Content") + b"body"),
            (get(), respond("304 Not Modified") + ok(b"poison")),
            (request("HEAD", "/", HOST), ok(b"a body where none belongs")),
        ],
    )
    async def test_unasked_bytes_together_with_the_answer(
        self, behind: Behind, client: MakeClient, data: bytes, answer: bytes
    ) -> None:
        proxy, peer = await behind(then(answer))
        user = await client(proxy.port)
        await user.send(data)
        response = await user.response("HEAD" if data.startswith(b"HEAD") else "GET")
        assert response.body in (b"hello", b"")
        assert (await asked(client, proxy, get("/next"))).body == b"/next "
        assert await peer.told() in ENDS
        assert peer.connections == 2

    async def test_an_unfinished_request_spoils_its_connection(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """The endpoint answered before it had the body: what is missing must not come from the
        next request."""

        async def script(conn: EndpointConnection) -> None:
            if conn.number > 1:
                await echo(conn)
                return
            await conn.head()
            await conn.send(ok(b"early"))
            conn.tell(await conn.eof())

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        await user.send(post(b"missing")[:-7])
        assert (await user.response()).body == b"early"
        assert (await asked(client, proxy, get("/next"))).body == b"/next "
        user.close()
        assert await peer.told() in ENDS
        assert peer.connections == 2

    async def test_idle_connections_are_closed_in_time(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, peer = await behind(then(ok(b"hello")), upstream_idle_timeout=0.2)
        assert (await asked(client, proxy, get())).body == b"hello"
        assert await peer.told() == "eof"

    async def test_endpoints_that_left_the_table_lose_theirs(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """Idle ones at once, a busy one when its exchange has ended."""
        release = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if received.target == b"/slow":
                    await release.wait()
                await conn.send(ok(b"old"))

        old, new = await endpoint(script), await endpoint(answering(ok(b"new")))
        proxy = await start_proxy([service(old)])
        slow = await client(proxy.port)
        await slow.send(get("/slow"))
        await old.wait_requests(1)
        assert (await asked(client, proxy, get())).body == b"old"
        assert len(old.open) == 2
        proxy.set_services([service(new)])
        assert (await asked(client, proxy, get())).body == b"new"
        await old.wait_open(1)
        release.set()
        assert (await slow.response()).body == b"old"
        await old.wait_open(0)
        await slow.send(get())
        assert (await slow.response()).body == b"new"

    async def test_a_bad_endpoint_leaves_the_others_alone(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        bad = await endpoint(answering(b"rubbish\r\n\r\n"))
        good = await endpoint(echo)
        proxy = await start_proxy([service(bad, good)])
        statuses = [(await asked(client, proxy, get())).status for _ in range(6)]
        assert set(statuses) <= {200, 502}
        assert statuses.count(200) >= 3
        assert good.connections == 1
