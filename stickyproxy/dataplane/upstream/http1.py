"""DATA PLANE: responses of HTTP/1.1, read from the bytes of one connection (RFC 9112). No I/O.

The head is checked and sorted by ``semantics.response``, line by line as it came; a body of known
length is passed on as it was read. An interim response ends at its empty line, whatever its fields
say (section 6.3), and there is a limit to how many of them may come.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Protocol

from stickyproxy.base.errors import UpstreamProtocolError
from stickyproxy.dataplane.chunked import ChunkedDecoder, ChunkError
from stickyproxy.semantics.response import CHUNKED, UNTIL_CLOSE, ResponseHead

MAX_HEAD_BYTES = 64 * 1024
"""Largest response head taken from an endpoint, all interim ones before it included."""
MAX_INTERIMS = 100
"""Interim responses taken for one request."""

_BEGINNING = b"HTTP/1."
_BARE_LF = re.compile(rb"(?<!\r)\n")
_TOO_LONG = "it sent too long a head"
_NO_BODY = frozenset((101, 204, 304))


class Receiver(Protocol):
    """Gets one response. All calls come from socket callbacks and return at once."""

    bodiless: bool
    """True if the response has no body whatever its head says: the request was a HEAD."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx response other than 101."""

    def head(self, head: ResponseHead) -> None:
        """The final response's head. Raises UpstreamProtocolError if it is no answer to the
        request."""

    def data(self, data: bytes) -> None:
        """A piece of the body, without transfer coding."""

    def end(self) -> None:
        """The response is whole, and the connection is free. Nothing else is called after."""

    def flush(self) -> None:
        """All that one read brought has been handed over, and there is more to come."""

    def writable(self) -> None:
        """The endpoint has taken most of what was sent, after it had not kept up."""

    def failed(self, error: Exception) -> None:
        """There will be no more: the connection is gone."""


class Expect(Enum):
    """What is read next."""

    HEAD = "head"
    SIZED = "sized body"
    CHUNKED = "body in chunks"
    CLOSE = "body until close"
    NOTHING = "nothing"  # the response is whole


_HEAD, _SIZED, _CHUNKED, _CLOSE, _NOTHING = Expect


class ResponseReader:
    """Reads the responses of one connection, one after the other. To begin with the next one,
    ``expect`` its head."""

    __slots__ = ("_buffer", "_decoder", "_head_bytes", "_interims", "_left", "expect", "keep_alive")

    def __init__(self) -> None:
        self.expect = _NOTHING
        self.keep_alive = True
        """Whether the connection may serve another request, by what was read so far."""
        self._buffer = bytearray()
        """What has come of a head; it is searched once, however small the pieces are."""
        self._head_bytes = 0
        self._interims = 0
        self._left = 0
        """Bytes that are missing from a body of known length."""
        self._decoder: ChunkedDecoder | None = None

    @property
    def pending(self) -> bool:
        """Something was read that has to wait for the next turn of the loop: ``resume`` then."""
        return self._decoder is not None and self._decoder.pending

    def take(self, data: bytes, receiver: Receiver) -> bytes:
        """Hand over what was read; returns what is left of it after a 101. Raises
        UpstreamProtocolError."""
        expect = self.expect
        if expect is _HEAD:
            if not self._buffer and (end := data.find(b"\r\n\r\n")) >= 0:
                head = ResponseHead(data[:end])
                if head.status >= 200 and end + 4 <= MAX_HEAD_BYTES - self._head_bytes:
                    return self._begin_body(head, data[end + 4 :], receiver)
            return self._take_heads(data, receiver)
        if expect is _SIZED:
            self._take_sized(data, receiver)
        elif expect is _CHUNKED:
            assert self._decoder is not None
            self._decoder.feed(data)
            self.resume(receiver)
        elif expect is _CLOSE:
            receiver.data(data)
        return b""

    def resume(self, receiver: Receiver) -> None:
        """Hand over the next turn's worth of a body in chunks. Raises UpstreamProtocolError."""
        decoder = self._decoder
        assert decoder is not None
        try:
            body = decoder.decode()
        except ChunkError as error:
            raise UpstreamProtocolError(str(error)) from error
        if body:
            receiver.data(body)
        if decoder.done:
            self.keep_alive = self.keep_alive and not decoder.surplus
            self._decoder = None
            self.expect = _NOTHING

    def _take_heads(self, data: bytes, receiver: Receiver) -> bytes:
        """Read heads up to the final one, in pieces or with interim ones before it, and go on with
        what follows it; returns that if it is of another protocol. Raises
        UpstreamProtocolError."""
        at = searched = 0
        if self._buffer:
            searched = max(0, len(self._buffer) - 3)
            self._buffer += data
            if self._buffer.find(b"\r\n\r\n", searched) >= 0:
                data = bytes(self._buffer)
        while (end := data.find(b"\r\n\r\n", searched)) >= 0:
            head = ResponseHead(data[at:end])
            self._head_bytes += end + 4 - at
            at = searched = end + 4
            if self._head_bytes > MAX_HEAD_BYTES:
                raise UpstreamProtocolError(_TOO_LONG)
            if head.status >= 200 or head.status == 101:
                return self._begin_body(head, data[at:], receiver)
            self._interims += 1
            if self._interims > MAX_INTERIMS:
                raise UpstreamProtocolError(f"it sent more than {MAX_INTERIMS} interim responses")
            receiver.interim(head)
        self._keep_part(data, at)
        return b""

    def _keep_part(self, data: bytes, at: int) -> None:
        """Keep what has come of a head. Raises UpstreamProtocolError if it will be none."""
        if at or not self._buffer:
            self._buffer[:] = data[at:]
        if self._head_bytes + len(self._buffer) > MAX_HEAD_BYTES:
            raise UpstreamProtocolError(_TOO_LONG)
        if self._buffer[: len(_BEGINNING)] != _BEGINNING[: len(self._buffer)]:
            raise UpstreamProtocolError("its status line is not HTTP/1.x")
        if _BARE_LF.search(self._buffer, max(0, len(self._buffer) - len(data) - 1)):
            raise UpstreamProtocolError("its lines do not end in CRLF")

    def _begin_body(self, head: ResponseHead, rest: bytes, receiver: Receiver) -> bytes:
        """The final head is here, and ``rest`` follows it."""
        if self._head_bytes or self._buffer:
            self._head_bytes = self._interims = 0
            self._buffer.clear()
        self.keep_alive = head.keep_alive
        length = head.length
        if length == 0 or receiver.bodiless or head.status in _NO_BODY:
            self.expect = _NOTHING
            receiver.head(head)
            if head.status == 101:
                return rest
            if rest:  # what nobody asked for
                self.keep_alive = False
            return b""
        if length > 0:
            self._left = length
            self.expect = _SIZED
            receiver.head(head)
            if rest:
                self._take_sized(rest, receiver)
            return b""
        if length == CHUNKED:
            self.expect = _CHUNKED
            self._decoder = ChunkedDecoder()
        elif length == UNTIL_CLOSE:
            self.expect = _CLOSE
            self.keep_alive = False
        receiver.head(head)
        if rest:
            self.take(rest, receiver)
        return b""

    def _take_sized(self, data: bytes, receiver: Receiver) -> None:
        left = self._left - len(data)
        if left > 0:
            self._left = left
        else:
            self.expect = _NOTHING
            if left < 0:  # more than was announced
                self.keep_alive = False
                data = data[:left]
        receiver.data(data)
