"""DATA PLANE: bodies in chunks (RFC 9112 section 7.1), decoded a turn's worth at a time.

A peer may cut its body into chunks of one byte. Bytes that come in one read are therefore decoded
up to a number of chunks, and the rest waits for the next turn of the loop, so that other peers
get theirs. The result of a turn is one piece, however many chunks it was.

The grammar is taken strictly, as llhttp does: lines end in CRLF, a size is hexadecimal digits and
nothing else, extensions are skipped, trailer fields are checked and dropped (section 7.1.2 allows
that).
"""

from __future__ import annotations

import re

from stickyproxy.base.errors import StickyproxyError

CHUNKS_PER_TURN = 64
"""Chunks decoded before other peers get their turn; about 30 microseconds."""
MAX_LINE = 4096
"""Bytes of a line: a chunk's size with its extensions, or a trailer field."""
MAX_EXTRA = 32 * 1024
"""Bytes of all extensions and trailer fields of a body."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])*"'
_EXTENSION = rb";%b(?:=(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:%b)*)" % _EXTENSION)
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")

_REMEMBERED_SIZES = 1024

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)
"""What is expected next. ``_DATA_END`` is the CRLF after a chunk."""


class ChunkError(StickyproxyError):
    """The chunks are malformed, or there is too much around them."""


class _Sizes(dict[bytes, int]):
    """The size that up to four digits stand for; 0 if it needs the full parser."""

    def __missing__(self, digits: bytes) -> int:
        size = int(digits, 16) if _SIZE_LINE.fullmatch(digits) and digits.isalnum() else 0
        if len(self) < _REMEMBERED_SIZES:
            self[digits] = size
        return size


_SIZES = _Sizes()


class ChunkedDecoder:
    """Decodes one body: ``feed`` it, then ``decode`` turn by turn while something is pending."""

    __slots__ = ("_at", "_data", "_expect", "_extra", "_left", "_stuck")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._expect = _SIZE
        self._left = 0
        """Bytes still missing from the current chunk."""
        self._extra = 0
        self._stuck = True
        """More bytes are needed before anything else can be decoded."""

    @property
    def done(self) -> bool:
        """The body is whole."""
        return self._expect == _DONE

    @property
    def pending(self) -> bool:
        """There is more to decode of what was fed."""
        return not (self._stuck or self.done)

    @property
    def surplus(self) -> bytes:
        """What was fed beyond the end of the body."""
        return self._data[self._at :] if self.done else b""

    def feed(self, data: bytes) -> None:
        """Bytes as received, appended to those that could not be decoded yet."""
        self._data = self._data[self._at :] + data
        self._at = 0
        self._stuck = False

    def decode(self) -> bytes:
        """A turn's worth of the body; empty if there is none. Raises ChunkError."""
        pieces: list[bytes] = []
        data, at = self._data, self._at
        for _ in range(CHUNKS_PER_TURN):
            if self._expect == _SIZE:  # the fast path, for a chunk that is complete
                line_end = data.find(b"\r\n", at, at + 6)
                if line_end > 0 and (size := _SIZES[data[at:line_end]]):
                    end = line_end + 2 + size
                    if data[end : end + 2] == b"\r\n":
                        pieces.append(data[line_end + 2 : end])
                        at = end + 2
                        continue
            self._at = at
            if at == len(data):
                self._stuck = True
            else:
                self._take_part(pieces)
            at = self._at
            if self._stuck or self._expect == _DONE:
                break
        self._at = at
        if self._stuck:
            self._data = data[at:]
            self._at = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_part(self, pieces: list[bytes]) -> None:
        """As much of what is expected as is here."""
        if self._expect == _SIZE:
            self._take_size()
        elif self._expect == _DATA:
            piece = self._data[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            pieces.append(piece)
            if not self._left:
                self._expect = _DATA_END
        elif self._expect == _DATA_END:
            self._take_end_of_chunk()
        else:
            self._take_trailer()

    def _take_size(self) -> None:
        line = self._line()
        if line is None:
            return
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ChunkError("the size of a chunk is malformed")
        self._left = int(match[1], 16)
        self._count(len(match[2] or b""))
        self._expect = _DATA if self._left else _TRAILERS

    def _take_end_of_chunk(self) -> None:
        end = self._data[self._at : self._at + 2]
        if end == b"\r\n":
            self._at += 2
            self._expect = _SIZE
        elif end == b"\r":
            self._stuck = True
        else:
            raise ChunkError("a chunk is longer than its size")

    def _take_trailer(self) -> None:
        line = self._line()
        if line is None:
            return
        if not line:
            self._expect = _DONE
        elif _TRAILER.fullmatch(line):
            self._count(len(line))
        else:
            raise ChunkError("a trailer field is malformed")

    def _line(self) -> bytes | None:
        """The next line without its end; None if it is not here yet. Raises ChunkError."""
        end = self._data.find(b"\r\n", self._at, self._at + MAX_LINE)
        if end < 0:
            if len(self._data) - self._at >= MAX_LINE:
                raise ChunkError("a line between the chunks is too long")
            if b"\n" in self._data[self._at :]:
                raise ChunkError("a line between the chunks ends without a carriage return")
            self._stuck = True
            return None
        line = self._data[self._at : end]
        self._at = end + 2
        return line

    def _count(self, extra: int) -> None:
        self._extra += extra
        if self._extra > MAX_EXTRA:
            raise ChunkError("too many bytes between the chunks")
