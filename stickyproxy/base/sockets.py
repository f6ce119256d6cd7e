"""What asyncio's transports do not offer."""

from __future__ import annotations

import asyncio
import socket
import struct

_LINGER_OFF = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Close at once and tell the peer that this is no proper end. ``abort`` alone drops what the
    transport holds but lets the kernel deliver the rest of its own, and then a normal end."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    transport.abort()
