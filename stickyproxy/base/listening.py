"""Sockets that listen: from an address to as many of them as are to share it.

Standard library only, and no event loop: a keeper (``handover.keeper``) opens its sockets like a
proxy does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Any

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError

BACKLOG = 4096
"""Connections that wait in the kernel to be accepted; it allows net.core.somaxconn at most."""

Group = list[socket.socket]
"""The sockets that listen on one socket address: with SO_REUSEPORT there may be several."""

_NO_SUCH_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def open_groups(
    address: Address, shares: int = 1, *, shareable: bool = False, exclusive: bool = True
) -> list[Group]:
    """For each socket address that an address stands for (several if it is a name or all
    interfaces), the sockets that listen on it: one for each share, but a unix socket is one for
    all.

    ``shareable``: more sockets may join them later (``widen``), in this process or another.
    ``exclusive``: nobody else may listen there now. Resolves names, which may block. Raises
    ListenError.
    """
    try:
        if address.path is not None:
            _remove_stale_socket(address.path)
            return [[_listening(_bound(socket.AF_UNIX, address.path))]]
        found = socket.getaddrinfo(
            address.host, address.port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        opened: list[Group] = []
        for family, _, _, _, sockaddr in sorted(dict.fromkeys(found)):  # IPv4 first
            try:
                opened.append(
                    _open_tcp(family, sockaddr, shares, shareable=shareable, exclusive=exclusive)
                )
            except OSError as error:
                if opened and address.host is None and error.errno in _NO_SUCH_FAMILY:
                    continue  # "all interfaces" of a machine without IPv6
                close_all(opened)
                raise
        return opened
    except OSError as error:
        raise ListenError(_why_not(address, error)) from error


def widen(group: Group, shares: int) -> None:
    """Let as many sockets listen as there are shares, if the first one was opened to be joined by
    others: a unix socket is not, nor is one that was opened for itself."""
    first = group[0]
    if first.family == socket.AF_UNIX or not first.getsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEPORT
    ):
        return
    while len(group) < shares:
        try:
            group.append(_listening(_bound(first.family, first.getsockname(), shared=True)))
        except OSError:
            return  # another user's, or another network namespace's: those there are must do


def close_all(groups: list[Group]) -> None:
    """Close what this process has of them."""
    for group in groups:
        for sock in group:
            sock.close()


def _open_tcp(
    family: int, sockaddr: Any, shares: int, *, shareable: bool, exclusive: bool
) -> Group:
    # The first one does not share: with SO_REUSEPORT alone, another proxy that listens there would
    # go unnoticed and take half of our connections.
    shareable = shareable or shares > 1
    with contextlib.ExitStack() as opened:
        if exclusive:
            first = _bound(family, sockaddr)
            if not shareable:
                return [_listening(first)]
            opened.enter_context(first)
            sockaddr = first.getsockname()  # port 0 has become one
        with contextlib.ExitStack() as kept:
            group: Group = []
            for _ in range(shares):
                group.append(kept.enter_context(_bound(family, sockaddr, shared=True)))
                sockaddr = group[0].getsockname()
            for sock in group:
                _listening(sock)
            kept.pop_all()
            return group


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
