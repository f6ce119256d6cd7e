"""What must not get through: bad requests, absent endpoints, bad answers.

A request whose extent or meaning is in doubt is answered 400 and the connection closed, for what
follows it cannot be told from its body (RFC 9112, 11.2); no endpoint ever sees it.
"""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.conftest import Behind, MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.scripted import (
    EndpointConnection,
    RawClient,
    Response,
    Script,
    Truncated,
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


async def telling(conn: EndpointConnection) -> None:
    """Answer whole requests, and tell if one is cut short."""
    try:
        while (received := await conn.request()) is not None:
            await conn.send(ok(b"echo " + received.target))
    except Truncated as cut:
        conn.tell(cut.how)


async def silent(conn: EndpointConnection) -> None:
    """Take a request and never answer; tell when the proxy gives up."""
    await conn.request()
    conn.tell(await conn.eof())


async def refused(user: RawClient, *statuses: int) -> Response:
    """The refusal that ends the connection."""
    response = await user.response()
    assert response.status in statuses, response.head
    assert response.closes, response.head
    await user.closed()
    return response


async def response_or_nothing(user: RawClient) -> Response | None:
    """A whole response, or none because the connection ended; not one byte of a body that was
    cut short."""
    try:
        return await user.response()
    except Truncated as cut:
        if cut.body:
            raise
        return None


async def rest_of_body(user: RawClient) -> bytes:
    """What is left of a body that was begun."""
    body = b""
    while piece := await user.body_some():
        body += piece
    return body


async def works(client: MakeClient, proxy: RunningProxy, target: str = "/works") -> None:
    """The proxy answers the next request of somebody else."""
    user = await client(proxy.port)
    await user.send(get(target))
    assert (await user.response()).status == 200


def is_readable_text(response: Response) -> bool:
    """Plain text of printable ASCII: nothing that a client sent can do harm in it."""
    kind = response.header("content-type") or b""
    return kind.startswith(b"text/plain") and response.body.decode("ascii").strip().isprintable()


class TestNoRoute:
    """RFC 9110, 15.5.5: nobody here publishes that host."""

    async def test_unknown_host(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(get(host="nowhere.example"))
        response = await user.response()
        assert response.status == 404
        assert is_readable_text(response)
        assert b"nowhere.example" in response.body
        assert peer.connections == 0

    async def test_unknown_host_of_an_absolute_target(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(get("http://nowhere.example/"))
        response = await user.response()
        assert response.status == 404
        assert b"nowhere.example" in response.body
        assert peer.connections == 0

    async def test_no_services_at_all(self, start_proxy: StartProxy, client: MakeClient) -> None:
        proxy = await start_proxy([])
        user = await client(proxy.port)
        await user.send(get())
        assert (await user.response()).status == 404

    @pytest.mark.parametrize("host", ["", "evil.demo.local", "demo.local.evil", "demo"])
    async def test_hosts_match_whole(self, behind: Behind, client: MakeClient, host: str) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(get(host=host))
        assert (await user.response()).status == 404
        assert peer.connections == 0

    async def test_http_1_0_without_host(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9112, 3.2: only HTTP/1.1 must have one."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(request("GET", "/", version="HTTP/1.0"))
        assert (await user.response()).status == 404
        assert await user.closed() == "eof"
        assert peer.connections == 0

    async def test_outside_every_context_root(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(context_root="/app")
        for target in ("/", "/application", "/ap", "/App", "//app"):
            user = await client(proxy.port)
            await user.send(get(target))
            assert (await user.response()).status == 404, target
        assert peer.connections == 0

    async def test_head_of_nothing(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9110, 9.3.2: an error answer to HEAD has no body either."""
        proxy, _ = await behind()
        user = await client(proxy.port)
        await user.send(request("HEAD", "/", ("Host", "nowhere.example")) + get("/next"))
        response = await user.response("HEAD")
        assert response.status == 404
        if not response.closes:
            assert (await user.response()).body == b"hello"

    async def test_the_body_of_a_refused_request_is_not_a_request(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, peer = await behind(telling)
        user = await client(proxy.port)
        await user.send(post(get("/smuggled"), host="nowhere.example") + get("/next"))
        response = await user.response()
        assert response.status == 404
        if response.closes:
            await user.closed()
            await works(client, proxy, "/next")
        else:
            assert (await user.response()).body == b"echo /next"
        assert [seen.target for seen in peer.heads] == [b"/next"]


class TestNoEndpoint:
    """RFC 9110, 15.6.3 to 15.6.5: 502, 503 and 504 say which side failed."""

    async def test_service_without_endpoints(
        self, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        proxy = await start_proxy([service()])
        user = await client(proxy.port)
        await user.send(get())
        response = await user.response()
        assert response.status == 503
        assert int(response.header("retry-after") or b"") >= 0
        assert is_readable_text(response)

    async def test_all_refuse(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peers = [await endpoint(listening=False) for _ in range(3)]
        proxy = await start_proxy([service(*peers)])
        user = await client(proxy.port)
        await user.send(get())
        response = await user.response()
        assert response.status == 502
        assert is_readable_text(response)
        tried = (response.header("x-upstream-addr") or b"").decode().replace(" ", "").split(",")
        assert sorted(tried) == sorted(peer.address for peer in peers)
        await peers[0].start()
        await works(client, proxy)

    async def test_unresponsive_address(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """A full backlog drops SYNs: nothing answers at all."""
        peer = await endpoint(listening=False)
        peer._listener.listen(0)
        fillers = [socket.socket() for _ in range(2)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((peer.host, peer.port))
            proxy = await start_proxy([service(peer)], connect_timeout=0.2)
            user = await client(proxy.port)
            await user.send(get())
            assert (await user.response()).status in (502, 504)
        finally:
            for filler in fillers:
                filler.close()

    async def test_silent(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(silent, response_timeout=0.2)
        user = await client(proxy.port)
        await user.send(get())
        response = await user.response()
        assert response.status == 504
        assert is_readable_text(response)
        assert response.header("x-upstream-addr") == peer.address.encode()
        assert await peer.told() in ("eof", "reset")
        peer.script = telling
        await works(client, proxy)

    async def test_silent_inside_its_head(self, behind: Behind, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(b"HTTP/1.1 200 OK\r\nContent-Le")
            await conn.eof()

        proxy, _ = await behind(script, response_timeout=0.2)
        user = await client(proxy.port)
        await user.send(get())
        assert (await user.response()).status == 504

    async def test_silent_inside_its_body(self, behind: Behind, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok(b"hello")[:-1])
            conn.tell(await conn.eof())

        proxy, peer = await behind(script, response_timeout=0.2)
        user = await client(proxy.port)
        await user.send(get())
        with pytest.raises(Truncated) as cut:
            await user.response()
        assert cut.value.body == b"hell"
        assert await peer.told() in ("eof", "reset")


class TestMessageSyntax:
    """RFC 9112, 2.2, 3 and 5; RFC 9110, 5.5: 400, closed, and nothing reaches an endpoint."""

    @pytest.mark.parametrize(
        "head",
        [
            b"rubbish\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET / \r\nHost: demo.local\r\n\r\n",
            b" GET / HTTP/1.1\r\nHost: demo.local\r\n\r\n",
            b"GET / http/1.1\r\nHost: demo.local\r\n\r\n",
            b"GET / HTTP/1.1 \r\nHost: demo.local\r\n\r\n",
            b"GET / HTTP/1.1x\r\nHost: demo.local\r\n\r\n",
            b"GET / HTTP/11\r\nHost: demo.local\r\n\r\n",
            b"G@T / HTTP/1.1\r\nHost: demo.local\r\n\r\n",
            b"G\xcbT / HTTP/1.1\r\nHost: demo.local\r\n\r\n",
            b"GET /a b HTTP/1.1\r\nHost: demo.local\r\n\r\n",
            b"GET /a\tb HTTP/1.1\r\nHost: demo.local\r\n\r\n",
            b"GET /a\0b HTTP/1.1\r\nHost: demo.local\r\n\r\n",
            b"GET /a\x7fb HTTP/1.1\r\nHost: demo.local\r\n\r\n",
            b"GET / HTTP/1.1\nHost: demo.local\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\n\r\n",
            b"GET / HTTP/1.1\nHost: demo.local\n\n",
            b"GET / HTTP/1.1\rHost: demo.local\r\r",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX: a\rb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX: a\nb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX: a\0b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX: a\x01b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX\0: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX\t: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX Y: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX(Y): a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX\xe9: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\n: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX: a\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: demo.local\r\nX: a\r\n\tfolded\r\n\r\n",
            b"GET / HTTP/1.1\r\n Host: demo.local\r\n\r\n",
            b"GET / HTTP/1.1\r\n X: a\r\nHost: demo.local\r\n\r\n",
        ],
    )
    async def test_malformed_head(self, behind: Behind, client: MakeClient, head: bytes) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(head)
        await refused(user, 400)
        assert peer.connections == 0
        await works(client, proxy)

    @pytest.mark.parametrize("line", [b"GET  / HTTP/1.1", b"GET /  HTTP/1.1"])
    async def test_blanks_between_the_words(
        self, behind: Behind, client: MakeClient, line: bytes
    ) -> None:
        """RFC 9112, 3: they may be taken for one, but are not passed on."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(line + b"\r\nHost: demo.local\r\n\r\n")
        response = await user.response()
        assert response.status in (200, 400)
        assert [seen.target for seen in peer.requests] == [b"/"] * (response.status == 200)

    async def test_no_version(self, behind: Behind, client: MakeClient) -> None:
        """What HTTP/0.9 was."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(b"GET /\r\n\r\n")
        await refused(user, 400, 505)
        assert peer.connections == 0

    @pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0"])
    async def test_other_major_version(
        self, behind: Behind, client: MakeClient, version: str
    ) -> None:
        """RFC 9110, 15.6.6."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, version=version))
        await refused(user, 400, 505)
        assert peer.connections == 0

    async def test_http_2_preface(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9113, 3.4."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await refused(user, 400, 505)
        assert peer.connections == 0

    @pytest.mark.parametrize(
        "target",
        [
            "demo.local",
            "demo.local:80",
            "*",
            "path",
            "?query",
            "http://",
            "http:///path",
            "http://user@demo.local/",
            "http://user:secret@demo.local/",
            "http://demo.local:x/",
            "http://demo local/",
            "http:/demo.local/",
            "ftp://demo.local/",
            "javascript:alert(1)",
        ],
    )
    async def test_bad_target(self, behind: Behind, client: MakeClient, target: str) -> None:
        """RFC 9112, 3.2: the asterisk is for OPTIONS, an authority for CONNECT."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(get(target))
        response = await user.response()
        assert response.status == 400
        assert peer.connections == 0

    @pytest.mark.parametrize(
        "hosts",
        [
            [],
            ["demo.local", "demo.local"],
            ["demo.local", "nowhere.example"],
            ["demo.local", ""],
            ["demo.local, nowhere.example"],
            ["demo local"],
            ["demo.local/"],
            ["demo.local?"],
            ["demo.local#"],
            ["user@demo.local"],
            ["http://demo.local"],
            ["demo.local:x"],
            ["demo.local:80:80"],
            ["demo.local:-1"],
            ["[::1"],
            ["::1"],
            ["demo\xe9.local"],
            ["<script>"],
            ["demo.local\\"],
        ],
    )
    async def test_bad_host(self, behind: Behind, client: MakeClient, hosts: list[str]) -> None:
        """RFC 9112, 3.2: none, several, or no host at all."""
        proxy, peer = await behind(default_backend=True)
        user = await client(proxy.port)
        await user.send(request("GET", "/", *[("Host", host) for host in hosts]))
        response = await user.response()
        assert response.status == 400
        assert b"<script>" not in response.body or is_readable_text(response)
        assert peer.connections == 0

    async def test_refusals_are_readable(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind()
        user = await client(proxy.port)
        await user.send(b"GET / HTTP/1.1\r\nHost: demo.local\r\nX\xff\x1b[31m<b>: y\r\n\r\n")
        assert is_readable_text(await refused(user, 400))

    async def test_requests_before_the_bad_one_are_answered(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """RFC 9112, 9.3.2: pipelined, and the bad one is the third."""
        proxy, peer = await behind(telling)
        user = await client(proxy.port)
        await user.send(get("/1") + get("/2"))
        assert (await user.response()).body == b"echo /1"
        assert (await user.response()).body == b"echo /2"
        await user.send(b"rubbish\r\n\r\n" + get("/smuggled"))
        await refused(user, 400)
        assert [seen.target for seen in peer.heads] == [b"/1", b"/2"]

    async def test_connect(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9110, 9.3.6: this is no tunnel."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        await user.send(request("CONNECT", "demo.local:80", ("Host", "demo.local:80")))
        response = await user.response("CONNECT")
        assert response.status == 405
        assert response.closes
        await user.closed()
        assert peer.connections == 0


class TestFraming:
    """RFC 9112, 6.1 to 6.3: a body whose end is in doubt."""

    @pytest.mark.parametrize(
        "lengths",
        [
            ["-1"],
            ["+5"],
            ["0x5"],
            ["5 5"],
            ["5a"],
            ["a"],
            ["1e1"],
            ["5.0"],
            ["5,5"],
            ["5, 6"],
            [""],
            ["\xb2"],
            ["99999999999999999999999999"],
            ["5", "5"],
            ["5", "6"],
            ["0", "5"],
        ],
    )
    async def test_content_length(
        self, behind: Behind, client: MakeClient, lengths: list[str]
    ) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        fields = [("Content-Length", length) for length in lengths]
        await user.send(request("POST", "/", HOST, *fields, body=b"hello"))
        await refused(user, 400)
        assert peer.connections == 0
        await works(client, proxy)

    @pytest.mark.parametrize(
        "codings",
        [
            ["gzip, chunked"],
            ["chunked, gzip"],
            ["chunked, chunked"],
            ["chunked", "chunked"],
            ["chunked", "identity"],
            ["identity"],
            ["identity", "chunked"],
            ["gzip"],
            ["xchunked"],
            ["chunkedx"],
            ["chunke d"],
            ['"chunked"'],
            ["chunked;q=1"],
            ["chunked,"],
            [",chunked"],
            [""],
        ],
    )
    async def test_transfer_coding(
        self, behind: Behind, client: MakeClient, codings: list[str]
    ) -> None:
        """400, or 501 as RFC 9112, 6.1 has it for codings nobody knows."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        fields = [("Transfer-Encoding", coding) for coding in codings]
        await user.send(request("POST", "/", HOST, *fields, body=chunked(b"hello")))
        await refused(user, 400, 501)
        assert peer.connections == 0
        await works(client, proxy)

    @pytest.mark.parametrize("swapped", [False, True])
    async def test_both(self, behind: Behind, client: MakeClient, swapped: bool) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        fields = [("Content-Length", "5"), CHUNKED]
        if swapped:
            fields.reverse()
        await user.send(request("POST", "/", HOST, *fields, body=b"0\r\n\r\n"))
        await refused(user, 400)
        assert peer.connections == 0
        await works(client, proxy)

    async def test_transfer_coding_in_http_1_0(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9112, 6.1: whoever wrote it does not know what it means, so nothing that follows
        is believed."""
        proxy, peer = await behind()
        user = await client(proxy.port)
        data = request("POST", "/", HOST, CHUNKED, version="HTTP/1.0", body=chunked(b"hello"))
        await user.send(data + get("/smuggled"))
        await refused(user, 200, 400)
        assert all(seen.body == b"hello" for seen in peer.requests)
        assert b"/smuggled" not in [seen.target for seen in peer.heads]


BAD_CHUNKS = [
    b"x\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"4\r\nhello\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b"5;a\0b\r\nhello\r\n0\r\n\r\n",
    b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    b"5\r\nhello\r\n0\n\n",
]


class TestChunks:
    """RFC 9112, 7.1: the chunked coding."""

    @pytest.mark.parametrize("body", BAD_CHUNKS)
    async def test_with_the_head(self, behind: Behind, client: MakeClient, body: bytes) -> None:
        proxy, peer = await behind(telling)
        user = await client(proxy.port)
        await user.send(request("POST", "/", HOST, CHUNKED, body=body))
        await refused(user, 400)
        assert peer.requests == []
        await works(client, proxy)
        assert [seen.target for seen in peer.requests] == [b"/works"]

    @pytest.mark.parametrize("body", BAD_CHUNKS)
    async def test_later(self, behind: Behind, client: MakeClient, body: bytes) -> None:
        """The endpoint has the head already, and must not take the request for a whole one."""
        proxy, peer = await behind(telling)
        user = await client(proxy.port)
        await user.send(request("POST", "/", HOST, CHUNKED, body=chunk(b"good")))
        await peer.wait_heads(1)
        await user.send(body)
        await refused(user, 400)
        assert await peer.told() in ("eof", "reset")
        assert peer.requests == []
        await works(client, proxy)

    async def test_client_ends_inside_the_body(self, behind: Behind, client: MakeClient) -> None:
        """RFC 9112, 8: an incomplete request is never passed off as a complete one."""
        proxy, peer = await behind(telling)
        for data in (post(b"hello"), request("POST", "/", HOST, CHUNKED, body=chunked(b"hello"))):
            user = await client(proxy.port)
            await user.send(data[:-1])
            user.close()
        whole = await client(proxy.port)
        await whole.send(post(b"hello", "/whole"))
        assert (await whole.response()).status == 200
        assert [seen.target for seen in peer.requests] == [b"/whole"]


class TestTooMuch:
    """RFC 9110, 15.5.15 and RFC 6585, 5."""

    async def test_target(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(max_head_line=1024)
        user = await client(proxy.port)
        await user.send(get("/" + "a" * 2048))
        await refused(user, 414)
        assert peer.connections == 0
        await works(client, proxy, "/" + "a" * 900)

    async def test_target_without_end(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(max_head_line=1024)
        user = await client(proxy.port)
        await user.send(b"GET /" + b"a" * 4096)
        await refused(user, 414)
        assert peer.connections == 0

    @pytest.mark.parametrize("field", ["X: " + "a" * 2048, "X" * 2048 + ": a"])
    async def test_field(self, behind: Behind, client: MakeClient, field: str) -> None:
        proxy, peer = await behind(max_head_line=1024)
        user = await client(proxy.port)
        name, _, value = field.partition(": ")
        await user.send(request("GET", "/", HOST, (name, value)))
        await refused(user, 431)
        assert peer.connections == 0
        user = await client(proxy.port)
        await user.send(get(X="a" * 900))
        assert (await user.response()).status == 200

    async def test_field_without_end(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(max_head_line=1024)
        user = await client(proxy.port)
        await user.send(b"GET / HTTP/1.1\r\nHost: demo.local\r\nX: " + b"a" * 4096)
        await refused(user, 431)
        assert peer.connections == 0

    async def test_fields(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(max_headers=20)
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, *[("X", "a")] * 30))
        await refused(user, 431)
        assert peer.connections == 0
        user = await client(proxy.port)
        await user.send(request("GET", "/", HOST, *[("X", "a")] * 15))
        assert (await user.response()).status == 200

    async def test_limits_as_they_come(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        for data, status in (
            (get("/" + "a" * 70_000), 414),
            (get(X="a" * 70_000), 431),
            (request("GET", "/", HOST, *[("X", "a")] * 3_000), 431),
        ):
            user = await client(proxy.port)
            await user.send(data)
            await refused(user, status)
        assert peer.connections == 0
        await works(client, proxy, "/" + "a" * 4_000)


class TestSlowClients:
    """RFC 9110, 15.5.9: connections that give nothing are not kept."""

    async def test_head_never_ends(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(head_timeout=0.2)
        user = await client(proxy.port)
        await user.send(get()[:-2])
        ended = await user.read_until_eof()
        assert ended == b"" or ended.startswith(b"HTTP/1.1 408 ")
        assert peer.connections == 0

    async def test_head_never_begins(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(head_timeout=0.2)
        user = await client(proxy.port)
        ended = await user.read_until_eof()
        assert ended == b"" or ended.startswith(b"HTTP/1.1 408 ")

    async def test_second_head_never_ends(self, behind: Behind, client: MakeClient) -> None:
        """Begun behind another request, it counts as idle time."""
        proxy, _ = await behind(keepalive_timeout=0.2)
        user = await client(proxy.port)
        await user.send(get() + get()[:-2])
        assert (await user.response()).body == b"hello"
        ended = await user.read_until_eof()
        assert ended == b"" or ended.startswith(b"HTTP/1.1 408 ")

    async def test_no_further_request(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(keepalive_timeout=0.2)
        user = await client(proxy.port)
        await user.send(get())
        assert (await user.response()).body == b"hello"
        assert await user.closed() == "eof"


def answering_once(data: bytes, *, then_close: bool = True) -> Script:
    """The first connection gets this answer, whatever it is; later ones are answered well."""

    async def script(conn: EndpointConnection) -> None:
        if conn.number > 1:
            await telling(conn)
            return
        await conn.request()
        await conn.send(data)
        if then_close:
            conn.finish()
        await conn.eof()

    return script


class TestBadAnswers:
    """RFC 9110, 15.6.3: an endpoint that does not speak HTTP/1.1 costs one request."""

    async def next_request_is_fine(
        self, user: RawClient, response: Response, client: MakeClient, proxy: RunningProxy
    ) -> None:
        """On the same connection if it was left open."""
        if response.closes:
            await user.closed()
            user = await client(proxy.port)
        await user.send(get("/next"))
        assert (await user.response()).body == b"echo /next"

    @pytest.mark.parametrize("then_close", [True, False])
    @pytest.mark.parametrize(
        "answer",
        [
            b"rubbish\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n",
            respond("200 OK", ("Content-Length", "-1")),
            respond("200 OK", ("Content-Length", "5"), ("Content-Length", "6"), body=b"hello!"),
            respond("200 OK", ("Content-Length", "5, 6"), body=b"hello!"),
            respond("200 OK", ("Content-Length", "five"), body=b"hello"),
            respond("200 OK", ("Content-Length", "5"), CHUNKED, body=chunked(b"hello")),
            respond("200 OK", CHUNKED, ("Content-Length", "5"), body=chunked(b"hello")),
            respond("200 OK", ("Transfer-Encoding", "gzip, chunked"), body=chunked(b"hello")),
            respond("200 OK", ("Transfer-Encoding", "chunked, gzip"), body=chunked(b"hello")),
            respond("101 Switching Protocols", ("Connection", "upgrade"), ("Upgrade", "x")),
            respond("200 OK", ("X", "a" * 300_000), ("Content-Length", "0")),
            respond("200 OK", *[("X", "a" * 1000)] * 300, ("Content-Length", "0")),
        ],
        ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else None,
    )
    async def test_head(
        self, behind: Behind, client: MakeClient, answer: bytes, then_close: bool
    ) -> None:
        proxy, peer = await behind(
            answering_once(answer, then_close=then_close), response_timeout=2.0
        )
        user = await client(proxy.port)
        await user.send(get("/bad"))
        response = await user.response()
        if answer.startswith(b"SSH") and not then_close:
            assert response.status in (502, 504)  # it looks like a beginning
        else:
            assert response.status == 502
        assert is_readable_text(response)
        assert response.header("x-upstream-addr") == peer.address.encode()
        await self.next_request_is_fine(user, response, client, proxy)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
            b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 O\x01K\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nX(Y): a\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nX\xe9: a\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        ],
    )
    async def test_what_is_let_through_is_mended(
        self, behind: Behind, client: MakeClient, answer: bytes
    ) -> None:
        """A recipient may be lenient here, but what it passes on must be well-formed, which the
        client sees to."""
        proxy, _ = await behind(answering_once(answer), response_timeout=2.0)
        user = await client(proxy.port)
        await user.send(get())
        response = await user.response()
        if response.status != 502:
            assert response.body == b"hello"
        await self.next_request_is_fine(user, response, client, proxy)

    @pytest.mark.parametrize("how", ["eof", "reset"])
    @pytest.mark.parametrize("sent", [b"", b"HTTP/1.", b"HTTP/1.1 200 OK\r\nContent-Le"])
    async def test_no_whole_head(
        self, behind: Behind, client: MakeClient, sent: bytes, how: str
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            received = await conn.request()
            assert received
            if received.target == b"/next":
                await conn.send(ok(b"echo /next"))
                return
            await conn.send(sent)
            if how == "reset":
                conn.abort()

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        await user.send(post(b"body"))
        response = await user.response()
        assert response.status == 502
        await self.next_request_is_fine(user, response, client, proxy)

    @pytest.mark.parametrize("then_close", [True, False])
    @pytest.mark.parametrize(
        "rest",
        [
            b"x\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"4\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5;a\0b\r\nhello\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        ],
    )
    async def test_chunk_after_the_head(
        self, behind: Behind, client: MakeClient, rest: bytes, then_close: bool
    ) -> None:
        """The head has gone to the client: all that is left is not to end the body."""

        seen = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            if conn.number > 1:
                await telling(conn)
                return
            await conn.request()
            await conn.send(respond("200 OK", CHUNKED, body=chunk(b"good")))
            await seen.wait()
            await conn.send(rest)
            if then_close:
                conn.finish()
            await conn.eof()

        proxy, _ = await behind(script)
        user = await client(proxy.port)
        await user.send(get())
        assert (await user.response_head()).status == 200
        assert await user.body_some() == b"good"
        seen.set()
        with pytest.raises(Truncated):
            await rest_of_body(user)
        await works(client, proxy)

    @pytest.mark.parametrize("then_close", [True, False])
    async def test_chunk_with_the_head(
        self, behind: Behind, client: MakeClient, then_close: bool
    ) -> None:
        answer = respond("200 OK", CHUNKED, body=b"x\r\nhello\r\n0\r\n\r\n")
        proxy, _ = await behind(answering_once(answer, then_close=then_close))
        user = await client(proxy.port)
        await user.send(get())
        head = await response_or_nothing(user)
        assert head is None or head.status == 502
        await works(client, proxy)


class TestSmuggling:
    """RFC 9112, 11.2: what one side takes for a body the other must not take for a request."""

    INNER = get("/smuggled")

    @pytest.mark.parametrize(
        "head",
        [
            # two lengths, in disguise
            "Content-Length: {inner}\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: {inner}",
            "Content-Length: {inner}\r\nTransfer-Encoding : chunked",
            "Content-Length: {inner}\r\nTransfer-Encoding:\x0bchunked",
            "Content-Length: {inner}\r\nTransfer-Encoding: \x00chunked",
            "Content-Length: {inner}\r\nTransfer-Encoding: xchunked",
            "Content-Length: {inner}\r\nTransfer-Encoding: identity",
            "Content-Length: {inner}\r\nTransfer-Encoding:\r\n chunked",
            "Content-Length: {inner}\r\nX: y\rTransfer-Encoding: chunked",
            "Content-Length: {inner}\r\nX: y\nTransfer-Encoding: chunked",
            "Content-Length: {inner}\r\nTransfer-Encoding\t: chunked",
            "Content-Length: {inner}\r\n\x0bTransfer-Encoding: chunked",
            "Content-Length: {inner}\r\nTransfer_Encoding: chunked",
            "Content-Length: {inner}\r\nTransfer Encoding: chunked",
            "Content-Length: 0\r\nContent-Length: {inner}",
            "Content-Length: {inner}\r\nContent-Length: 0",
            "Content-Length: 0, {inner}",
            "Content-Length: {inner}\r\nContent_Length: 0",
            "Content-Length : {inner}",
            "Content-Length: 0{inner}",
            # fields that are said not to matter
            "Content-Length: {inner}\r\nConnection: Content-Length",
            "Content-Length: {inner}\r\nConnection: close, content-length",
            "Content-Length: {inner}\r\nConnection: Host",
            "Content-Length: {inner}\r\nConnection: Transfer-Encoding",
            # an upgrade that is none
            "Content-Length: {inner}\r\nConnection: Upgrade\r\nUpgrade: h2c",
            "Content-Length: {inner}\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        ],
    )
    @pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "OPTIONS"])
    async def test_length(self, behind: Behind, client: MakeClient, head: str, method: str) -> None:
        fields = head.format(inner=len(self.INNER)).encode("latin-1")
        start = f"{method} /outer HTTP/1.1\r\nHost: demo.local\r\n".encode()
        await self.attack(behind, client, start + fields + b"\r\n\r\n" + self.INNER, method)

    @pytest.mark.parametrize(
        "body",
        [
            b"0\r\n\r\n" + b"{inner}",
            b"0;\n\r\n\r\n" + b"{inner}",
            b"0\r\nContent-Length: 9\r\n\r\n" + b"{inner}",
            b"0\r\nX: y\n\r\n" + b"{inner}",
            b"1;x\n2\r\nab\r\n0\r\n\r\n" + b"{inner}",
            b"1\r\nZ\n0\r\n\r\n" + b"{inner}",
            b"00000000000000000\r\n\r\n" + b"{inner}",
            b"0 \r\n\r\n" + b"{inner}",
            b"0\n\r\n" + b"{inner}",
        ],
    )
    async def test_chunks(self, behind: Behind, client: MakeClient, body: bytes) -> None:
        """The inner request stands outside a body, so it may be served (as ``/inner``), but only
        if the body before it was without a fault."""
        data = request(
            "POST", "/outer", HOST, CHUNKED, body=body.replace(b"{inner}", get("/inner"))
        )
        proxy, peer = await behind(telling)
        user = await client(proxy.port)
        await user.send(data)
        response = await user.response()
        if response.status == 200:
            assert response.body == b"echo /outer"
            second = await user.response()
            assert second.body == b"echo /inner" or second.status == 400
        else:
            assert response.status == 400
            await user.closed()
            await works(client, proxy)
            assert b"/inner" not in [seen.target for seen in peer.heads]

    async def test_expect_answered_without_the_body(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """RFC 9110, 10.1.1: after a final answer the body comes or the connection closes; it is
        never a request."""

        async def script(conn: EndpointConnection) -> None:
            if conn.number > 1:
                await telling(conn)
                return
            await conn.head()
            await conn.send(respond("417 Expectation Failed", ("Content-Length", "0")))
            await conn.eof()

        proxy, peer = await behind(script)
        user = await client(proxy.port)
        data = post(self.INNER, Expect="100-continue")
        await user.send(data[: -len(self.INNER)])
        response = await user.response()
        assert response.status == 417
        if response.closes:
            await user.closed()
        else:
            await user.send(self.INNER + get("/next"))
            assert (await user.response()).body == b"echo /next"
        await works(client, proxy)
        assert b"/smuggled" not in [seen.target for seen in peer.heads]

    async def test_answer_of_the_endpoint_is_not_two(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """RFC 9112, 9.2: what follows a whole answer is nobody's."""

        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                poison = ok(b"poison") if conn.number == 1 else b""
                await conn.send(ok(b"echo " + received.target) + poison)

        proxy, _ = await behind(script)
        for target in ("/1", "/2", "/3"):
            user = await client(proxy.port)
            await user.send(get(target))
            assert (await user.response()).body == b"echo " + target.encode()

    async def attack(self, behind: Behind, client: MakeClient, data: bytes, method: str) -> None:
        """Send it; the inner request must be part of a body for everybody."""
        proxy, peer = await behind(telling)
        user = await client(proxy.port)
        await user.send(data)
        response = await user.response_head("HEAD" if method == "HEAD" else "GET")
        assert response.status in (200, 400, 501)
        if response.status != 200:
            assert response.closes
            await user.eof()
            assert peer.requests == []
        elif method != "HEAD":
            assert await rest_of_body(user) == b"echo /outer"
        await works(client, proxy)
        targets = [seen.target for seen in peer.heads]
        assert b"/smuggled" not in targets
        if response.status == 200:
            assert peer.requests[0].body == self.INNER
