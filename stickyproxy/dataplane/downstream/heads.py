"""DATA PLANE: request heads of HTTP/1.1, read by aiohttp's parser, one at a time.

The parser is fed up to the empty line and nothing behind it. So it never sees a body, holds no
queue of requests, and a head is refused as soon as it is too large, whatever it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from stickyproxy.base.errors import BadRequest

# aiohttp says of a line that is too long only which limit it passed. With limits that differ, that
# tells a request target (414) from a header field (431).
TARGET_LIMIT_IS_LOWER_BY = 1

_EMPTY_LINES = re.compile(rb"[\r\n]*")


_OTHER_PROTOCOL = re.compile(rb" (RTSP|ICE)/[0-9.]*\Z")


class Limits:
    """What a client may take: bytes of a request line or field and of a whole head, number of
    fields, seconds."""

    __slots__ = (
        "client_timeout",
        "head_timeout",
        "keepalive_timeout",
        "max_head",
        "max_head_line",
        "max_headers",
    )

    def __init__(
        self,
        *,
        max_head: int,
        max_head_line: int,
        max_headers: int,
        head_timeout: float,
        keepalive_timeout: float,
        client_timeout: float,
    ) -> None:
        self.max_head = max_head
        self.max_head_line = max_head_line
        self.max_headers = max_headers
        self.head_timeout = head_timeout
        self.keepalive_timeout = keepalive_timeout
        self.client_timeout = client_timeout


class HeadReader:
    """Reads the heads of one connection."""

    __slots__ = ("_last", "_limits", "_line", "_make_parser", "_parser", "_spent", "size")

    def __init__(
        self,
        parser: HttpParser[RawRequestMessage],
        make_parser: Callable[[], HttpParser[RawRequestMessage]],
        limits: Limits,
    ) -> None:
        self._parser = parser
        self._make_parser = make_parser
        self._limits = limits
        self._spent = False
        """The parser is in the middle of a message with a body: the next head needs another."""
        self.size = 0
        """Bytes that have come of a head that is not complete."""
        self._last = b""
        """The last three of them: the empty line may come in pieces."""
        self._line: bytes | None = b""
        """What has come of the request line; None once it is whole."""

    def read(self, data: bytes, at: int) -> tuple[RawRequestMessage, bool, int] | None:
        """Read on, in ``data`` from index ``at``. Returns a head that is complete, whether a body
        follows, and the index behind the head; None if all was read and there must come more.
        Raises BadRequest."""
        end = data.find(b"\r\n\r\n", at) + 4
        line_end = data.find(b"\r\n", at)
        if (
            self.size
            or self._spent
            or not at + 4 < end <= at + self._limits.max_head
            or data[line_end - 9 : line_end - 1] != b" HTTP/1."
        ):
            return self._read_part(data, at)
        try:
            messages = self._parser.feed_data(data[at:end])[0]
        except HttpProcessingError as error:
            raise _bad_request(error, self._limits) from None
        return self._parsed(messages, end)

    def _read_part(self, data: bytes, at: int) -> tuple[RawRequestMessage, bool, int] | None:
        """What is not one plain head: a part of one, empty lines before it, too much of it."""
        if not self.size:
            at = self._begin(data, at)
            if at == len(data):
                return None
        end = self._end_of_head(data, at)
        if self._line is not None:
            self._check_line(data[at:end])
        self.size += end - at
        if (surplus := self.size - self._limits.max_head) > 0:
            self._refuse_long(data[at : end - surplus])
        try:
            messages = self._parser.feed_data(data[at:end])[0]
        except HttpProcessingError as error:
            raise _bad_request(error, self._limits) from None
        tail = (self._last + data[max(at, end - 4) : end])[-4:]
        if tail == b"\r\n\r\n":
            self.size = 0
            self._last = self._line = b""
            return self._parsed(messages, end)
        self._last = tail[-3:]
        return None

    def _parsed(
        self, messages: Sequence[tuple[RawRequestMessage, StreamReader]], end: int
    ) -> tuple[RawRequestMessage, bool, int]:
        """A head was fed up to its end. Raises BadRequest."""
        if not messages:  # the preface of HTTP/2 is two heads to the parser
            raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        message, payload = messages[0]
        self._spent = payload is not EMPTY_PAYLOAD
        return message, self._spent, end

    def _begin(self, data: bytes, at: int) -> int:
        """Where a new head begins, without the empty lines before (RFC 9112 section 2.2)."""
        blank = _EMPTY_LINES.match(data, at)
        assert blank is not None
        if self._spent:
            self._parser = self._make_parser()
            self._spent = False
        return blank.end()

    def _refuse_long(self, data: bytes) -> None:
        """The parser may know what is too long about it: a line, the number of fields. It is not
        fed what is too much. Raises BadRequest."""
        try:
            self._parser.feed_data(data)
        except HttpProcessingError as error:
            raise _bad_request(error, self._limits) from None
        limit = self._limits.max_head
        raise BadRequest(431, f"the request head is longer than {limit} bytes")

    def _check_line(self, data: bytes) -> None:
        """The parser takes RTSP/1.0 and ICE/1.0, too, and does not tell which it was. Raises
        BadRequest."""
        line, end, _ = ((self._line or b"") + data).partition(b"\r\n")
        self._line = None if end else line
        if end and _OTHER_PROTOCOL.search(line):
            raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")

    def _end_of_head(self, data: bytes, at: int) -> int:
        """Index behind the empty line, of which a part may have come before; else of the end."""
        if self._last:
            straddling = (self._last + data[at : at + 3]).find(b"\r\n\r\n")
            if straddling >= 0:
                return at + straddling + 4 - len(self._last)
        found = data.find(b"\r\n\r\n", at)
        return len(data) if found < 0 else found + 4


def _bad_request(error: HttpProcessingError, limits: Limits) -> BadRequest:
    """What the client is told about a request that aiohttp could not parse."""
    if isinstance(error, LineTooLong):
        if error.args[1] == limits.max_head_line:
            return BadRequest(431, f"a header field is longer than {limits.max_head_line} bytes")
        return BadRequest(414, f"the request target is longer than {error.args[1]} bytes")
    if error.message.startswith("Too many headers"):
        return BadRequest(431, f"more than {limits.max_headers} header fields")
    first_line = error.message.strip().partition("\n")[0].rstrip(":")
    return BadRequest(400, f"malformed request: {ascii(first_line)[1:-1]}")
