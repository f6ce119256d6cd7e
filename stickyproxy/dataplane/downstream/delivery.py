"""What the kernel has taken from us, and clients have not received yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_CLOSING = frozenset({"04", "09", "0B"})
"""FIN_WAIT1, LAST_ACK and CLOSING: our end is closed, and the peer has not acknowledged all."""
_NOBODYS = "0"
"""The inode of a socket that no process has any more."""


def undelivered(ports: Collection[int]) -> int:
    """Connections on these local TCP ports that were closed on our side, by whatever process, and
    have data of ours which has not arrived. proc(5), /proc/net/tcp."""
    return sum(1 for port in _orphans() if port in ports)


def _orphans() -> Iterator[int]:
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6, or another system than Linux
        for line in lines:
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state in _CLOSING and inode == _NOBODYS:
                yield int(local.rpartition(":")[2], 16)
