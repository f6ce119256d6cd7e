"""semantics/request.py: what a request says, what is sent on, and what is refused."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from stickyproxy.base.errors import BadRequest
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.request import ClientRequest, Peer

ID = b"0123456789abcdef0123456789abcdef"
PIN = b"sp1.000000000000000000000000"
OURS = (
    b"X-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"
    b"X-Forwarded-Port: 8080\r\nX-Forwarded-Host: shop.local\r\nX-Request-Id: " + ID + b"\r\n"
)


async def parsed(
    *lines: bytes, start: bytes = b"GET / HTTP/1.1", body: bytes = b"", trusted: bool = False
) -> ClientRequest:
    """The request of these header lines, by aiohttp's parser."""
    head = b"\r\n".join((start, b"Host: shop.local", *lines, b"", b""))
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    [(message, payload)], _, _ = parser.feed_data(head + body)
    networks = [ip_network("192.0.2.0/24")] if trusted else []
    peer = Peer(
        "192.0.2.1", "127.0.0.1", 8080, secure=False, trusted_proxies=TrustedProxies(networks)
    )
    assert payload is EMPTY_PAYLOAD or isinstance(payload, StreamReader)
    return ClientRequest(peer, message, payload, ID)


def sent(request: ClientRequest, *strips: bytes) -> bytes:
    return request.upstream_head(request.target, frozenset(strips))


async def test_what_is_sent_on() -> None:
    request = await parsed(b"aCCept: */*", b"X-Odd:  a  b ")
    assert sent(request) == (
        b"GET / HTTP/1.1\r\nHost: shop.local\r\naCCept: */*\r\nX-Odd: a  b\r\n" + OURS + b"\r\n"
    )


async def test_what_is_not() -> None:
    request = await parsed(
        *(b"Connection: X-Mine", b"X-Mine: 1", b"TE: trailers", b"Proxy: http://evil.example"),
        *(b"X-Forwarded-For: 203.0.113.5", b"X_Forwarded_For: 203.0.113.5", b"Forwarded: for=x"),
    )
    assert sent(request) == b"GET / HTTP/1.1\r\nHost: shop.local\r\n" + OURS + b"\r\n"


async def test_a_trusted_proxy_is_believed_and_its_chain_extended() -> None:
    theirs = ID[::-1]
    request = await parsed(
        *(b"X-Forwarded-For: 203.0.113.5", b"X-Forwarded-Proto: https"),
        *(b"Forwarded: for=203.0.113.5", b"X-Request-Id: " + theirs),
        trusted=True,
    )
    assert (request.client_address, request.secure, request.id) == ("203.0.113.5", True, theirs)
    head = sent(request)
    assert b"\r\nX-Forwarded-For: 203.0.113.5, 192.0.2.1\r\n" in head
    assert b"\r\nX-Forwarded-Proto: https\r\n" in head
    assert b"\r\nForwarded: for=203.0.113.5\r\n" in head


async def test_pins_are_not_shown() -> None:
    request = await parsed(b"Cookie: a=b; session=" + PIN)
    assert request.cookies(b"session") == (PIN,)
    assert b"\r\nCookie: a=b\r\n" in sent(request, b"session")
    assert PIN in sent(request)
    only = await parsed(b"Cookie: session=" + PIN)
    assert b"Cookie" not in sent(only, b"session")


async def test_what_balancers_ask() -> None:
    request = await parsed(
        *(b"X-User: \xff", b"Cookie: a=1", b"Cookie: a=2"), start=b"GET /?q=%20&q=2&r HTTP/1.1"
    )
    assert request.header("x-user") == b"\xff"
    assert request.header("x-other") is None
    assert request.cookies(b"a") == (b"1", b"2")
    assert (request.query(b"q"), request.query(b"r"), request.query(b"s")) == (b"%20", b"", None)


async def test_absolute_form_names_the_host() -> None:
    request = await parsed(start=b"GET http://other.local/x HTTP/1.1")
    assert (request.host, request.target) == (b"other.local", b"/x")
    assert b"shop.local" not in sent(request)


async def test_an_upgrade() -> None:
    request = await parsed(b"Connection: Upgrade", b"Upgrade: websocket")
    assert sent(request).endswith(b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")


async def test_a_body_that_came_along() -> None:
    post = b"POST / HTTP/1.1"
    request = await parsed(b"Content-Length: 5", start=post, body=b"hello")
    assert request.body_at_hand() == request.body_at_hand() == b"hello"
    assert not request.replayable
    assert sent(request).endswith(b"\r\nContent-Length: 5\r\n\r\n")
    chunked = b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    request = await parsed(b"Transfer-Encoding: chunked", start=post, body=chunked)
    assert request.body_at_hand() == b"5\r\nhello\r\n0\r\n\r\n"
    assert sent(request).endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")


async def test_a_body_that_is_still_to_come() -> None:
    request = await parsed(b"Content-Length: 5", start=b"PUT / HTTP/1.1", body=b"he")
    assert request.body_at_hand() is None
    assert request.replayable
    request.body_touched = True
    assert not request.replayable


@pytest.mark.parametrize(
    ("start", "line", "status"),
    [
        (b"CONNECT /x HTTP/1.1", b"A: b", 405),
        (b"GET http://user@shop.local/ HTTP/1.1", b"A: b", 400),
        (b"GET / HTTP/0.9", b"A: b", 400),
        (b"GET /#x HTTP/1.1", b"A: b", 400),
    ],
)
async def test_what_is_refused(start: bytes, line: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        await parsed(line, start=start)
    assert refused.value.status == status
