"""DATA PLANE: a client's request as the proxy sees it, and as the endpoint will.

    Peer            what is the same for all requests of one client connection
    ClientRequest   one request: what routing and balancers ask of it, and the head to forward

The head is taken apart once, in ``ClientRequest.__init__``; fields that pass unchanged are kept
as they came, in their order and spelling.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD

from stickyproxy.base.errors import BadRequest
from stickyproxy.semantics import cookies
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.headers import REQUEST_KINDS, Kind, named_in_connection, split_absolute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

# RFC 9110 section 9.2.2: doing it twice is doing it once.
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))

_REQUEST_ID = re.compile(rb"[0-9a-f]{32}")

_LENGTH = re.compile(rb"[0-9]{1,20}")
_MAX_LENGTH = (1 << 63) - 1
"""Longer bodies overflow what most servers count in."""


class Peer:
    """The other end of a client connection."""

    __slots__ = ("address", "lines", "local", "port", "secure", "trusted", "trusted_proxies")

    def __init__(
        self,
        address: str,
        local: str,
        port: int,
        *,
        secure: bool,
        trusted_proxies: TrustedProxies,
    ) -> None:
        self.address = address
        """IP address; empty on a unix socket."""
        self.local = _authority(local, port)
        """What it connected to, as a Host field names it."""
        self.port = port
        """The local port it connected to; 0 on a unix socket."""
        self.secure = secure
        self.trusted_proxies = trusted_proxies
        self.trusted = trusted_proxies.trusts(address)
        self.lines = _forwarded_lines(address, address, self.scheme, port)
        """Forwarding fields for requests of an untrusted peer, all but the host."""

    @property
    def scheme(self) -> str:
        return "https" if self.secure else "http"


class ClientRequest:
    """One request. Implements ``routing.endpoint.Request``."""

    __slots__ = (
        "_body",
        "_cookie_line",
        "_cookies",
        "_forwarded",
        "_lines",
        "_peer",
        "body_touched",
        "chunked",
        "client_address",
        "host",
        "http11",
        "id",
        "keep_alive",
        "length",
        "message",
        "method",
        "payload",
        "secure",
        "target",
        "upgrade",
    )

    def __init__(
        self, peer: Peer, message: RawRequestMessage, payload: StreamReader, request_id: bytes
    ) -> None:
        """Raises BadRequest for what must not be forwarded."""
        self._peer = peer
        self.message = message
        self.payload = payload
        self.method = message.method
        version: tuple[int, int] = message.version
        self.http11 = version == HttpVersion11
        # aiohttp stops parsing at a request to upgrade; if it is declined, so be it.
        self.keep_alive = not (message.should_close or message.upgrade)
        self.chunked = message.chunked
        self.length: int | None = None
        """Bytes of the body as the client announced it; None: it did not, or sends chunks."""
        self._body: bytes | None = b"" if payload is EMPTY_PAYLOAD else None
        self.body_touched = False
        """True once a part of the body was read: then the request cannot be sent again."""
        self.id = request_id
        self.host = b""
        self.upgrade: bytes | None = None
        """Protocol to switch to, if the client asked."""
        self.client_address = peer.address
        self.secure = peer.secure
        self.target = message.path.encode("utf-8", "surrogateescape")
        self._lines: list[bytes] = []
        self._cookies: tuple[bytes, ...] = ()
        self._cookie_line = 0
        self._forwarded: dict[bytes, bytes] | None = None
        believed = self._take_headers(message.raw_headers)
        if not self.http11 and version != HttpVersion10:
            status = 400 if version < HttpVersion10 else 505
            raise BadRequest(status, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        if self.method == "CONNECT":
            raise BadRequest(405, "CONNECT is for forward proxies; this is a reverse proxy")
        self._check_length()
        if not self.target.startswith(b"/"):
            self._take_special_target()
        if b"#" in self.target:
            raise BadRequest(400, "the request target holds a fragment")
        if not (self.host or self.http11):
            self._name_host()
        if believed:
            self._believe(believed)

    def _take_headers(
        self, raw_headers: Sequence[tuple[bytes, bytes]]
    ) -> dict[bytes, bytes] | None:
        """Sort the fields; returns the forwarding fields of a trusted proxy."""
        lines = self._lines
        kinds = REQUEST_KINDS
        named: frozenset[bytes] = frozenset()
        for name, value in raw_headers:
            kind = kinds[name]
            if not kind:
                lines.append(name + b": " + value)
            elif kind == Kind.HOST:
                self.host = value
                lines.append(name + b": " + value)
            elif kind == Kind.COOKIE:
                self._cookies = (*self._cookies, value)
                self._cookie_line = len(lines)
                lines.append(name + b": " + value)
            elif kind == Kind.CONNECTION:
                named |= named_in_connection(value)
            elif kind == Kind.FORWARDED:
                if not self._peer.trusted:
                    continue
                if name.lower() == b"forwarded":  # RFC 7239: passed on as it is
                    lines.append(name + b": " + value)
                else:
                    self._note_forwarded(name.lower(), value)
            elif kind == Kind.TRANSFER_ENCODING:
                if not self.http11:  # RFC 9112 section 6.1: its framing is faulty
                    raise BadRequest(400, "HTTP/1.0 has no transfer codings")
                if value.lower() != b"chunked":
                    raise BadRequest(501, "the only transfer coding known here is chunked")
            elif kind == Kind.CONTENT_LENGTH:
                self._note_length(value)
            elif kind == Kind.UPGRADE:
                self.upgrade = _without_h2c(value)
        if named:
            self._keep_lines(lambda name: name not in named)
        if not (self.message.upgrade and self.http11):
            self.upgrade = None  # no "Connection: upgrade" with it; or RFC 9110 section 7.8
        return self._forwarded

    def _note_length(self, value: bytes) -> None:
        """No field of the client frames anything (RFC 9112 section 6.3): its length is taken as a
        number, which is what will be counted and what the endpoint is told."""
        if self.chunked or self.length is not None or not _LENGTH.fullmatch(value):
            raise BadRequest(400, "Content-Length is not one number")
        self.length = int(value)
        if self.length > _MAX_LENGTH:
            raise BadRequest(400, "Content-Length is too large")

    def _check_length(self) -> None:
        """aiohttp hands out no body for a length of 2^64-1."""
        if self.length and self.payload is EMPTY_PAYLOAD:
            raise BadRequest(400, "the request body does not have the length that was announced")

    def _note_forwarded(self, name: bytes, value: bytes) -> None:
        if self._forwarded is None:
            self._forwarded = {}
        if name not in self._forwarded:
            self._forwarded[name] = value
        elif name == b"x-forwarded-for":
            self._forwarded[name] += b", " + value

    def _keep_lines(self, keep: Callable[[bytes], bool]) -> None:
        """Drop the fields whose lower-case name is not to be kept."""
        names = [line.partition(b":")[0].lower() for line in self._lines]
        self._lines = [line for name, line in zip(names, self._lines, strict=True) if keep(name)]
        if self._cookies:
            self._cookie_line = [name for name in names if keep(name)].index(b"cookie")

    def _take_special_target(self) -> None:
        """Absolute form, whose authority replaces the Host field (RFC 9112 section 3.2.2), or
        the asterisk of OPTIONS."""
        if self.target == b"*" and self.method == "OPTIONS":
            return
        absolute = split_absolute(self.target)
        if absolute is None:
            raise BadRequest(400, "the request target is neither a path nor an http URL")
        self.host, self.target = absolute
        self._keep_lines(lambda name: name != b"host")
        self._lines.append(b"Host: " + self.host)

    def _name_host(self) -> None:
        """HTTP/1.0 may leave it out, and HTTP/1.1, which endpoints are spoken to in, must not:
        the address that was connected to takes its place (RFC 9112 section 3.3)."""
        self.host = self._peer.local
        self._keep_lines(lambda name: name != b"host")
        self._lines.append(b"Host: " + self.host)

    def _believe(self, forwarded: dict[bytes, bytes]) -> None:
        """Take over what a trusted proxy says about the client."""
        peer = self._peer
        chain = forwarded.get(b"x-forwarded-for", b"").decode("latin-1")
        if chain:
            self.client_address = peer.trusted_proxies.client_of(chain, peer.address)
        if b"x-forwarded-proto" in forwarded:
            self.secure = forwarded[b"x-forwarded-proto"].lower() == b"https"
        theirs = forwarded.get(b"x-request-id", b"")
        if _REQUEST_ID.fullmatch(theirs):
            self.id = theirs

    # --- routing.endpoint.Request ---

    def cookies(self, name: bytes) -> tuple[bytes, ...]:
        """Values of all cookies of that name, in the order sent."""
        headers = self._cookies
        if len(headers) == 1:
            return cookies.values(headers[0], name)
        return tuple(value for header in headers for value in cookies.values(header, name))

    def header(self, name: str) -> bytes | None:
        """First value of the field."""
        value = self.message.headers.get(name)
        return None if value is None else value.encode("utf-8", "surrogateescape")

    def query(self, name: bytes) -> bytes | None:
        """First value of the query parameter, as sent."""
        _, _, query = self.target.partition(b"?")
        for pair in query.split(b"&"):
            key, _, value = pair.partition(b"=")
            if key == name:
                return value
        return None

    # --- for the forward path ---

    @property
    def replayable(self) -> bool:
        """True if sending it a second time does no harm and is still possible."""
        return self.method in _IDEMPOTENT and not self.body_touched

    def body_at_hand(self) -> bytes | None:
        """The body with its transfer coding, if it came along with the head as small ones do; it
        is kept, so that the request can be sent again. None if there is more to come. Raises
        BadRequest if it has another length than was announced."""
        payload = self.payload
        if self._body is None and payload.is_eof() and not self.body_touched:
            body = payload.read_nowait()
            if not self.chunked and len(body) != self.length:
                raise BadRequest(400, "the request body is not as long as was announced")
            if self.chunked:
                body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
            self._body = body
        return self._body

    def upstream_head(self, target: bytes, strips: frozenset[bytes]) -> bytes:
        """The head to send. ``strips``: names of cookies whose pins the endpoint must not see."""
        lines = self._lines
        if strips and self._cookies:
            lines = self._without_pins(strips)
        parts = [
            self.method.encode(),
            b" ",
            target,
            b" HTTP/1.1\r\n",
            b"\r\n".join(lines),
            b"\r\n" if lines else b"",
        ]
        if self._forwarded is None:
            parts += (self._peer.lines, b"X-Forwarded-Host: ", self.host)
        else:
            parts.append(self._extended(self._forwarded))
        parts += (b"\r\nX-Request-Id: ", self.id, b"\r\n")
        if self.chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        elif self.length is not None:
            parts.append(b"Content-Length: %d\r\n" % self.length)
        if self.upgrade is not None:
            parts += (b"Connection: Upgrade\r\nUpgrade: ", self.upgrade, b"\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _without_pins(self, strips: frozenset[bytes]) -> list[bytes]:
        if len(self._cookies) == 1:
            at = self._cookie_line
            lines = self._lines.copy()
            kept = cookies.without_pins(self._cookies[0], strips)
            if kept is None:
                del lines[at]
            else:
                lines[at] = b"Cookie: " + kept
            return lines
        lines = [line for line in self._lines if line[:7].lower() != b"cookie:"]
        return lines + _cookie_lines(self._cookies, strips)

    def _extended(self, theirs: dict[bytes, bytes]) -> bytes:
        """Forwarding fields when a trusted proxy sent some: its chain plus itself."""
        peer = self._peer
        chain = [theirs[b"x-forwarded-for"]] if b"x-forwarded-for" in theirs else []
        chain.append(peer.address.encode() or b"unix:")
        port = str(peer.port).encode()
        return b"".join(
            (
                b"X-Forwarded-For: ",
                b", ".join(chain),
                b"\r\nX-Real-IP: ",
                self.client_address.encode() or b"unix:",
                b"\r\nX-Forwarded-Proto: ",
                theirs.get(b"x-forwarded-proto", peer.scheme.encode()),
                b"\r\nX-Forwarded-Port: ",
                theirs.get(b"x-forwarded-port", port),
                b"\r\nX-Forwarded-Host: ",
                theirs.get(b"x-forwarded-host", self.host),
            )
        )


def _authority(address: str, port: int) -> bytes:
    if not address:
        return b"localhost"
    return (f"[{address}]:{port}" if ":" in address else f"{address}:{port}").encode()


def _without_h2c(upgrade: bytes) -> bytes | None:
    """HTTP/2 behind our back would carry requests that nobody routes or checks."""
    protocols = [protocol.strip(b" \t") for protocol in upgrade.split(b",")]
    return b", ".join(p for p in protocols if p and p.lower() != b"h2c") or None


def _cookie_lines(headers: Iterable[bytes], strips: frozenset[bytes]) -> list[bytes]:
    kept = [cookies.without_pins(header, strips) for header in headers]
    return [b"Cookie: " + header for header in kept if header is not None]


def _forwarded_lines(chain: str, client: str, scheme: str, port: int) -> bytes:
    return (
        f"X-Forwarded-For: {chain or 'unix:'}\r\n"
        f"X-Real-IP: {client or 'unix:'}\r\n"
        f"X-Forwarded-Proto: {scheme}\r\n"
        f"X-Forwarded-Port: {port}\r\n"
    ).encode()
