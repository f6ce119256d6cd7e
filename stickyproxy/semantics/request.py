"""DATA PLANE: a client's request as the proxy sees it, and as the endpoint will.

    Peer            what is the same for all requests of one client connection
    RequestHead     a request as parsed by the protocol it came over
    ClientRequest   one request: what routing and balancers ask of it, and the head to forward

The head is parsed once, in ``ClientRequest.__init__``; fields that pass unchanged are kept
as they came, in their order and spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from stickyproxy.base.addresses import join_host_port
from stickyproxy.base.errors import BadRequest
from stickyproxy.model.tls import ClientAuth
from stickyproxy.semantics import cookies
from stickyproxy.semantics.edits import Edit
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.headers import REQUEST_KINDS, Kind, connection_options, split_absolute

# RFC 9110 section 9.2.2: doing it twice is doing it once.
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))

_REQUEST_ID = re.compile(rb"[0-9a-f]{32}")

_LENGTH = re.compile(rb"[0-9]{1,20}")
_MAX_LENGTH = (1 << 63) - 1
"""Longer bodies overflow the integers of most servers."""


class Peer:
    """The other end of a client connection."""

    __slots__ = (
        "address",
        "certificate",
        "client_auth",
        "cookies",
        "lines",
        "local",
        "port",
        "secure",
        "seen",
        "trusted",
        "trusted_proxies",
    )

    def __init__(
        self,
        address: str,
        local: str,
        port: int,
        *,
        secure: bool,
        trusted_proxies: TrustedProxies,
        client_auth: ClientAuth | None = None,
        certificate: bytes = b"",
    ) -> None:
        """``client_auth``: how it was asked for a certificate. ``certificate``: the header lines
        about the one that it has, each with its end."""
        self.address = address
        """IP address; empty on a unix socket."""
        self.local = _authority(local, port)
        """The address it connected to, as in a Host field."""
        self.port = port
        """The local port it connected to; 0 on a unix socket."""
        self.secure = secure
        self.trusted_proxies = trusted_proxies
        self.trusted = trusted_proxies.trusts(address)
        self.client_auth = client_auth
        self.certificate = certificate
        self.seen: object = None
        """The page of a tally on which its client is noted; None: it is noted nowhere."""
        self.cookies: tuple[bytes, ...] = ()
        """That it had sent with the request that was noted."""
        self.lines = certificate + _forwarded_lines(address, address, self.scheme, port)
        """What endpoints are told of an untrusted peer, all but the host."""

    @property
    def scheme(self) -> str:
        return "https" if self.secure else "http"


_PORTS = {b"https": b"443", b"http": b"80"}
"""Of the schemes that X-Forwarded-Proto may name."""

UNKNOWN = -1
"""Length of a body whose end is known only when it arrives."""


class RequestHead(Protocol):
    """A request without its body, as parsed by the protocol it came over."""

    peer: Peer
    method: str
    """Empty if the request could not be parsed."""
    target: bytes
    fields: Sequence[tuple[bytes, bytes]]
    """Names and values as they came, in their order, without the white space around."""
    http11: bool
    """False for HTTP/1.0, whose clients know no transfer codings, interim responses or upgrades."""
    body_length: int
    """Bytes of the body that the protocol will count, or UNKNOWN."""
    wants_upgrade: bool
    """The connection may be switched to what the Upgrade field names."""

    @property
    def version(self) -> str:
        """The protocol's version, as logged."""

    def header(self, name: str) -> bytes | None:
        """First value of the field, whatever its case; None if absent."""


class ClientRequest:
    """One request. Implements ``routing.endpoint.Request``."""

    __slots__ = (
        "_cookie_line",
        "_forwarded",
        "_has_length",
        "_head",
        "_lines",
        "_peer",
        "client_address",
        "cookie_fields",
        "host",
        "id",
        "idempotent",
        "length",
        "method",
        "secure",
        "target",
        "upgrade",
    )

    def __init__(self, head: RequestHead, request_id: bytes) -> None:
        """Raises BadRequest for what must not be forwarded."""
        peer = self._peer = head.peer
        self._head = head
        method = self.method = head.method
        self.idempotent = method in _IDEMPOTENT
        """Doing it twice is doing it once."""
        self.length = head.body_length
        """Bytes of the body, or UNKNOWN."""
        self._has_length = False
        """Whether the client announced it: a GET without a body says nothing of one."""
        self.id = request_id
        self.host = b""
        self.upgrade: bytes | None = None
        """Protocol to switch to, if the client asked."""
        self.client_address = peer.address
        self.secure = peer.secure
        self.target = head.target
        self._lines: list[bytes] = []
        self.cookie_fields: tuple[bytes, ...] = ()
        """The values of its Cookie fields."""
        self._cookie_line = 0
        self._forwarded: dict[bytes, bytes] | None = None
        believed = self._take_headers(head.fields)
        if method == "CONNECT":
            raise BadRequest(405, "CONNECT is for forward proxies; this is a reverse proxy")
        if not self.target.startswith(b"/"):
            self._take_special_target()
        if b"#" in self.target:
            raise BadRequest(400, "the request target holds a fragment")
        if not (self.host or head.http11):
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
                self.cookie_fields = (*self.cookie_fields, value)
                self._cookie_line = len(lines)
                lines.append(name + b": " + value)
            elif kind == Kind.CONNECTION:
                named |= connection_options(value).named
            elif kind == Kind.FORWARDED:
                if not self._peer.trusted:
                    continue
                if name.lower() == b"forwarded":  # RFC 7239: passed on unchanged
                    lines.append(name + b": " + value)
                else:
                    self._note_forwarded(name.lower(), value)
            elif kind == Kind.TRANSFER_ENCODING:
                if not self._head.http11:  # RFC 9112 section 6.1: its framing is faulty
                    raise BadRequest(400, "HTTP/1.0 has no transfer codings")
                if value.lower() != b"chunked":
                    raise BadRequest(501, "the only transfer coding known here is chunked")
            elif kind == Kind.CONTENT_LENGTH:
                self._note_length(value)
            elif kind == Kind.UPGRADE:
                self.upgrade = _without_h2c(value)
        if named:
            self._keep_lines(lambda name: name not in named)
        if not self._head.wants_upgrade:
            self.upgrade = None
        return self._forwarded

    def _note_length(self, value: bytes) -> None:
        """No field of the client frames anything (RFC 9112 section 6.3): its length is taken as a
        number, which must be what the protocol counts, and is what the endpoint is told."""
        if self._has_length or not _LENGTH.fullmatch(value):
            raise BadRequest(400, "Content-Length is not one number")
        length = int(value)
        if length > _MAX_LENGTH:
            raise BadRequest(400, "Content-Length is too large")
        if length != self.length:
            raise BadRequest(400, "the request body does not have the length that was announced")
        self._has_length = True

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
        if self.cookie_fields:
            self._cookie_line = [name for name in names if keep(name)].index(b"cookie")

    def _take_special_target(self) -> None:
        """Absolute form, whose authority replaces the Host field (RFC 9112 section 3.2.2), or
        the asterisk form of OPTIONS."""
        if self.target == b"*" and self.method == "OPTIONS":
            return
        absolute = split_absolute(self.target)
        if absolute is None:
            raise BadRequest(400, "the request target is neither a path nor an http URL")
        self.host, self.target = absolute
        self._keep_lines(lambda name: name != b"host")
        self._lines.append(b"Host: " + self.host)

    def _name_host(self) -> None:
        """HTTP/1.0 may omit Host; HTTP/1.1, which is what endpoints are sent, must not:
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

    @property
    def http11(self) -> bool:
        """False for HTTP/1.0."""
        return self._head.http11

    # --- routing.endpoint.Request ---

    def cookies(self, name: bytes) -> tuple[bytes, ...]:
        """Values of all cookies of that name, in the order sent."""
        headers = self.cookie_fields
        if len(headers) == 1:
            return cookies.values(headers[0], name)
        return tuple(value for header in headers for value in cookies.values(header, name))

    def header(self, name: str) -> bytes | None:
        """First value of the field."""
        return self._head.header(name)

    def query(self, name: bytes) -> bytes | None:
        """First value of the query parameter, as sent."""
        _, _, query = self.target.partition(b"?")
        for pair in query.split(b"&"):
            key, _, value = pair.partition(b"=")
            if key == name:
                return value
        return None

    # --- for the forward path ---

    def upstream_head(self, target: bytes, strips: frozenset[bytes]) -> bytes:
        """The head to send. ``strips``: names of cookies whose pins the endpoint must not see."""
        lines = self._lines
        if strips and self.cookie_fields:
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
        if self.length or self._has_length:
            parts.append(
                b"Transfer-Encoding: chunked\r\n"
                if self.length == UNKNOWN
                else b"Content-Length: %d\r\n" % self.length
            )
        if self.upgrade is not None:
            parts += (b"Connection: Upgrade\r\nUpgrade: ", self.upgrade, b"\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def edit(self, edit: Edit) -> None:
        """Set and remove fields, but none that this class knows. Doing it twice is doing it
        once."""
        before = self._lines
        self._lines = edit.apply(before)
        if self.cookie_fields:
            self._cookie_line = self._lines.index(before[self._cookie_line])

    def take_field(self, name: bytes) -> list[bytes]:
        """The values of all fields of that lower-case name, which are not sent on. None that this
        class knows."""
        start = name + b":"
        found = [line for line in self._lines if line.lower().startswith(start)]
        self._keep_lines(lambda other: other != name)
        return [line.partition(b":")[2].strip(b" \t") for line in found]

    def add_field(self, line: bytes) -> None:
        """Send one more."""
        self._lines.append(line)

    def _without_pins(self, strips: frozenset[bytes]) -> list[bytes]:
        if len(self.cookie_fields) == 1:
            at = self._cookie_line
            lines = self._lines.copy()
            kept = cookies.without_pins(self.cookie_fields[0], strips)
            if kept is None:
                del lines[at]
            else:
                lines[at] = b"Cookie: " + kept
            return lines
        lines = [line for line in self._lines if line[:7].lower() != b"cookie:"]
        return lines + _cookie_lines(self.cookie_fields, strips)

    def _extended(self, theirs: dict[bytes, bytes]) -> bytes:
        """Forwarding fields when a trusted proxy sent some: its chain plus itself."""
        peer = self._peer
        chain = [theirs[b"x-forwarded-for"]] if b"x-forwarded-for" in theirs else []
        chain.append(peer.address.encode() or b"unix:")
        scheme = theirs.get(b"x-forwarded-proto")
        # Our own port says nothing of the one that the trusted proxy's client connected to.
        port = _PORTS.get(scheme.lower() if scheme else b"", b"%d" % peer.port)
        return b"".join(
            (
                peer.certificate,
                b"X-Forwarded-For: ",
                b", ".join(chain),
                b"\r\nX-Real-IP: ",
                self.client_address.encode() or b"unix:",
                b"\r\nX-Forwarded-Proto: ",
                peer.scheme.encode() if scheme is None else scheme,
                b"\r\nX-Forwarded-Port: ",
                theirs.get(b"x-forwarded-port", port),
                b"\r\nX-Forwarded-Host: ",
                theirs.get(b"x-forwarded-host", self.host),
            )
        )


def _authority(address: str, port: int) -> bytes:
    if not address:
        return b"localhost"
    return join_host_port(address, port).encode()


def _without_h2c(upgrade: bytes) -> bytes | None:
    """HTTP/2 inside a tunnel would carry requests that are neither routed nor checked."""
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
