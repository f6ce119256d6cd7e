"""The end that is given listeners: by the proxy before it, or by a keeper."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

from stickyproxy.base.errors import ListenError
from stickyproxy.base.listening import Group
from stickyproxy.handover import wire

ANSWER_SECONDS = 10.0
"""How long who holds the listeners may take to answer; then it is taken for frozen. Long, because
one that is only busy must not be: it would be served beside, and on a port of the system's choice
nobody would come to its successor. One that is frozen serves nobody while we wait."""
LOOK_SECONDS = 0.1
"""Pause before a keeper that is not there is looked for again."""


class NobodyGives(Exception):
    """Nobody is there who could hand listeners over."""


class Frozen(Exception):
    """Somebody is there, and does not answer."""


class Taken:
    """Listeners that were handed over, and the connection to who did."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        """Ends when the giver ends."""
        self.groups: dict[str, list[Group]] = {}
        """By address as configured."""
        self.others = 0
        """Proxies that accept on them at present, as a keeper counts them."""

    def accepting(self) -> None:
        """Tell that their new holder accepts connections now."""
        with suppress(OSError):  # it has ended in the meantime, which is what it was to do
            self.sock.send(wire.encoded({"accepting": True}))

    def close(self) -> None:
        """Hang up. The sockets stay open."""
        self.sock.close()

    def drop(self) -> None:
        """Hang up and close the sockets: whoever gave them goes on."""
        self.close()
        for groups in self.groups.values():
            for group in groups:
                for each in group:
                    each.close()


def take(path: str, addresses: Iterable[str], shares: int) -> Taken:
    """Ask who listens at ``path`` for the listeners of these addresses. Blocks for some seconds at
    most. Raises NobodyGives, Frozen; ListenError if it refuses."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(ANSWER_SECONDS)
    taken = Taken(sock)
    try:
        sock.connect(path)
        if wire.user_of(sock) != os.geteuid():
            raise ListenError(
                f"{path} is another user's: who takes listeners over has to run as the user who "
                f"holds them, {wire.user_of(sock)}"
            )
        request = {"take": list(addresses), "shares": shares, "version": wire.VERSION}
        sock.send(wire.encoded(request))
        _fill(taken, path)
    except BaseException as error:
        taken.drop()
        if isinstance(error, (TimeoutError, BlockingIOError)):
            raise Frozen(f"{path}: no answer within {ANSWER_SECONDS:g} s") from error
        if isinstance(error, PermissionError):
            raise ListenError(
                f"cannot take listeners over from {path}: permission denied"
            ) from None
        if isinstance(error, OSError):
            raise NobodyGives(f"{path}: {os.strerror(error.errno or errno.EIO)}") from error
        raise
    return taken


def take_from_keeper(path: str, addresses: Iterable[str], shares: int, patience: float) -> Taken:
    """As ``take``, but wait for a keeper to come, for ``patience`` seconds. Blocks. Raises
    ListenError."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return take(path, addresses, shares)
        except (NobodyGives, Frozen) as error:
            if time.monotonic() > deadline:
                raise ListenError(
                    f"the keeper of the listeners does not answer: {error}; is it running, and is "
                    "the directory mounted in both?"
                ) from error
        time.sleep(LOOK_SECONDS)


def _fill(taken: Taken, path: str) -> None:
    """Receive what was asked for. Raises OSError, ListenError."""
    while True:
        try:
            message, sockets = wire.receive(taken.sock)
        except ValueError as error:
            raise ListenError(f"what listens on {path} does not hand listeners over") from error
        if message is None:
            raise ConnectionResetError(errno.ECONNRESET, "it hangs up")
        if "refused" in message:
            raise ListenError(f"{path}: {message['refused']}")
        if "given" in message:
            taken.others = int(message.get("others", 0))
            return
        if "listener" in message:
            groups = taken.groups.setdefault(message["listener"], [])
            while len(groups) <= message["group"]:
                groups.append([])
            groups[message["group"]] += sockets
