"""DATA PLANE: after 101 Switching Protocols, a tunnel: bytes one way, bytes the other way."""

from __future__ import annotations

from collections.abc import Callable

from stickyproxy.dataplane.downstream.ports import ClientStream
from stickyproxy.dataplane.outcome import Outcome, outcome_of
from stickyproxy.dataplane.upstream.connection import UpstreamConnection


class UpgradeTunnel:
    """Joins a client's stream and an upstream connection until either ends. Implements
    ``downstream.ports.ClientTunnel`` and ``upstream.connection.UpstreamTunnel``."""

    __slots__ = ("_closed", "_stream", "_upstream", "bytes_down")

    def __init__(
        self, stream: ClientStream, upstream: UpstreamConnection, closed: Callable[[Outcome], None]
    ) -> None:
        """``closed`` is called once, when either side has ended or was given up."""
        self._stream = stream
        self._upstream = upstream
        self._closed: Callable[[Outcome], None] | None = closed
        self.bytes_down = 0

    def open(self) -> None:
        """Start passing bytes on; what the client sent ahead goes first."""
        self._upstream.switch(self)
        self._stream.switch(self)

    # --- downstream.ports.ClientTunnel ---

    def from_client(self, data: bytes) -> None:
        self._upstream.send_body(data)

    def client_lost(self) -> None:
        self._upstream.close()
        self._end(Outcome.SWITCHED)

    # --- upstream.connection.UpstreamTunnel ---

    def from_upstream(self, data: bytes) -> None:
        self.bytes_down += len(data)
        self._stream.write(data)

    def upstream_ended(self) -> bool:
        return False  # one that has nothing more to say is of no use to what upgrades

    def upstream_lost(self) -> None:
        if self._closed is not None:
            self._stream.close()
            self._end(Outcome.SWITCHED)

    def failed(self, error: Exception) -> None:
        if self._closed is not None:
            self._stream.close()
            self._end(outcome_of(error, head_sent=True))

    def pause_client(self) -> None:
        self._stream.pause_client()

    def resume_client(self) -> None:
        self._stream.resume_client()

    # ---

    def _end(self, outcome: Outcome) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed(outcome)
