"""DATA PLANE: an endpoint's answer on its way to the client.

``Relay`` receives one answer from an upstream connection and writes it to the client's transport
as it comes: head rewritten once, body in the pieces in which it was read, all that one read
brought in one write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stickyproxy.errors import UpstreamProtocolError
from stickyproxy.headers import (
    RESPONSE_KINDS,
    Kind,
    named_in_connection,
    seconds,
    status_line,
)
from stickyproxy.upgrade import UpgradeTunnel
from stickyproxy.upstream import CHUNKED, UNTIL_CLOSE, Headers

if TYPE_CHECKING:
    from stickyproxy.downstream import ClientConnection
    from stickyproxy.model import Pick
    from stickyproxy.request import ClientRequest

monotonic = time.monotonic


class Attempt:
    """An endpoint that was contacted and did not answer: its address and how long it took."""

    __slots__ = ("address", "seconds")

    def __init__(self, address: str, elapsed: float) -> None:
        self.address = address
        self.seconds = elapsed


def info_lines(request_id: bytes, proxy_info: bytes, attempts: Sequence[Attempt]) -> bytes:
    """The info header fields of an answer that no endpoint gave."""
    lines = b"x-request-id: " + request_id + b"\r\n" + proxy_info
    if attempts:
        addresses = ", ".join(attempt.address for attempt in attempts).encode()
        times = b", ".join(seconds(attempt.seconds) for attempt in attempts)
        lines += b"x-upstream-addr: %b\r\nx-upstream-response-time: %b\r\n" % (addresses, times)
    return lines


class Relay:
    """Takes one answer from an endpoint to the client. Implements ``upstream.Receiver``."""

    __slots__ = (
        "_attempts",
        "_chunked",
        "_client",
        "_out",
        "_pick",
        "_proxy_info",
        "_request",
        "bodiless",
        "close_client",
        "done",
        "head_seconds",
        "sent",
        "started",
        "status",
        "tunnel",
    )

    def __init__(
        self,
        client: ClientConnection,
        request: ClientRequest,
        pick: Pick,
        attempts: Sequence[Attempt],
        proxy_info: bytes | None,
    ) -> None:
        """``proxy_info``: the fields that are the same in all answers; None: no info fields."""
        self._client = client
        self._request = request
        self._pick = pick
        self._attempts = attempts
        self._proxy_info = proxy_info
        self._out: list[bytes] = []
        self._chunked = False
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
        self.done: asyncio.Future[Exception | None] = client.loop.create_future()
        """Set when the answer is whole (None) or will never be (why)."""

    # --- upstream.Receiver ---

    def interim(self, status: int, reason: bytes, headers: Headers) -> None:
        """Forward 100 Continue, 103 Early Hints... HTTP/1.0 has none (RFC 9110 section 15.2)."""
        if not self._request.http11:
            return
        kinds = RESPONSE_KINDS
        out = self._out
        out.append(status_line(status, reason))
        for name, value in headers:
            if kinds[name] is Kind.PASS:
                out += (name, b": ", value, b"\r\n")
        out.append(b"\r\n")

    def head(self, status: int, reason: bytes, headers: Headers) -> int:
        """Write the head. Returns the body's length, UNTIL_CLOSE or CHUNKED."""
        self.head_seconds = monotonic() - self.started
        kinds = RESPONSE_KINDS
        length = UNTIL_CLOSE
        set_cookies: list[bytes] = []
        named: frozenset[bytes] = frozenset()
        out = self._out
        out.append(status_line(status, reason))
        for name, value in headers:
            kind = kinds[name]
            if not kind:
                out += (name, b": ", value, b"\r\n")
            elif kind is Kind.CONTENT_LENGTH:
                length = int(value)
                out += (name, b": ", value, b"\r\n")
            elif kind is Kind.SET_COOKIE:
                set_cookies.append(value)
                out += (name, b": ", value, b"\r\n")
            elif kind is Kind.TRANSFER_ENCODING:
                if value.lower() != b"chunked":
                    raise UpstreamProtocolError("its transfer coding is not chunked")
                length = CHUNKED
            elif kind is Kind.CONNECTION:
                named |= named_in_connection(value)
            elif kind is Kind.INFO and self._proxy_info is None:
                out += (name, b": ", value, b"\r\n")
        if named:
            self._drop_named(named)
        if status == 101:
            self._switch(headers)
            length = 0
        elif self.bodiless or status in (204, 304):
            length = max(length, 0)
        elif length < 0:
            self._frame()
        self._add_own_fields(status, set_cookies)
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
        self._client.source_ended()
        self._finish(None)

    def flush(self) -> None:
        """Write what has come together."""
        out = self._out
        if out:
            self._client.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def failed(self, error: Exception) -> None:
        """There will be no more."""
        self._out.clear()
        self._client.source_ended()
        self._finish(error)

    # ---

    def _finish(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(error)

    def _frame(self) -> None:
        """A body of unknown length: in chunks, or for HTTP/1.0 until the connection ends."""
        if self._request.http11:
            self._chunked = True
            self._out.append(b"Transfer-Encoding: chunked\r\n")
        else:
            self.close_client = True

    def _switch(self, headers: Headers) -> None:
        if self._request.upgrade is None:
            raise UpstreamProtocolError("it switched protocols unasked")
        self.close_client = True
        self._out.append(b"Connection: Upgrade\r\n")
        for name, value in headers:
            if RESPONSE_KINDS[name] is Kind.UPGRADE:
                self._out += (b"Upgrade: ", value, b"\r\n")

    def _open_tunnel(self) -> None:
        """The head must be out before the first byte of the new protocol."""
        self.flush()
        upstream = self._client.source
        assert upstream is not None
        self.tunnel = UpgradeTunnel(self._client, upstream)
        self._finish(None)

    def _add_own_fields(self, status: int, set_cookies: list[bytes]) -> None:
        out = self._out
        request = self._request
        pick = self._pick
        if self._proxy_info is not None:
            out += (b"x-request-id: ", request.id, b"\r\n", self._proxy_info)
            elapsed = seconds(self.head_seconds)
            if self._attempts:
                self._add_attempts(elapsed)
            else:
                line = pick.endpoint.address_line
                out += (line, b"x-upstream-response-time: ", elapsed, b"\r\n")
        issue = pick.cookies
        if issue is not None and (set_cookies or issue.due):
            for value in issue.values(set_cookies, request.secure):
                out += (b"Set-Cookie: ", value, b"\r\n")
        if self._client.draining:
            self.close_client = True
        if status == 101:
            pass
        elif self.close_client:
            out.append(b"Connection: close\r\n")
        elif not request.http11:
            out.append(b"Connection: keep-alive\r\n")
        out.append(b"\r\n")

    def _add_attempts(self, elapsed: bytes) -> None:
        addresses = [attempt.address for attempt in self._attempts]
        addresses.append(self._pick.endpoint.address)
        times = [seconds(attempt.seconds) for attempt in self._attempts]
        times.append(elapsed)
        self._out.append(
            b"x-upstream-addr: %b\r\nx-upstream-response-time: %b\r\n"
            % (", ".join(addresses).encode(), b", ".join(times))
        )

    def _drop_named(self, named: frozenset[bytes]) -> None:
        """Remove the fields that the endpoint's Connection field named. Fields stand in ``_out``
        as four pieces each, behind the status line."""
        out = self._out
        kept = [out[0]]
        for i in range(1, len(out), 4):
            if out[i].lower() not in named:
                kept += out[i : i + 4]
        out[:] = kept
