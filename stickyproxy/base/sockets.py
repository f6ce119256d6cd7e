"""What asyncio's transports do not offer."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from array import array
from contextlib import suppress

_LINGER_OFF = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Close at once with a reset, so that the peer sees an error. ``abort`` alone drops what the
    transport holds but lets the kernel deliver the rest of its own, and then a normal end."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    transport.abort()


def undelivered(transport: asyncio.Transport) -> int:
    """Bytes that the kernel has taken from us and the peer has not acknowledged (tcp(7), SIOCOUTQ);
    0 where it does not say."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sys.platform != "linux":
        return 0
    count = array("i", [0])
    with suppress(OSError):  # it is closed
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    return count[0]


def keep_alive(transport: asyncio.Transport, seconds: float, every: int = 1) -> bool:
    """Have the kernel probe a peer that is silent for that long, then ``every`` so many seconds;
    returns whether it can. A replica that exits closes its connections; one whose node has died
    does not."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX or sys.platform != "linux":
        return False
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(seconds)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every)
    return True


def limit_silence(transport: asyncio.Transport, seconds: float) -> None:
    """Have the kernel give up a peer that acknowledges nothing for so long; 0: never. Linux counts
    the time, too, in which a peer acknowledges but takes nothing."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None:
        return
    with suppress(OSError):  # it is closed: nothing to limit
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))


def close_with_alert(sock: socket.socket, alert: int) -> None:
    """Close with a fatal alert of TLS (RFC 8446 section 6), in the clear because nothing else was
    agreed upon. What has come is read first: closing with bytes unread would take the alert with
    it."""
    with suppress(OSError):
        sock.recv(1 << 16)
        sock.send(bytes((21, 3, 3, 0, 2, 2, alert)))
        sock.shutdown(socket.SHUT_WR)
    sock.close()
