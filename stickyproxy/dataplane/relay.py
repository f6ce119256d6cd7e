"""DATA PLANE: an endpoint's answer on its way to the client.

``Relay`` receives one answer from an upstream connection and writes it to the client's transport
as it comes: head rewritten once, body in the pieces in which it was read, all that one read
brought in one write.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from stickyproxy.base.errors import UpstreamProtocolError
from stickyproxy.dataplane.tunnel import UpgradeTunnel
from stickyproxy.dataplane.upstream.connection import CHUNKED, UNTIL_CLOSE
from stickyproxy.semantics.headers import RESPONSE_LINES, Kind, named_in_connection, seconds

if TYPE_CHECKING:
    from stickyproxy.dataplane.downstream.http1 import ClientConnection
    from stickyproxy.routing.endpoint import Pick
    from stickyproxy.semantics.request import ClientRequest

monotonic = time.monotonic


class Attempt:
    """An endpoint that was contacted and did not answer: its address and how long it took."""

    __slots__ = ("address", "seconds")

    def __init__(self, address: str, elapsed: float) -> None:
        self.address = address
        self.seconds = elapsed


def upstream_lines(attempts: Sequence[Attempt]) -> bytes:
    """The two fields that list the endpoints contacted, without the last line end."""
    addresses = ", ".join(attempt.address for attempt in attempts).encode()
    times = b", ".join(seconds(attempt.seconds) for attempt in attempts)
    return b"x-upstream-addr: %b\r\nx-upstream-response-time: %b" % (addresses, times)


class AwaitsAnswer(Protocol):
    """Who sent the request."""

    client: ClientConnection
    attempts: list[Attempt]
    """Endpoints that were contacted in vain before."""

    def answered(self, error: Exception | None) -> None:
        """The answer is whole and handed to the client's transport (None), or will never be
        (why). Called once."""


class Relay:
    """Takes one answer from an endpoint to the client. Implements ``connection.Receiver``."""

    __slots__ = (
        "_attempts",
        "_chunked",
        "_client",
        "_exchange",
        "_out",
        "_pick",
        "_proxy_info",
        "_request",
        "_whole",
        "bodiless",
        "close_client",
        "head_seconds",
        "sent",
        "started",
        "status",
        "tunnel",
    )

    def __init__(
        self,
        exchange: AwaitsAnswer,
        request: ClientRequest,
        pick: Pick,
        proxy_info: bytes | None,
    ) -> None:
        """``proxy_info``: the fields that are the same in all answers; None: no info fields."""
        self._exchange: AwaitsAnswer | None = exchange
        self._client = exchange.client
        self._request = request
        self._pick = pick
        self._attempts = exchange.attempts
        self._proxy_info = proxy_info
        self._out: list[bytes] = []
        self._chunked = False
        self._whole = False
        self.started = monotonic()
        self.bodiless = request.method == "HEAD"
        self.status = 0
        """Status of the final answer; 0 until its head is here: then the client has got it."""
        self.head_seconds = 0.0
        """Time from contacting the endpoint until the head of its answer."""
        self.sent = 0
        self.close_client = not request.keep_alive
        """The client connection must close after this answer."""
        self.tunnel: UpgradeTunnel | None = None
        """Takes over after 101 Switching Protocols."""

    # --- upstream.Receiver ---

    def interim(self, lines: list[bytes]) -> None:
        """Forward 100 Continue, 103 Early Hints... HTTP/1.0 has none (RFC 9110 section 15.2)."""
        if self._request.http11:
            kept = [line for line in lines[1:] if not RESPONSE_LINES[line]]
            self._out.append(b"\r\n".join((_as_http11(lines[0]), *kept, b"", b"")))

    def head(self, status: int, lines: list[bytes]) -> int:
        """Write the head. Returns the body's length, UNTIL_CLOSE or CHUNKED."""
        self.head_seconds = monotonic() - self.started
        kinds = RESPONSE_LINES
        length = UNTIL_CLOSE
        set_cookies: list[bytes] = []
        named: frozenset[bytes] = frozenset()
        head = [_as_http11(lines[0])]
        for line in lines[1:]:
            kind = kinds[line]
            if not kind:
                head.append(line)
                continue
            value = line.partition(b":")[2]
            if kind == Kind.CONTENT_LENGTH:
                length = int(value)
                if status not in (101, 204):  # no body, no length (RFC 9110 section 8.6)
                    head.append(line)
            elif kind == Kind.SET_COOKIE:
                set_cookies.append(value.strip(b" \t"))
                head.append(line)
            elif kind == Kind.TRANSFER_ENCODING:
                if value.strip(b" \t").lower() != b"chunked":
                    raise UpstreamProtocolError("its transfer coding is not chunked")
                length = CHUNKED
            elif kind == Kind.CONNECTION:
                named |= named_in_connection(value)
            elif (kind == Kind.INFO and self._proxy_info is None) or (
                kind == Kind.UPGRADE and status == 101
            ):
                head.append(line)
        if named:
            head[1:] = [line for line in head[1:] if line.partition(b":")[0].lower() not in named]
        if status == 101:
            self._check_switch(lines)
            length = 0
        elif status in (204, 304):
            length = 0
        elif length < 0 and not self.bodiless:
            self._frame(head)
        self._add_own_fields(head, status, set_cookies)
        self._out.append(b"\r\n".join(head))
        self.status = status
        if status == 101:
            self._open_tunnel()
        return length

    def data(self, data: bytes) -> None:
        """A piece of the body."""
        self.sent += len(data)
        if self._chunked:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def end(self) -> None:
        """The answer is whole."""
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        self._whole = True
        self._client.source_ended()

    def flush(self) -> None:
        """Write what has come together."""
        out = self._out
        if out:
            transport = self._client.transport
            if transport is not None:  # else the client is gone, and is told nothing
                transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._out = []
        if self._whole:
            self._tell(None)

    def failed(self, error: Exception) -> None:
        """There will be no more."""
        self._out = []
        self._client.source_ended()
        self._tell(error)

    # ---

    def _tell(self, error: Exception | None) -> None:
        exchange, self._exchange = self._exchange, None  # each holds the other: let go
        if exchange is not None:
            exchange.answered(error)

    def _frame(self, head: list[bytes]) -> None:
        """A body of unknown length: in chunks, or for HTTP/1.0 until the connection ends."""
        if self._request.http11:
            self._chunked = True
            head.append(b"Transfer-Encoding: chunked")
        else:
            self.close_client = True

    def _check_switch(self, lines: list[bytes]) -> None:
        if self._request.upgrade is None:
            raise UpstreamProtocolError("it switched protocols unasked")
        fields = b"\n".join(lines).lower()
        if not re.search(rb"\nconnection:[^\n]*\bupgrade\b", fields) or b"\nupgrade:" not in fields:
            raise UpstreamProtocolError("its 101 does not say what it switches to")
        self.close_client = True

    def _open_tunnel(self) -> None:
        """The head must be out before the first byte of the new protocol."""
        self.flush()
        upstream = self._client.source
        assert upstream is not None
        self.tunnel = UpgradeTunnel(self._client, upstream)
        self._tell(None)

    def _add_own_fields(self, head: list[bytes], status: int, set_cookies: list[bytes]) -> None:
        request = self._request
        pick = self._pick
        if self._proxy_info is not None:
            elapsed = seconds(self.head_seconds)
            upstream = (
                self._with_attempts() if self._attempts else pick.endpoint.address_lines + elapsed
            )
            head += (b"x-request-id: " + request.id, self._proxy_info, upstream)
        issue = pick.cookies
        if issue is not None and (set_cookies or issue.due):
            head += [b"Set-Cookie: " + value for value in issue.values(set_cookies, request.secure)]
        if self._client.draining:
            self.close_client = True
        if status == 101:
            head.append(b"Connection: Upgrade")
        elif self.close_client:
            head.append(b"Connection: close")
        elif not request.http11:
            head.append(b"Connection: keep-alive")
        head += (b"", b"")  # the end of the last line, and the empty one

    def _with_attempts(self) -> bytes:
        last = Attempt(self._pick.endpoint.address, self.head_seconds)
        return upstream_lines((*self._attempts, last))


_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([^\r\n]*))?")
_CONTROLS = bytes(c for c in range(32) if c != 9) + b"\x7f"


@lru_cache(256)
def _as_http11(status_line: bytes) -> bytes:
    """A proxy speaks its own version (RFC 9110 section 6.2), whatever the endpoint spoke. Raises
    UpstreamProtocolError for other versions than 1.0 and 1.1."""
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise UpstreamProtocolError("its status line is not HTTP/1.x")
    status, reason = match.groups(b"")
    return b"HTTP/1.1 " + status + b" " + reason.translate(None, _CONTROLS)
