"""What a proxy and a connector say to each other.

    proxy -> connector    CONNECT    open a TCP connection to that address within that time
                          PING       are you there?
    connector -> proxy    READY      once, first: I take requests, in this version of the protocol
                          CONNECTED  here is its descriptor
                          FAILED     it came to nothing, with this errno
                          PONG       I am
                          LEAVING    ask somebody else from now on

The socket is of the kind SOCK_SEQPACKET (unix(7)), which keeps messages apart: each is one packet,
and a descriptor comes with the very message that announces it. Requests are numbered by the proxy,
answers bear the number and come in any order. All integers are big-endian.
"""

from __future__ import annotations

import struct

DIRECTORY = "/run/stickyproxy"
"""Where proxies and connectors meet: a volume that is mounted there in both."""

VERSION = 1
"""Sent in READY. A connector outlives updates of the proxy, so this changes seldom."""

REQUEST = struct.Struct("!BBHII16s")
"""Kind, IP version (4 or 6), port, number, milliseconds, address (IPv4: in the first 4 bytes)."""
CONNECT = 1
PING = 2

ANSWER = struct.Struct("!BBHI")
"""Kind, 0, errno (READY: the version), number."""
READY = 1
CONNECTED = 2
FAILED = 3
PONG = 4
LEAVING = 5

DESCRIPTOR = struct.Struct("i")
"""The payload of SCM_RIGHTS for one descriptor, in the machine's own byte order."""

MAX_PATH = 107
"""Bytes of a unix socket's path on Linux, unix(7)."""


def socket_path(directory: str, network: str) -> str:
    """Where the connector of a network listens. Raises ValueError for what is no name of a Docker
    network, or too long for a socket."""
    letters = network.translate(_PUNCTUATION)
    if not (network[:1].isalnum() and letters.isalnum() and letters.isascii()):
        raise ValueError(f"{network!r} is not the name of a Docker network")
    path = f"{directory.rstrip('/')}/{network}.sock"
    if len(path.encode()) > MAX_PATH:
        raise ValueError(f"{path} is too long for a unix socket: {MAX_PATH} bytes is all it takes")
    return path


_PUNCTUATION = str.maketrans("", "", "_.-")
