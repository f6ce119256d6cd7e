"""A connector in a process of its own, and a peer that speaks to it in plain messages."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL, Signals
from types import TracebackType
from typing import Self

from stickyproxy.connector import wire

NETWORK = "back"


def eventually(what: str, ask: Callable[[], object], within: float = 20.0) -> None:
    """Ask until it is so. AssertionError if it does not come about in that many seconds."""
    deadline = time.monotonic() + within
    while not ask():
        assert time.monotonic() < deadline, f"{what}: not within {within:g} s"
        time.sleep(0.01)


class RunningConnector:
    """``stickyproxy connector`` for the network "back"; a context manager."""

    def __init__(self, directory: Path, *, grace: float = 0.0, descriptors: int = 1024) -> None:
        """Starts it and waits until it listens. ``descriptors``: how many it may have open."""
        self.path = directory / f"{NETWORK}.sock"
        command = ["prlimit", f"--nofile={descriptors}", sys.executable, "-m", "stickyproxy"]
        options = ["--network", NETWORK, "--directory", str(directory), "--grace", str(grace)]
        self.process = subprocess.Popen([*command, "connector", *options], stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        self.first_line = self.process.stderr.readline().decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.end(SIGKILL)

    def signal(self, number: Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self, number: Signals) -> int:
        """Send it a signal that ends it; returns its exit status."""
        if self.process.poll() is None:
            self.signal(number)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.wait(20)

    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


class PlainPeer:
    """One end of the protocol, blocking; a context manager."""

    def __init__(self, path: Path) -> None:
        """Connects, and takes READY."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        try:
            self.sock.connect(str(path))
        except OSError:
            self.sock.close()
            raise
        assert self.take()[:2] == (wire.READY, wire.VERSION)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def ask(self, number: int, address: tuple[str, int], milliseconds: int = 20_000) -> None:
        """Send CONNECT."""
        host, port = address
        version, family = (6, socket.AF_INET6) if ":" in host else (4, socket.AF_INET)
        packed = socket.inet_pton(family, host)
        self.sock.send(wire.REQUEST.pack(wire.CONNECT, version, port, number, milliseconds, packed))

    def take(self) -> tuple[int, int, int, socket.socket | None]:
        """Kind, errno or version, and number of the next answer, and what came with it. Zeros if
        the connector hangs up."""
        message, descriptors, _, _ = socket.recv_fds(self.sock, 64, 8)
        if not message:
            return 0, 0, 0, None
        kind, _, value, number = wire.ANSWER.unpack(message)
        sockets = [socket.socket(fileno=fd) for fd in descriptors]
        return kind, value, number, sockets[0] if sockets else None


class FullListener:
    """A TCP listener with no room: connections to it neither succeed nor fail. A context
    manager."""

    def __enter__(self) -> tuple[str, int]:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        address: tuple[str, int] = self._listener.getsockname()
        self._waiting = []
        for _ in range(4):  # Linux takes one or two more than it was told
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            self._waiting.append(sock)
        return address

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        for sock in (*self._waiting, self._listener):
            sock.close()
