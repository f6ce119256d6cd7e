"""semantics/request.py: what a request says, what is sent on, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from stickyproxy.base.errors import BadRequest
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.request import UNKNOWN, ClientRequest, Peer

ID = b"0123456789abcdef0123456789abcdef"
PIN = b"sp1.000000000000000000000000"
HOST = b"Host: shop.local"
OURS = (
    b"X-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"
    b"X-Forwarded-Port: 8080\r\nX-Forwarded-Host: shop.local\r\nX-Request-Id: " + ID + b"\r\n"
)


@dataclass
class Head:
    """A request as a protocol parsed it; see ``RequestHead``."""

    peer: Peer
    method: str
    target: bytes
    fields: Sequence[tuple[bytes, bytes]]
    http11: bool
    body_length: int
    wants_upgrade: bool

    @property
    def version(self) -> str:
        return "HTTP/1.1" if self.http11 else "HTTP/1.0"

    def header(self, name: str) -> bytes | None:
        return next(
            (value for key, value in self.fields if key.lower() == name.lower().encode()), None
        )


def parsed(
    *lines: bytes,
    start: bytes = b"GET / HTTP/1.1",
    body_length: int = 0,
    trusted: bool = False,
    wants_upgrade: bool = False,
) -> ClientRequest:
    """The request of these header lines."""
    method, target, version = start.split(b" ")
    fields = [tuple(map(bytes.strip, line.split(b":", 1))) for line in (HOST, *lines)]
    networks = [ip_network("192.0.2.0/24")] if trusted else []
    peer = Peer(
        "192.0.2.1", "127.0.0.1", 8080, secure=False, trusted_proxies=TrustedProxies(networks)
    )
    head = Head(
        peer=peer,
        method=method.decode(),
        target=target,
        fields=[(name, value) for name, value in fields],
        http11=version == b"HTTP/1.1",
        body_length=body_length,
        wants_upgrade=wants_upgrade,
    )
    return ClientRequest(head, ID)


def sent(request: ClientRequest, *strips: bytes) -> bytes:
    return request.upstream_head(request.target, frozenset(strips))


def test_what_is_sent_on() -> None:
    request = parsed(b"aCCept: */*", b"X-Odd:  a  b ")
    assert sent(request) == (
        b"GET / HTTP/1.1\r\nHost: shop.local\r\naCCept: */*\r\nX-Odd: a  b\r\n" + OURS + b"\r\n"
    )


def test_what_is_not() -> None:
    request = parsed(
        *(b"Connection: X-Mine", b"X-Mine: 1", b"TE: trailers", b"Proxy: http://evil.example"),
        *(b"X-Forwarded-For: 203.0.113.5", b"X_Forwarded_For: 203.0.113.5", b"Forwarded: for=x"),
    )
    assert sent(request) == b"GET / HTTP/1.1\r\nHost: shop.local\r\n" + OURS + b"\r\n"


def test_a_trusted_proxy_is_believed_and_its_chain_extended() -> None:
    theirs = ID[::-1]
    request = parsed(
        *(b"X-Forwarded-For: 203.0.113.5", b"X-Forwarded-Proto: https"),
        *(b"Forwarded: for=203.0.113.5", b"X-Request-Id: " + theirs),
        trusted=True,
    )
    assert (request.client_address, request.secure, request.id) == ("203.0.113.5", True, theirs)
    head = sent(request)
    assert b"\r\nX-Forwarded-For: 203.0.113.5, 192.0.2.1\r\n" in head
    assert b"\r\nX-Forwarded-Proto: https\r\n" in head
    assert b"\r\nForwarded: for=203.0.113.5\r\n" in head


@pytest.mark.parametrize(
    ("told", "port"),
    [
        ([b"X-Forwarded-Proto: https"], b"443"),
        ([b"X-Forwarded-Proto: HTTPS"], b"443"),
        ([b"x-forwarded-proto: http"], b"80"),
        ([b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 8443"], b"8443"),
        ([b"X-Forwarded-Proto: wss"], b"8080"),
        ([b"X-Forwarded-For: 203.0.113.5"], b"8080"),
    ],
)
def test_the_port_follows_the_scheme_that_a_trusted_proxy_tells(
    told: list[bytes], port: bytes
) -> None:
    assert b"\r\nX-Forwarded-Port: " + port + b"\r\n" in sent(parsed(*told, trusted=True))
    assert b"\r\nX-Forwarded-Port: 8080\r\n" in sent(parsed(*told, trusted=False))


def test_pins_are_not_shown() -> None:
    request = parsed(b"Cookie: a=b; session=" + PIN)
    assert request.cookies(b"session") == (PIN,)
    assert b"\r\nCookie: a=b\r\n" in sent(request, b"session")
    assert PIN in sent(request)
    only = parsed(b"Cookie: session=" + PIN)
    assert b"Cookie" not in sent(only, b"session")


def test_what_balancers_ask() -> None:
    request = parsed(
        *(b"X-User: \xff", b"Cookie: a=1", b"Cookie: a=2"), start=b"GET /?q=%20&q=2&r HTTP/1.1"
    )
    assert request.header("x-user") == b"\xff"
    assert request.header("x-other") is None
    assert request.cookies(b"a") == (b"1", b"2")
    assert (request.query(b"q"), request.query(b"r"), request.query(b"s")) == (b"%20", b"", None)


def test_absolute_form_names_the_host() -> None:
    request = parsed(start=b"GET http://other.local/x HTTP/1.1")
    assert (request.host, request.target) == (b"other.local", b"/x")
    assert b"shop.local" not in sent(request)


def test_an_upgrade() -> None:
    lines = (b"Connection: Upgrade", b"Upgrade: websocket")
    request = parsed(*lines, wants_upgrade=True)
    assert sent(request).endswith(b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert b"pgrade" not in sent(parsed(*lines))


def test_the_framing_is_ours() -> None:
    post = b"POST / HTTP/1.1"
    request = parsed(b"cONTENT-lENGTH: 005", start=post, body_length=5)
    assert sent(request).endswith(b"\r\nContent-Length: 5\r\n\r\n")
    request = parsed(b"Transfer-Encoding: chunked", start=post, body_length=UNKNOWN)
    assert sent(request).endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"ength" not in sent(parsed(start=post))
    assert b"Content-Length: 0\r\n" in sent(parsed(b"Content-Length: 0", start=post))


@pytest.mark.parametrize("length", [b"4", b"6", b"18446744073709551615", b"+5", b"5,5", b""])
def test_a_length_that_is_not_counted(length: bytes) -> None:
    with pytest.raises(BadRequest):
        parsed(b"Content-Length: " + length, start=b"POST / HTTP/1.1", body_length=5)


@pytest.mark.parametrize(("method", "idempotent"), [("GET", True), ("PUT", True), ("POST", False)])
def test_what_may_be_sent_twice(method: str, idempotent: bool) -> None:
    assert parsed(start=f"{method} / HTTP/1.1".encode()).idempotent is idempotent


@pytest.mark.parametrize(
    ("start", "line", "status"),
    [
        (b"CONNECT /x HTTP/1.1", b"A: b", 405),
        (b"GET http://user@shop.local/ HTTP/1.1", b"A: b", 400),
        (b"GET / HTTP/1.0", b"Transfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1", b"Transfer-Encoding: gzip, chunked", 501),
        (b"GET /#x HTTP/1.1", b"A: b", 400),
    ],
)
def test_what_is_refused(start: bytes, line: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        parsed(line, start=start)
    assert refused.value.status == status
