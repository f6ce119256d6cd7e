"""DATA PLANE: the body of a request of HTTP/1.1, from the client's bytes to the handler.

What follows a head is parsed here and not by aiohttp's parser: bytes are counted, chunks are
decoded a turn's worth at a time. Until the handler asks for the body, it is kept; what is kept is
bounded, since the connection is not read beyond ``ENOUGH``.
"""

from __future__ import annotations

from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane.chunked import ChunkedDecoder, ChunkError
from stickyproxy.dataplane.downstream.ports import StreamHandler
from stickyproxy.semantics.request import UNKNOWN

ENOUGH = 64 * 1024
"""Bytes kept for a handler that is not ready for them, before the client has to wait."""


class RequestBody:
    """One body. ``feed`` it what is read; it is passed to the handler once that was ``started``."""

    __slots__ = ("_decoder", "_handler", "_left", "_pieces", "complete", "error", "kept", "surplus")

    def __init__(self, length: int) -> None:
        """``length``: bytes, or UNKNOWN for a body in chunks."""
        self._left = length
        self._decoder = ChunkedDecoder() if length == UNKNOWN else None
        self._handler: StreamHandler | None = None
        self._pieces: list[bytes] = []
        self.kept = 0
        """Bytes that wait for the handler."""
        self.complete = False
        """All of it has been read."""
        self.surplus = b""
        """What was read beyond its end."""
        self.error: BadRequest | None = None
        """Why the rest cannot be read."""

    @property
    def pending(self) -> bool:
        """Something was read that has to wait for the next turn of the loop: ``resume`` then."""
        return self._decoder is not None and self._decoder.pending and self.error is None

    @property
    def ended(self) -> bool:
        """No more of it will come."""
        return self.complete or self.error is not None

    def feed(self, data: bytes) -> None:
        """Bytes as received, when nothing is pending."""
        if self._decoder is not None:
            self._decoder.feed(data)
            self.resume()
            return
        left = self._left - len(data)
        if left <= 0:
            self.complete = True
            self.surplus = data[len(data) + left :] if left < 0 else b""
            data = data[: len(data) + left] if left < 0 else data
        self._left = max(left, 0)
        self._pass_on(data)

    def resume(self) -> None:
        """Take the next turn's worth."""
        decoder = self._decoder
        assert decoder is not None
        try:
            data = decoder.decode()
        except ChunkError as error:
            self.error = BadRequest(400, f"malformed request body: {error}")
            if self._handler is not None:
                self._handler.body_failed(self.error)
            return
        if decoder.done:
            self.complete = True
            self.surplus = decoder.surplus
        self._pass_on(data)

    def whole(self) -> bytes | None:
        """The body, if all of it is here."""
        return b"".join(self._pieces) if self.complete else None

    def start(self, handler: StreamHandler) -> None:
        """Hand over what was kept, and from now on what comes."""
        self._handler = handler
        kept, self._pieces, self.kept = b"".join(self._pieces), [], 0
        if kept:
            handler.body(kept)
        if self.complete:
            handler.body_ended()
        elif self.error is not None:
            handler.body_failed(self.error)

    def keep(self) -> None:
        """Keep what comes until the next ``start``."""
        self._handler = None

    def discard(self) -> None:
        """It is not wanted any more."""
        self._handler = None
        self._pieces, self.kept = [], 0

    def _pass_on(self, data: bytes) -> None:
        handler = self._handler
        if handler is None:
            if data:
                self._pieces.append(data)
                self.kept += len(data)
            return
        if data:
            handler.body(data)
        if self.complete:
            handler.body_ended()
