"""Listeners: open them, serve on them, close them gracefully."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stickyproxy.errors import ListenError

if TYPE_CHECKING:
    from stickyproxy.config import Address
    from stickyproxy.downstream import ClientServer

log = logging.getLogger("stickyproxy")

BACKLOG = 4096
"""Connections that wait in the kernel to be accepted; it allows net.core.somaxconn at most."""


class Server:
    """All listeners of the process, in front of one ``ClientServer``."""

    def __init__(self, clients: ClientServer) -> None:
        self._clients = clients
        self._sockets: list[asyncio.Server] = []
        self._unix_paths: list[str] = []

    async def listen(self, addresses: Iterable[Address]) -> list[str]:
        """Open the listeners; returns their addresses as bound. Raises ListenError, with none
        left open."""
        bound: list[str] = []
        try:
            for address in addresses:
                bound += await self._listen(address)
        except ListenError:
            self.stop_accepting()
            raise
        return bound

    def stop_accepting(self) -> None:
        """Close the listeners; connections stay."""
        for server in self._sockets:
            server.close()
        for path in self._unix_paths:
            os.unlink(path)
        self._sockets.clear()
        self._unix_paths.clear()

    async def drain(self, grace: float) -> int:
        """Stop accepting and let requests under way finish for up to ``grace`` seconds. Returns
        how many connections had to be cut."""
        self.stop_accepting()
        try:
            async with asyncio.timeout(grace):
                await self._clients.drain()
        except TimeoutError:
            cut = len(self._clients.connections)
            self._clients.abort()
            await self._clients.drain()
            return cut
        return 0

    async def _listen(self, address: Address) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            if address.path is not None:
                _remove_stale_socket(address.path)
                server = await loop.create_unix_server(self._clients, address.path, backlog=BACKLOG)
                self._unix_paths.append(address.path)
            else:
                server = await loop.create_server(
                    self._clients, address.host, address.port or 0, backlog=BACKLOG
                )
        except OSError as error:
            raise ListenError(_why_not(address, error)) from error
        self._sockets.append(server)
        return [_name(sock.getsockname()) for sock in server.sockets]


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
