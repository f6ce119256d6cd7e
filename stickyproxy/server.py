"""Listeners: open them, serve on them, close them gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stickyproxy.errors import ListenError

if TYPE_CHECKING:
    from stickyproxy.config import Address
    from stickyproxy.downstream import ClientServer

log = logging.getLogger("stickyproxy")

BACKLOG = 4096
"""Connections that wait in the kernel to be accepted; it allows net.core.somaxconn at most."""


_NO_SUCH_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

ACCEPTS_PER_TURN = 128
"""Connections accepted before requests get their turn again, per listener."""


class Server:
    """All listeners of the process, in front of one ``ClientServer``.

    Connections are accepted here and not by the loop's ``create_server``: uvloop accepts one per
    turn of the loop, and in a turn it may serve hundreds of requests of those already connected.
    The thousandth of a thousand clients that came at once would wait for many seconds.
    """

    def __init__(self, clients: ClientServer) -> None:
        self._clients = clients
        self._sockets: list[socket.socket] = []
        self._files: dict[str, int] = {}
        """Unix sockets that we made, and their inodes."""
        self._connecting: set[asyncio.Task[object]] = set()

    async def listen(self, addresses: Iterable[Address]) -> list[str]:
        """Open the listeners; returns their addresses as bound. Raises ListenError, with none
        left open."""
        try:
            for address in addresses:
                self._sockets += await _open(address)
                if address.path is not None:
                    self._files[address.path] = os.stat(address.path).st_ino
        except ListenError:
            self.stop_accepting()
            raise
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock.fileno(), self._accept, sock)
        return [_name(sock.getsockname()) for sock in self._sockets]

    def stop_accepting(self) -> None:
        """Close the listeners; connections stay."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        for path, inode in self._files.items():
            with contextlib.suppress(OSError):  # somebody was faster
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._files.clear()

    async def drain(self, grace: float) -> int:
        """Stop accepting and let requests under way finish for up to ``grace`` seconds. Returns
        how many connections had to be cut."""
        self.stop_accepting()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        try:
            async with asyncio.timeout(grace):
                await self._clients.drain()
        except TimeoutError:
            cut = len(self._clients.connections)
            self._clients.abort()
            await self._clients.drain()
            return cut
        return 0

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(listening, error)
                return
            connecting = loop.create_task(
                loop.connect_accepted_socket(self._clients, sock), name="accepted"
            )
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Task[object]) -> None:
        self._connecting.discard(connecting)
        if not connecting.cancelled() and (error := connecting.exception()) is not None:
            log.debug("a client was gone before it was served: %s", error)

    def _rest(self, listening: socket.socket, error: OSError) -> None:
        """Out of file descriptors or memory: trying again at once would only burn the processor
        that could free some."""
        log.error("cannot accept connections: %s; trying again in a second", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())
        loop.call_later(1.0, self._wake, listening)

    def _wake(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            loop = asyncio.get_running_loop()
            loop.add_reader(listening.fileno(), self._accept, listening)


async def _open(address: Address) -> list[socket.socket]:
    """Sockets that listen on an address; several if it is a name or stands for all interfaces."""
    try:
        if address.path is not None:
            _remove_stale_socket(address.path)
            return [_listening(socket.AF_UNIX, address.path)]
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sockets: list[socket.socket] = []
        for family, _, _, _, sockaddr in sorted(dict.fromkeys(found)):  # IPv4 first
            try:
                sockets.append(_listening(family, sockaddr))
            except OSError as error:
                if sockets and address.host is None and error.errno in _NO_SUCH_FAMILY:
                    continue  # "all interfaces" of a machine without IPv6
                for sock in sockets:
                    sock.close()
                raise
        return sockets
    except OSError as error:
        raise ListenError(_why_not(address, error)) from error


def _listening(family: int, sockaddr: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _name(sockname: object) -> str:
    if isinstance(sockname, tuple):
        host, port = sockname[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{sockname.decode() if isinstance(sockname, bytes) else sockname}"


def _remove_stale_socket(path: str) -> None:
    """A socket file that a killed process left behind is in the way. Anything else is kept, and
    so is a socket on which somebody listens."""
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
