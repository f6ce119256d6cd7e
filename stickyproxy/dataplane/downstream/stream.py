"""DATA PLANE: one request of HTTP/1.1 and the way back to its client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.http_parser import RawRequestMessage

from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane.downstream.ports import ClientTunnel
from stickyproxy.semantics.headers import connection_options
from stickyproxy.semantics.request import UNKNOWN, Peer


class Carrier(Protocol):
    """The connection that a stream belongs to; see ``http1.ClientConnection``."""

    loop: asyncio.AbstractEventLoop
    peer: Peer
    draining: bool

    @property
    def writing_paused(self) -> bool:
        """The client does not keep up."""

    def body_at_hand(self) -> bytes | None:
        """The body, if all of it is here."""

    def start_body(self) -> None:
        """Pass the body to the handler as it comes."""

    def keep_body(self) -> None:
        """Keep what comes of it until it is started again."""

    def pause_body(self) -> None:
        """Read no more of it."""

    def resume_body(self) -> None:
        """Read on."""

    def write(self, data: bytes) -> None:
        """Send to the client."""

    def served(self, data: bytes, *, keep: bool) -> None:
        """Send the rest: the response is whole. ``keep``: the connection may serve another
        request."""

    def cut(self) -> None:
        """The response will never be whole."""

    def switch(self, tunnel: ClientTunnel) -> None:
        """From now on bytes pass as they are."""

    def pause_client(self) -> None:
        """Read nothing from the client of a tunnel."""

    def resume_client(self) -> None:
        """Read on."""

    def close_tunnel(self) -> None:
        """End the connection once what was written is out."""


class Http1Stream:
    """Implements ``ports.ClientStream``."""

    __slots__ = (
        "_carrier",
        "_chunked",
        "_keep",
        "_message",
        "_out",
        "body_length",
        "fields",
        "http11",
        "method",
        "peer",
        "target",
        "wants_upgrade",
    )

    def __init__(self, carrier: Carrier, message: RawRequestMessage, *, has_body: bool) -> None:
        self._carrier = carrier
        self._message: RawRequestMessage | None = message
        self.peer = carrier.peer
        self.method = message.method
        self.target = message.path.encode("utf-8", "surrogateescape")
        self.fields: Sequence[tuple[bytes, bytes]] = message.raw_headers
        self.http11 = http11 = message.version == HttpVersion11
        self.wants_upgrade = False
        self._keep = not message.should_close
        if message.upgrade:
            # RFC 9110 section 7.8: a server ignores the Upgrade of HTTP/1.0. One with a body is not
            # forwarded as one: some servers take its body for what follows the switch. What follows
            # a request to upgrade may be of the other protocol, even if that is declined.
            self.wants_upgrade = http11 and not has_body
            self._keep = False
        elif not http11 and self._keep:
            self._keep = _persists(message)
        self.body_length = _body_length(message) if has_body else 0
        self._chunked = False
        self._out: list[bytes] = []

    @classmethod
    def unparsed(cls, carrier: Carrier) -> Http1Stream:
        """A stream for a request that could not be parsed."""
        stream = cls.__new__(cls)
        stream._carrier = carrier
        stream._message = None
        stream.peer = carrier.peer
        stream.method, stream.target, stream.fields = "", b"", ()
        stream.http11 = True
        stream.wants_upgrade = stream._keep = stream._chunked = False
        stream.body_length = 0
        stream._out = []
        return stream

    def check_version(self) -> None:
        """Raises BadRequest for a version of HTTP that is not spoken here."""
        assert self._message is not None
        version = self._message.version
        if not self.http11 and version != HttpVersion10:
            status = 400 if version < HttpVersion10 else 505
            raise BadRequest(status, "only HTTP/1.0 and HTTP/1.1 are spoken here")

    # --- the request ---

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The connection's."""
        return self._carrier.loop

    @property
    def version(self) -> str:
        """The protocol's version, as logged."""
        if self._message is None:
            return ""
        return "HTTP/{}.{}".format(*self._message.version)

    def header(self, name: str) -> bytes | None:
        """First value of the field."""
        value = None if self._message is None else self._message.headers.get(name)
        return None if value is None else value.encode("utf-8", "surrogateescape")

    def body_at_hand(self) -> bytes | None:
        return self._carrier.body_at_hand()

    def start_body(self) -> None:
        self._carrier.start_body()

    def keep_body(self) -> None:
        self._carrier.keep_body()

    def pause_body(self) -> None:
        self._carrier.pause_body()

    def resume_body(self) -> None:
        self._carrier.resume_body()

    # --- the response ---

    @property
    def client_is_slow(self) -> bool:
        return self._carrier.writing_paused

    def send_interim(self, status: int, reason: bytes, fields: list[bytes]) -> None:
        """HTTP/1.0 has none (RFC 9110 section 15.2)."""
        if self.http11:
            self._out.append(b"\r\n".join((_status_line(status, reason), *fields, b"", b"")))

    def send_head(
        self, status: int, reason: bytes, fields: list[bytes], length: int, *, last: bool = False
    ) -> None:
        http11 = self.http11
        if length == UNKNOWN:
            if http11:
                self._chunked = True
                fields.append(b"Transfer-Encoding: chunked")
            else:
                self._keep = False  # the body ends with the connection
        if status == 101:
            fields.append(b"Connection: Upgrade")
        elif last or not self._keep or self._carrier.draining:
            self._keep = False
            fields.append(b"Connection: close")
        elif not http11:
            fields.append(b"Connection: keep-alive")
        self._out.append(b"\r\n".join((_status_line(status, reason), *fields, b"", b"")))

    def send_data(self, data: bytes) -> None:
        if self._chunked:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def flush(self) -> None:
        out = self._out
        if out:
            self._carrier.write(out[0] if len(out) == 1 else b"".join(out))
            self._out = []

    def end(self) -> None:
        out = self._out
        if self._chunked:
            out.append(b"0\r\n\r\n")
        self._carrier.served(out[0] if len(out) == 1 else b"".join(out), keep=self._keep)

    def reset(self) -> None:
        self._carrier.cut()

    # --- a tunnel ---

    def switch(self, tunnel: ClientTunnel) -> None:
        self._carrier.switch(tunnel)

    def write(self, data: bytes) -> None:
        self._carrier.write(data)

    def pause_client(self) -> None:
        self._carrier.pause_client()

    def resume_client(self) -> None:
        self._carrier.resume_client()

    def close(self) -> None:
        self._carrier.close_tunnel()


@lru_cache(256)
def _status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b" % (status, reason)


def _persists(message: RawRequestMessage) -> bool:
    """RFC 9112 section 9.3: "close" counts, whatever else Connection says."""
    value = ",".join(message.headers.getall("Connection", ()))
    return connection_options(value.encode("utf-8", "surrogateescape")).persists(False)


def _body_length(message: RawRequestMessage) -> int:
    """The parser has seen to it that there is one Content-Length, a number, or that the body is in
    chunks (RFC 9112 section 6.3). A CONNECT has neither."""
    return UNKNOWN if message.chunked else int(message.headers.get("Content-Length", "0"))
