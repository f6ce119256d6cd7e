"""DATA PLANE: the seam between a client's protocol and the exchange that serves a request.

    RequestHead    a request as a protocol parsed it (``semantics.request``)
    ClientStream   one request and the way back to its client: what a protocol implements
    StreamHandler  serves the request: the stream tells it what the client does

A connection of HTTP/1.1 has one stream after the other, one of HTTP/2 has many at a time. How a
message is delimited, what a status line looks like and whether a connection lasts is known to the
protocol alone. All calls return at once and none of them waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from stickyproxy.base.errors import BadRequest
from stickyproxy.semantics.request import RequestHead


class ClientTunnel(Protocol):
    """Takes over a client's bytes after 101 Switching Protocols."""

    def from_client(self, data: bytes) -> None:
        """Bytes for the endpoint."""

    def client_lost(self) -> None:
        """The client is gone."""


class ClientStream(RequestHead, Protocol):
    """One request and the way back to its client."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it lives in."""

    # --- the request's body ---

    def body_at_hand(self) -> bytes | None:
        """The body without transfer coding, if all of it came along with the head, as small ones
        do; None if there is more to come. May be asked again, until ``start_body``."""

    def start_body(self) -> None:
        """Hand what has arrived of the body, and what will, to the handler."""

    def keep_body(self) -> None:
        """Keep what comes of the body until it is started again: the request is to be sent anew,
        and there is nobody to take it meanwhile. Nothing of it has been handed over yet."""

    def pause_body(self) -> None:
        """Hand over no more: the endpoint cannot keep up."""

    def resume_body(self) -> None:
        """It can again. Nothing is to be done if the body was not paused: it may have gone out
        with its head."""

    # --- the response ---

    @property
    def client_is_slow(self) -> bool:
        """Between ``client_slow`` and ``client_ready``."""

    def send_interim(self, status: int, reason: bytes, fields: list[bytes]) -> None:
        """Send a 1xx response, unless the client's version of the protocol has none."""

    def send_head(
        self, status: int, reason: bytes, fields: list[bytes], length: int, *, last: bool = False
    ) -> None:
        """Send the head of the response. ``fields``: lines without their ends, none of them
        about framing but a correct Content-Length; the list is the stream's from now on.
        ``length``: bytes that follow, or UNKNOWN. ``last``: nothing that the client sends after
        this request is to be trusted."""

    def send_data(self, data: bytes) -> None:
        """A piece of the response's body."""

    def flush(self) -> None:
        """Pass on what was sent so far. The pieces of one turn go out together."""

    def end(self) -> None:
        """The response is whole. The stream is of no use any more."""

    def reset(self) -> None:
        """The response will never be whole, and the client must see that. The stream is of no use
        any more."""

    # --- after 101 Switching Protocols ---

    def switch(self, tunnel: ClientTunnel) -> None:
        """From now on bytes pass as they are; those that the client sent ahead go first."""

    def write(self, data: bytes) -> None:
        """Bytes for the client of a tunnel."""

    def pause_client(self) -> None:
        """Read nothing from the client of a tunnel for now."""

    def resume_client(self) -> None:
        """Read on."""

    def close(self) -> None:
        """End a tunnel, once what was written is out."""


class StreamHandler(Protocol):
    """Serves one request."""

    def begin(self) -> None:
        """Serve the request, now or when what it needs has arrived."""

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""

    def body_ended(self) -> None:
        """The body is whole."""

    def body_failed(self, error: BadRequest) -> None:
        """The rest of the body cannot be read."""

    def client_slow(self) -> None:
        """The client does not keep up with the response: send no more for now."""

    def client_ready(self) -> None:
        """It does again."""

    def client_lost(self) -> None:
        """The client is gone. The stream is of no use any more."""


Serve = Callable[[ClientStream], StreamHandler]
"""Makes the handler of a request; ``begin`` is called next."""
Refuse = Callable[[ClientStream, BadRequest], None]
"""Responds to what could not be parsed. The stream is of no use afterwards."""
