"""What who takes listeners and who gives them say to each other: JSON, one message a packet.

    taker -> giver   {"take": [address, ...], "shares": 4, "version": 1}
    giver -> taker   {"listener": address, "group": 0} and its sockets; for each group, perhaps in
                     several packets
                     {"given": "proxy" or "keeper", "version": 1, "others": 0}, or
                     {"refused": "why"}
    taker -> giver   {"accepting": true}
    giver -> taker   {"leaving": true}, of a proxy; a keeper says nothing and stays connected

The socket is of the kind SOCK_SEQPACKET (unix(7)), so a descriptor comes with the very message that
announces it. An address is the text of the configuration. An address may stand for several socket
addresses, each of which is a group of sockets that share it (SO_REUSEPORT). Unknown keys are passed
over: who comes next may know more than who is there.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import suppress
from typing import Any

VERSION = 1

MAX_MESSAGE = 65536
SOCKETS_A_MESSAGE = 64
"""The kernel takes 253, SCM_MAX_FD."""

_CREDENTIALS = struct.Struct("3i")

Message = dict[str, Any]


def encoded(message: Message) -> bytes:
    """As one packet."""
    return json.dumps(message).encode()


def decoded(packet: bytes) -> Message:
    """Raises ValueError for what is no message."""
    message = json.loads(packet)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def receive(sock: socket.socket) -> tuple[Message | None, list[socket.socket]]:
    """The next message, None at the end, and the sockets that came with it. Raises OSError,
    ValueError."""
    packet, descriptors, _, _ = socket.recv_fds(sock, MAX_MESSAGE, SOCKETS_A_MESSAGE)
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for each in sockets:
        os.set_inheritable(each.fileno(), False)
        each.setblocking(False)
    return (decoded(packet) if packet else None), sockets


def give(sock: socket.socket, address: str, groups: list[list[socket.socket]]) -> None:
    """Send the sockets of a listener. Raises OSError."""
    for number, group in enumerate(groups):
        for first in range(0, len(group), SOCKETS_A_MESSAGE):
            some = [each.fileno() for each in group[first : first + SOCKETS_A_MESSAGE]]
            packet = encoded({"listener": address, "group": number})
            socket.send_fds(sock, [packet], some)


def asked_for(message: Message) -> tuple[list[str], int]:
    """The addresses that a taker wants, and in how many shares. Raises ValueError."""
    wanted, shares = message.get("take"), message.get("shares")
    if not isinstance(wanted, list) or not isinstance(shares, int) or not 0 < shares <= 256:
        raise ValueError("it asks for no listeners")
    return [str(each) for each in wanted], shares


def user_of(sock: socket.socket) -> int:
    """The user id of the process at the other end, SO_PEERCRED of unix(7)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid


class Door:
    """The socket at a path where takers knock. It takes the path over from who had it: there is
    no moment at which nobody listens there."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self._path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fresh = f"{path}.{os.getpid()}"
        try:
            with suppress(FileNotFoundError):
                os.unlink(fresh)  # left behind by a process of our number
            self.sock.bind(fresh)
            os.chmod(fresh, 0o600)
            self.sock.listen(8)
            self._inode = os.stat(fresh).st_ino
            os.rename(fresh, path)
        except OSError:
            self.sock.close()
            raise

    def close(self) -> None:
        """Listen no more; the path is removed, unless somebody else has taken it over."""
        self.sock.close()
        with suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
