"""Bugs that were: requests that reached an endpoint other than they should have, or at all."""

from __future__ import annotations

import asyncio
import select

import pytest

from tests.conftest import Behind, MakeClient
from tests.scripted import EndpointConnection, get, post, request, respond

PIN = b"sp1.000000000000000000000000"


@pytest.mark.parametrize("behind_cookie", [b"", b"Authorization: Bearer secret\r\n"])
async def test_01_a_field_named_in_connection_before_a_cookie_with_a_pin(
    behind: Behind, client: MakeClient, behind_cookie: bytes
) -> None:
    """The pin was stripped from the wrong line, whose field was lost."""
    proxy, peer = await behind(sticky_session_cookie="session")
    user = await client(proxy.port)
    await user.send(
        b"GET / HTTP/1.1\r\nHost: demo.local\r\nConnection: X-Foo\r\nX-Foo: 1\r\n"
        b"Cookie: session=" + PIN + b"; a=b\r\n" + behind_cookie + b"\r\n"
    )
    assert (await user.response()).status == 200
    [received] = peer.requests
    assert [value for name, value in received.headers if name == b"Cookie"] == [b"a=b"]
    assert received.header("X-Foo") is None
    assert received.header("Authorization") == (b"Bearer secret" if behind_cookie else None)


async def test_02_connect_with_a_path(behind: Behind, client: MakeClient) -> None:
    """It was forwarded, and its connection reused."""
    proxy, peer = await behind()
    user = await client(proxy.port)
    await user.send(b"CONNECT /x HTTP/1.1\r\nHost: demo.local\r\n\r\n")
    assert (await user.response()).status == 405
    assert await user.closed() == "eof"
    assert peer.requests == []


async def test_03_a_wildcard_as_host(behind: Behind, client: MakeClient) -> None:
    """The name of a wildcard route is no host name."""
    proxy, peer = await behind(hosts=("*.demo.local",))
    user = await client(proxy.port)
    await user.send(get(host="a.demo.local"))
    assert (await user.response()).status == 200
    await user.send(get(host="*.demo.local"))
    assert (await user.response()).status == 400
    assert len(peer.requests) == 1


async def test_04_asterisk_on_a_redirect(behind: Behind, client: MakeClient) -> None:
    """The asterisk became a part of the host name redirected to."""
    proxy, _ = await behind(redirects=(("old.local", "https://new.example"),))
    user = await client(proxy.port)
    await user.send(b"OPTIONS * HTTP/1.1\r\nHost: old.local\r\n\r\n")
    response = await user.response()
    assert response.status == 302
    assert response.header("Location") == b"https://new.example/"


async def test_05_forwarded_of_an_untrusted_client(behind: Behind, client: MakeClient) -> None:
    """RFC 7239's field passed where X-Forwarded-For did not."""
    proxy, peer = await behind()
    user = await client(proxy.port)
    await user.send(get(Forwarded="for=203.0.113.9"))
    assert (await user.response()).status == 200
    assert peer.requests[0].header("Forwarded") is None


async def test_06_endpoint_answers_early_and_neither_reads_nor_closes(
    behind: Behind, client: MakeClient
) -> None:
    """Its connection was kept for ever, with what it had not taken of the request."""

    async def script(conn: EndpointConnection) -> None:
        await conn.head()
        await conn.send(respond("413 Content Too Large", ("Content-Length", "0")))
        poller = select.poll()
        poller.register(conn.sock, 0)  # tells only that the connection is gone
        conn.tell(bool(await asyncio.to_thread(poller.poll, 10_000)))

    proxy, peer = await behind(script)
    user = await client(proxy.port)
    sending = asyncio.create_task(user.send(post(b"x" * 8_000_000)))
    assert (await user.response()).status == 413
    sending.cancel()
    assert await peer.told() is True


@pytest.mark.parametrize("length", [b"18446744073709551615", b"9223372036854775808"])
async def test_07_a_length_that_is_not_sent_takes_in_the_next_request(
    behind: Behind, client: MakeClient, length: bytes
) -> None:
    """RFC 9112, 6.3: aiohttp takes 2^64-1 for no body. The endpoint was told the length, answered
    early, and took the next client's request, Cookie included, for the body."""
    proxy, peer = await behind(sticky_session_cookie="session")
    hostile = await client(proxy.port)
    await hostile.send(
        b"GET /a HTTP/1.1\r\nHost: demo.local\r\nContent-Length: %b\r\n\r\n" % length
    )
    assert (await hostile.response()).status == 400
    assert await hostile.closed() == "eof"
    victim = await client(proxy.port)
    await victim.send(get("/b", Cookie="secret=1"))
    assert (await victim.response()).status == 200
    [received] = peer.requests
    assert (received.target, received.body) == (b"/b", b"")


async def test_08_the_length_that_is_sent_is_ours(behind: Behind, client: MakeClient) -> None:
    """RFC 9112, 6.3: no field of the client frames anything, however it spells it."""
    proxy, peer = await behind()
    user = await client(proxy.port)
    await user.send(
        b"POST / HTTP/1.1\r\nHost: demo.local\r\ncONTENT-lENGTH:   0005 \r\nX-Last: 1\r\n\r\nhello"
    )
    assert (await user.response()).status == 200
    [received] = peer.requests
    assert received.body == b"hello"
    assert received.headers[-1] == (b"Content-Length", b"5")


async def test_09_chunks_in_http_1_0(behind: Behind, client: MakeClient) -> None:
    """RFC 9112, 6.1: it was served, and so was what came behind it."""
    proxy, peer = await behind()
    user = await client(proxy.port)
    await user.send(
        b"POST /1 HTTP/1.0\r\nHost: demo.local\r\nConnection: keep-alive\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: demo.local\r\n\r\n"
    )
    assert (await user.response()).status == 400
    assert await user.closed() == "eof"
    assert peer.requests == []


async def test_10_http_1_0_without_host(behind: Behind, client: MakeClient) -> None:
    """RFC 9112, 3.2: it went to the endpoint as HTTP/1.1 without Host."""
    proxy, peer = await behind(default_backend=True)
    user = await client(proxy.port)
    await user.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await user.response()).status == 200
    [received] = peer.requests
    assert received.header("Host") == f"127.0.0.1:{proxy.port}".encode()
    assert received.header("X-Forwarded-Host") == f"127.0.0.1:{proxy.port}".encode()


async def test_11_http_1_0_upgrades_nothing(behind: Behind, client: MakeClient) -> None:
    """RFC 9110, 7.8: a server must ignore it."""
    proxy, peer = await behind()
    user = await client(proxy.port)
    await user.send(
        b"GET / HTTP/1.0\r\nHost: demo.local\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert (await user.response()).status == 200
    [received] = peer.requests
    assert received.header("Upgrade") is None


async def test_12_a_fragment_in_the_target(behind: Behind, client: MakeClient) -> None:
    """RFC 9112, 3.2: no form of a request target has one."""
    proxy, peer = await behind()
    for target in (b"/a#frag", b"http://demo.local/a#frag"):
        user = await client(proxy.port)
        await user.send(b"GET %b HTTP/1.1\r\nHost: demo.local\r\n\r\n" % target)
        response = await user.response()
        assert response.status == 400
        assert response.header("X-Content-Type-Options") == b"nosniff"
    assert peer.requests == []


async def test_13_framing_spelled_with_underscores(behind: Behind, client: MakeClient) -> None:
    """Applications that are told fields as CGI variables take them for the real ones."""
    proxy, peer = await behind()
    user = await client(proxy.port)
    lies = ("Content_Length", "5"), ("Transfer_Encoding", "chunked"), ("X_Mine", "kept")
    await user.send(request("GET", "/", ("Host", "demo.local"), *lies))
    assert (await user.response()).status == 200
    [received] = peer.requests
    assert [name for name in received.names if b"_" in name] == [b"x_mine"]
