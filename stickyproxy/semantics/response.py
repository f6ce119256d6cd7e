"""The head of a response as an endpoint sent it: what it says of the body that follows, and which
of its fields pass (RFC 9110 section 7.6, RFC 9112 sections 4 to 6). No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from stickyproxy.base.errors import UpstreamProtocolError
from stickyproxy.semantics.headers import RESPONSE_LINES, Kind, options_of_line

UNTIL_CLOSE = -1
"""Length of a body that ends with its connection."""
CHUNKED = -2
"""Length of a body in chunks."""

# A body must have one length only (RFC 9112 section 6.3).
_FRAMED_TWICE = "it says twice how long its body is"

# Looking up an attribute of a class takes longer than comparing it.
_CONNECTION, _CONTENT_LENGTH, _SET_COOKIE = (
    Kind.CONNECTION,
    Kind.CONTENT_LENGTH,
    Kind.SET_COOKIE,
)

_MAX_LENGTH = (1 << 63) - 1
_LENGTH = re.compile(rb"[0-9]{1,19}")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")


class ResponseHead:
    """One response head, final or interim."""

    __slots__ = (
        "event_stream",
        "handover",
        "http11",
        "info",
        "keep_alive",
        "length",
        "lines",
        "reason",
        "set_cookies",
        "status",
        "switches",
        "upgrade",
    )

    event_stream: bool
    """The body is server-sent events."""
    handover: bytes
    """The slot that the session is to go to, or ``any``; empty: it stays."""

    def __init__(self, head: bytes) -> None:
        """``head``: as it came, without the empty line and the line end before it. Raises
        UpstreamProtocolError if it is malformed."""
        lines = head.split(b"\r\n")
        self.http11, self.status, self.reason = _status_line(lines[0])
        self.keep_alive = self.http11
        """Whether the connection persists after this response."""
        self.length = UNTIL_CLOSE
        """Bytes of the body, UNTIL_CLOSE or CHUNKED, whatever the status says."""
        self.lines: list[bytes] = []
        """Fields that pass, in their order and spelling; Content-Length is among them."""
        self.info: Sequence[bytes] = ()
        """Fields of the names that the proxy adds itself: either these or its own are sent."""
        self.set_cookies: Sequence[bytes] = ()
        """Values of the Set-Cookie fields, which pass too."""
        self.upgrade: Sequence[bytes] = ()
        """The Upgrade fields, which mean something in a 101 only."""
        self.switches = False
        """Connection names Upgrade."""
        self.event_stream, self.handover = False, b""
        kinds = RESPONSE_LINES
        keep = self.lines.append
        named: frozenset[bytes] = frozenset()
        closes = False
        try:
            for line in lines[1:]:
                kind = kinds[line]
                if not kind:
                    keep(line)
                elif kind == _CONTENT_LENGTH:
                    if self.length != UNTIL_CLOSE:
                        raise ValueError(_FRAMED_TWICE)
                    self.length, ours = _content_length(line)
                    keep(ours)
                elif kind == _CONNECTION:
                    options = options_of_line(line)
                    if not (options.plain and self.http11):
                        closes = closes or options.closes
                        self.keep_alive = options.persists(self.keep_alive) and not closes
                        self.switches = self.switches or options.upgrade
                        named |= options.named
                elif kind == _SET_COOKIE:
                    self.set_cookies = (*self.set_cookies, line.partition(b":")[2].strip(b" \t"))
                    keep(line)
                elif kind == Kind.TRANSFER_ENCODING:
                    self._note_coding(line.partition(b":")[2].strip(b" \t"))
                else:
                    self._note_rare(kind, line)
        except ValueError as error:
            raise UpstreamProtocolError(str(error)) from None
        if named:
            self.lines = [
                line for line in self.lines if line.partition(b":")[0].lower() not in named
            ]

    def _note_rare(self, kind: int, line: bytes) -> None:
        if kind == Kind.INFO:
            self.info = (*self.info, line)
        elif kind == Kind.UPGRADE:
            self.upgrade = (*self.upgrade, line)
        elif kind == Kind.HANDOVER:
            self.handover = line.partition(b":")[2].strip(b" \t")
        elif kind == Kind.EVENT_STREAM:
            self.event_stream = True
            self.lines.append(line)

    def _note_coding(self, value: bytes) -> None:
        if self.length != UNTIL_CLOSE:
            raise ValueError(_FRAMED_TWICE)
        if value.lower() != b"chunked":
            raise ValueError("its transfer coding is not chunked")
        if not self.http11:  # RFC 9112 section 6.1: its framing is faulty
            raise ValueError("it has a transfer coding in HTTP/1.0")
        self.length = CHUNKED


@lru_cache(256)
def _status_line(line: bytes) -> tuple[bool, int, bytes]:
    """(HTTP/1.1 and not 1.0, status, reason). Raises UpstreamProtocolError."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamProtocolError("its status line is not HTTP/1.x")
    minor, status, reason = match.groups(b"")
    return minor == b"1", int(status), reason


@lru_cache(1024)
def _content_length(line: bytes) -> tuple[int, bytes]:
    """The length, and the line as it is sent on. Raises ValueError."""
    value = line.partition(b":")[2].strip(b" \t")
    if not _LENGTH.fullmatch(value) or int(value) > _MAX_LENGTH:
        raise ValueError("its Content-Length is not a number")
    return int(value), b"Content-Length: %d" % int(value)
