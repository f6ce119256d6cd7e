"""DATA PLANE: responses that are compressed on their way to the client.

A coding's library is loaded when it is first used. Compressing takes far longer than all else that
is done with a piece of a body, so no more than ``SLICE`` bytes are compressed at once: what is left
of a read waits for its turn (``dataplane.turns``), and meanwhile the endpoint is not read.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from stickyproxy.dataplane.attempt import Attempt
from stickyproxy.dataplane.relay import AwaitsResponse, Relay
from stickyproxy.routing.endpoint import Pick
from stickyproxy.semantics.codings import (
    SMALLEST,
    choose,
    compressed_lines,
    compressible,
    revalidated_lines,
    said_by,
    varying_lines,
)
from stickyproxy.semantics.edits import Edit
from stickyproxy.semantics.request import UNKNOWN, ClientRequest
from stickyproxy.semantics.response import ResponseHead

SLICE = 1 << 15
"""Bytes that are compressed at once: about half a millisecond."""

MOST = 512
"""Responses that one process compresses at a time, as each takes up to a mebibyte; what is more
goes out as it is."""

_WINDOW_BITS = 18
"""Of br and zstd. By default they look back much further, in that much more memory."""


class Encoder(Protocol):
    """Compresses one body. All return what is ready."""

    def feed(self, data: bytes | memoryview) -> bytes: ...

    def flush(self) -> bytes:
        """All that was fed can be read from what has been returned, this included."""

    def finish(self) -> bytes:
        """The end."""


class _Gzip:
    def __init__(self) -> None:
        self._compressor = zlib.compressobj(5, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self.feed: Callable[[bytes | memoryview], bytes] = self._compressor.compress
        self.finish: Callable[[], bytes] = self._compressor.flush

    def flush(self) -> bytes:
        return self._compressor.flush(zlib.Z_SYNC_FLUSH)


class _Brotli:
    def __init__(self) -> None:
        import brotli  # noqa: PLC0415 - see above

        compressor = brotli.Compressor(quality=4, lgwin=_WINDOW_BITS)
        self.feed: Callable[[bytes | memoryview], bytes] = compressor.process
        self.flush: Callable[[], bytes] = compressor.flush
        self.finish: Callable[[], bytes] = compressor.finish


class _Zstd:
    def __init__(self) -> None:
        from backports import zstd  # noqa: PLC0415 - see above

        of = zstd.CompressionParameter
        options: dict[int, int] = {of.compression_level: 3, of.window_log: _WINDOW_BITS}
        self._compressor = zstd.ZstdCompressor(options=options)
        self.feed: Callable[[bytes | memoryview], bytes] = self._compressor.compress
        self.finish: Callable[[], bytes] = self._compressor.flush

    def flush(self) -> bytes:
        return self._compressor.flush(self._compressor.FLUSH_BLOCK)


_ENCODERS: dict[str, Callable[[], Encoder]] = {"gzip": _Gzip, "br": _Brotli, "zstd": _Zstd}


class Encoders:
    """Those at work in one process."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.at_work = 0

    def begin(self, coding: str) -> Encoder | None:
        """One that is to be ended. None: there are too many."""
        if self.at_work >= self._most:
            return None
        encoder = _ENCODERS[coding]()
        self.at_work += 1
        return encoder

    def end(self) -> None:
        """One of them is not needed any more."""
        self.at_work -= 1


def coding_for(request: ClientRequest, offered: tuple[str, ...]) -> str | None:
    """The one that a response is to have; None: it stays as it is. HTTP/1.0 has no chunks, which
    a body needs whose length is not known."""
    accepted = request.header("accept-encoding")
    if accepted is None or not request.http11:
        return None
    if b"no-transform" in (request.header("cache-control") or b"").lower():
        return None  # RFC 9111 section 5.2.1.6
    return choose(accepted, offered)


class CompressingRelay(Relay):
    """Compresses the body, if the response is of a kind for that."""

    __slots__ = (
        "_edit",
        "_encoder",
        "_encoders",
        "_ended",
        "_offered",
        "_rest",
        "_streams",
        "_waits",
    )

    # While there is an encoder:
    _streams: bool
    """The end of the body is not known: whatever came is passed on without waiting for more."""
    _rest: deque[memoryview]
    """What was read and not compressed yet."""
    _ended: bool
    """The endpoint has sent all of it."""

    def __init__(
        self,
        exchange: AwaitsResponse,
        request: ClientRequest,
        pick: Pick,
        info: bytes | None,
        attempts: Sequence[Attempt],
        *,
        edit: Edit | None,
        offered: tuple[str, ...],
        encoders: Encoders,
    ) -> None:
        super().__init__(exchange, request, pick, info, attempts)
        self._edit = edit
        self._offered = offered
        """The codings that the service offers."""
        self._encoders = encoders
        self._encoder: Encoder | None = None
        """None: the body passes as it comes."""
        self._waits = False
        """There is something to compress, and its turn will come."""

    def head(self, head: ResponseHead) -> None:
        """Pass the head on, changed as the body will be."""
        if self._edit is not None:
            head.lines = self._edit.apply(head.lines)
        if not 0 <= head.length < SMALLEST or head.status == 304:
            head.lines = self._changed(head, said_by(head.lines))
        super().head(head)

    def _changed(self, head: ResponseHead, said: int) -> list[bytes]:
        """Begin to compress the body, if it may be; returns the fields."""
        if compressible(head.status, head.length, said):
            coding = coding_for(self._request, self._offered)
            if coding is None or not (self.bodiless or self._begin(head, coding)):
                return varying_lines(head.lines, said)
            head.length = UNKNOWN
            return compressed_lines(head.lines, said, coding)
        if head.status == 304 and coding_for(self._request, self._offered) is not None:
            asked = self._request.header("if-none-match") or b""
            return revalidated_lines(head.lines, said, asked)
        return head.lines

    def _begin(self, head: ResponseHead, coding: str) -> bool:
        self._encoder = self._encoders.begin(coding)
        self._streams = head.length < 0
        self._rest = deque()
        self._ended = False
        return self._encoder is not None

    def data(self, data: bytes) -> None:
        """A piece of the body."""
        encoder = self._encoder
        if encoder is None:
            super().data(data)
        elif self._waits or len(data) > SLICE:
            self._rest.append(memoryview(data))
            self._wait()
        else:
            self._pass_on(encoder.feed(data))

    def flush(self) -> None:
        """Write what has accumulated, unless there is more to come of this read."""
        if self._waits or self._exchange is None:
            return
        if self._encoder is not None and self._streams:
            self._pass_on(self._encoder.flush())
        super().flush()

    def end(self) -> None:
        """The response is whole, as far as it goes."""
        if self._encoder is None:
            super().end()
        elif self._waits:
            self._ended = True
        else:
            self._finish()

    def failed(self, error: Exception) -> None:
        """There will be no more."""
        self._stop()
        super().failed(error)

    def let_go(self) -> None:
        """Nobody waits for the response any more."""
        self._stop()
        super().let_go()

    @property
    def is_behind(self) -> bool:
        """See above: there is something to compress."""
        return self._waits

    # ---

    def _pass_on(self, data: bytes) -> None:
        if data:
            super().data(data)

    def _wait(self) -> None:
        exchange = self._exchange
        if exchange is not None and not self._waits:
            self._waits = True
            exchange.wait_for_turn(self._go_on)

    def _go_on(self) -> None:
        """Compress the next slice."""
        exchange, encoder, rest = self._exchange, self._encoder, self._rest
        self._waits = False
        if exchange is None or encoder is None:
            return
        piece = rest.popleft()
        if len(piece) > SLICE:
            rest.appendleft(piece[SLICE:])
        self._pass_on(encoder.feed(piece[:SLICE]))
        if rest:
            self._wait()
            self._stream.flush()
        elif self._ended:
            self._finish()
        else:
            self.flush()
            exchange.read_on()

    def _finish(self) -> None:
        if self._encoder is not None:
            self._pass_on(self._encoder.finish())
            self._stop()
        super().end()

    def _stop(self) -> None:
        if self._encoder is not None:
            self._encoder = None
            self._rest.clear()
            self._encoders.end()
