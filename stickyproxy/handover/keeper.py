"""A keeper: opens listening sockets and keeps them, so that proxies may come and go.

    stickyproxy keeper --socket /run/stickyproxy/listeners.sock

Whatever addresses a proxy asks for are opened here and handed over; the proxy accepts on them
itself, so not a connection and not a byte goes through this process. Connections belong to the
network namespace that a listener was opened in, whoever holds it: those of a container that is
never updated outlive every proxy, with all that the kernel has yet to send. Between two proxies
clients wait in the queue, for as long as ``--patience`` says; then the listeners are closed, and
who connects is refused. A keeper that starts takes the listeners of the one before it.

Standard library only, and no event loop: it sleeps.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError
from stickyproxy.base.listening import Group, close_all, open_groups, widen
from stickyproxy.handover import taking, wire

PATIENCE = 60.0
"""Seconds that clients may wait in the queue while there is no proxy."""
SEND_SECONDS = 2.0
"""How long a proxy may take to take what it asked for."""


HELP = "keep the listeners open while one proxy takes the place of another"
DESCRIPTION = (
    "Open the sockets that proxies listen on, and keep them open while one proxy takes the place "
    "of another. The proxies name it in their configuration: proxy.keeper."
)


class Keeper:
    """The listeners, and the proxies that have them."""

    def __init__(self, path: str, patience: float = PATIENCE) -> None:
        """Raises OSError if it cannot listen at ``path``, ListenError if what listens there does
        not let go."""
        self._patience = patience
        self._groups: dict[str, list[Group]] = {}
        self._proxies: dict[socket.socket, frozenset[str]] = {}
        """What each of them has asked for."""
        self._latest: frozenset[str] = frozenset()
        """What the last one of them asked for."""
        self._close_at: float | None = None
        self._selector = selectors.DefaultSelector()
        self._inherit(path)
        self._door = wire.Door(path)
        self._selector.register(self._door.sock, selectors.EVENT_READ)

    def _inherit(self, path: str) -> None:
        try:
            taken = taking.take(path, ["*"], 1)
        except (taking.NobodyGives, taking.Frozen):
            return
        self._groups = taken.groups
        self._latest = frozenset(taken.groups)
        taken.close()
        self._nobody_left()

    def work(self) -> None:
        """Until the process is ended."""
        while True:
            wait = None if self._close_at is None else max(0.0, self._close_at - time.monotonic())
            for key, _ in self._selector.select(wait):
                sock = key.fileobj
                if sock is self._door.sock:
                    self._welcome()
                elif isinstance(sock, socket.socket):
                    self._hear(sock)
            if self._close_at is not None and time.monotonic() >= self._close_at:
                self._close_at = None
                self._close(frozenset())
                _say(f"no proxy for {self._patience:g} s: clients are refused until one comes")

    def close(self) -> None:
        """Let go of everything."""
        self._door.close()
        self._close(frozenset())

    def _welcome(self) -> None:
        sock, _ = self._door.sock.accept()
        sock.settimeout(SEND_SECONDS)
        if wire.user_of(sock) != os.geteuid():
            _refuse(sock, "it runs as another user than the keeper")
            sock.close()
            return
        self._proxies[sock] = frozenset()
        self._selector.register(sock, selectors.EVENT_READ)

    def _hear(self, sock: socket.socket) -> None:
        try:
            packet = sock.recv(wire.MAX_MESSAGE)
            if packet:
                message = wire.decoded(packet)
                if "take" in message:
                    self._hand_over(sock, *wire.asked_for(message))
                return
        except (OSError, ValueError) as error:
            _say(f"a proxy was sent away: {error}")
        self._part_from(sock)

    def _hand_over(self, sock: socket.socket, wanted: list[str], shares: int) -> None:
        if wanted == ["*"]:
            wanted = list(self._groups)  # the keeper that comes after us
        else:
            try:
                self._open(wanted, shares)
            except (ListenError, ValueError) as error:
                _say(str(error))
                _refuse(sock, str(error))
                return
            self._proxies[sock] = self._latest = frozenset(wanted)
            self._close_at = None
            _say(f"handed over: {', '.join(wanted)}")
        for address in wanted:
            wire.give(sock, address, self._groups[address])
        others = sum(1 for each, has in self._proxies.items() if has and each is not sock)
        given = {"given": "keeper", "version": wire.VERSION, "others": others}
        sock.send(wire.encoded(given))

    def _open(self, wanted: list[str], shares: int) -> None:
        """Open what is not open yet. Raises ListenError, ValueError."""
        for address in wanted:
            if address not in self._groups:
                self._groups[address] = open_groups(Address.parse(address), shares, shareable=True)
            for group in self._groups[address]:
                widen(group, shares)

    def _part_from(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        sock.close()
        had = self._proxies.pop(sock)
        if had:
            self._close(self._latest.union(*self._proxies.values()))
            if not any(self._proxies.values()):
                self._nobody_left()

    def _nobody_left(self) -> None:
        if self._groups:
            self._close_at = time.monotonic() + self._patience

    def _close(self, but: frozenset[str]) -> None:
        for address in self._groups.keys() - but:
            close_all(self._groups.pop(address))


def _refuse(sock: socket.socket, why: str) -> None:
    with suppress(OSError):  # it is gone
        sock.send(wire.encoded({"refused": why}))


def _say(text: str) -> None:
    sys.stderr.write(f"keeper: {text}\n")


def main(arguments: Sequence[str]) -> int:
    """Keep listeners until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="stickyproxy keeper", description=DESCRIPTION)
    add_options(parser)
    options = parser.parse_args(arguments)
    return run(options.socket, options.patience)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--socket", metavar="PATH", required=True, help="where proxies find it, a unix socket"
    )
    parser.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=PATIENCE,
        help="how long clients may wait while there is no proxy, before they are refused "
        "(default: %(default)g)",
    )


def run(path: str, patience: float) -> int:
    """Keep listeners; returns the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        keeper = Keeper(path, patience)
    except (OSError, ListenError) as error:
        _say(f"cannot listen on {path}: {error}")
        return 1
    _say(f"listens on {path}")
    try:
        keeper.work()
    except _Ended:
        keeper.close()
    return 0


class _Ended(BaseException):
    """The process was told to end."""


def _end(_number: int, _frame: object) -> None:
    raise _Ended
