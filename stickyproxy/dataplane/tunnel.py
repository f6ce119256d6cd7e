"""DATA PLANE: after 101 Switching Protocols, a tunnel: bytes one way, bytes the other way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stickyproxy.dataplane.downstream.http1 import ClientConnection
    from stickyproxy.dataplane.upstream.connection import UpstreamConnection


class UpgradeTunnel:
    """Joins a client connection and an upstream connection until either ends.

    Implements ``connection.Tunnel``, and what aiohttp feeds an upgraded connection's bytes to
    (``feed_data``, ``feed_eof``).
    """

    def __init__(self, client: ClientConnection, upstream: UpstreamConnection) -> None:
        self._client = client
        self._upstream = upstream
        self.bytes_down = 0
        self.closed: asyncio.Future[None] = client.loop.create_future()
        upstream.switch(self)

    def open(self) -> None:
        """Start passing the client's bytes on; what it sent ahead goes first."""
        self._client.tunnel_into(self)

    # --- from the client ---

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Bytes for the endpoint. Never ends by itself."""
        self._upstream.send_body(data)
        return False, b""

    def feed_eof(self) -> None:
        """The client is gone."""
        self._close()

    # --- connection.Tunnel ---

    def from_upstream(self, data: bytes) -> None:
        self.bytes_down += len(data)
        self._client.write(data)

    def upstream_lost(self) -> None:
        self._close()

    def pause_client(self) -> None:
        self._client.pause_client()

    def resume_client(self) -> None:
        self._client.resume_client()

    def _close(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
