"""Listeners: open their sockets, and close them. ``accept`` does what comes between."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import stat
from collections.abc import Iterable
from typing import Any, NamedTuple

from stickyproxy.base.addresses import Address, join_host_port
from stickyproxy.base.errors import ListenError
from stickyproxy.model.listener import ListenerSpec

BACKLOG = 4096
"""Connections that wait in the kernel to be accepted; it allows net.core.somaxconn at most."""


_NO_SUCH_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Listener(NamedTuple):
    """An open listener."""

    spec: ListenerSpec
    sock: socket.socket


class Listeners:
    """The open sockets of all listeners, in as many shares as there are processes that accept.

    Each share has a TCP socket of its own (SO_REUSEPORT), so that the kernel deals connections
    out to the processes; a unix socket is the same one in all shares. One process keeps
    them open: connections that wait to be accepted outlive the process that was to accept them.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        """The addresses as bound."""
        self.shares: list[list[Listener]] = []
        self._files: dict[str, int] = {}
        """Unix sockets that we made, and their inodes."""

    @classmethod
    async def open(cls, specs: Iterable[ListenerSpec], shares: int = 1) -> Listeners:
        """Listen. Raises ListenError, with nothing left open."""
        listeners = cls()
        listeners.shares = [[] for _ in range(shares)]
        try:
            for spec in specs:
                await listeners._add(spec)
        except ListenError:
            listeners.close()
            raise
        return listeners

    async def _add(self, spec: ListenerSpec) -> None:
        address = spec.address
        for copies in await _open(address, len(self.shares)):
            self.names.append(_name(copies[0].getsockname()))
            for share, sock in zip(self.shares, copies, strict=True):
                share.append(Listener(spec, sock))
        if address.path is not None:
            self._files[address.path] = os.stat(address.path).st_ino

    def close(self) -> None:
        """Close what this process has of them, and remove the files of unix sockets."""
        for share in self.shares:
            for listener in share:
                listener.sock.close()
            share.clear()
        for path, inode in self._files.items():
            with contextlib.suppress(OSError):  # another process was faster
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._files.clear()


async def _open(address: Address, shares: int) -> list[list[socket.socket]]:
    """For each socket address that an address stands for (several if it is a name or all
    interfaces), the sockets that listen on it: one for each share."""
    try:
        if address.path is not None:
            _remove_stale_socket(address.path)
            return [[_listening(_bound(socket.AF_UNIX, address.path))] * shares]
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        opened: list[list[socket.socket]] = []
        for family, _, _, _, sockaddr in sorted(dict.fromkeys(found)):  # IPv4 first
            try:
                opened.append(_open_tcp(family, sockaddr, shares))
            except OSError as error:
                if opened and address.host is None and error.errno in _NO_SUCH_FAMILY:
                    continue  # "all interfaces" of a machine without IPv6
                for sock in itertools.chain.from_iterable(opened):
                    sock.close()
                raise
        return opened
    except OSError as error:
        raise ListenError(_why_not(address, error)) from error


def _open_tcp(family: int, sockaddr: Any, shares: int) -> list[socket.socket]:
    """Sockets that share an address."""
    # The first one does not share: with SO_REUSEPORT alone, another proxy that listens there would
    # go unnoticed and take half of our connections.
    first = _bound(family, sockaddr)
    if shares == 1:
        return [_listening(first)]
    with first, contextlib.ExitStack() as opened:
        sockaddr = first.getsockname()  # port 0 has become one
        bound = [opened.enter_context(_bound(family, sockaddr, shared=True)) for _ in range(shares)]
        sockets = [_listening(sock) for sock in bound]
        opened.pop_all()  # they stay open
        return sockets


def _bound(family: int, sockaddr: Any, *, shared: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


def _listening(sock: socket.socket) -> socket.socket:
    try:
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _name(sockname: object) -> str:
    if isinstance(sockname, tuple):
        host, port = sockname[:2]
        return join_host_port(host, port)
    return f"unix:{sockname.decode() if isinstance(sockname, bytes) else sockname}"


def _remove_stale_socket(path: str) -> None:
    """A socket file that a killed process left behind is in the way. Anything else is kept, and
    so is a socket that a process listens on."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


def _why_not(address: Address, error: OSError) -> str:
    reasons = {
        errno.EADDRINUSE: "another program listens there; stop it, or choose another port",
        errno.EACCES: "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return f"cannot listen on {address}: {reason}"
