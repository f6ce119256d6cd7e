"""DATA PLANE: the proxy's end of its connectors.

    Connectors   all of them, as one process uses them
    _Network     one network's: finds its connector, waits for it, tells why there is none
    _Link        a connection to one connector process: requests out, descriptors in

A process has one channel to each connector that it needs, and any number of requests on it at a
time. What comes back is an ordinary connected socket; only its end is tied to the connector: when
that goes, its container's interfaces go, and a connection through them would hang without a word.
So the sockets of a channel are shut down when the channel ends, and whoever reads them notices.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar
from weakref import WeakSet

from stickyproxy.base.errors import ConnectError, NetworkUnavailable, OutOfResources
from stickyproxy.connector import wire

PATIENCE = 10.0
"""Seconds that connecting waits for a connector to come, or to come back; after that it fails at
once until one is there."""
LOOK_SECONDS = (0.02, 0.5)
"""Pause before a connector is looked for again: the first, and the longest."""
READY_SECONDS = 2.0
"""How long a connector may take to say that it is ready, once it has been reached."""
SLACK_SECONDS = 0.5
"""How much later than asked for its answer may come; then it is taken for frozen."""
MAX_WAITING = 1024
"""Requests that may wait for one connector, as many as it takes from one process."""
BATCH = 64
"""Answers taken from one connector in a turn of the loop."""

# What connecting fails with for want of something at the connector, whatever the endpoint's health.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


_RIGHTS_SIZE = socket.CMSG_SPACE(wire.DESCRIPTOR.size)

_T = TypeVar("_T")


class Connectors:
    """The way into networks that this process is not on."""

    def __init__(
        self,
        directory: str,
        leaving: Callable[[str], None] | None = None,
        *,
        patience: float = PATIENCE,
    ) -> None:
        """``directory``: where the connectors have their sockets. ``leaving``: called with the name
        of a network whose connector wants to end, and would like idle connections to be closed.
        ``patience``: see PATIENCE."""
        self._directory = directory
        self._leaving = leaving
        self._patience = patience
        self._networks: dict[str, _Network] = {}

    async def connect(self, network: str, host: str, port: int, seconds: float) -> socket.socket:
        """A connected, non-blocking socket to an IP address on a network, in ``seconds`` or
        less. Raises ConnectError, OutOfResources, and of that NetworkUnavailable if it is the
        connector that is wanting."""
        found = self._networks.get(network)
        if found is None:
            found = _Network(network, self._directory, self._leaving, self._patience)
            self._networks[network] = found
        return await found.connect(host, port, seconds)

    def close(self) -> None:
        """Ask for nothing any more. Connections that were made live on."""
        for network in self._networks.values():
            network.close()
        self._networks.clear()


class _Network:
    """Its connector, be it there or not."""

    def __init__(
        self,
        name: str,
        directory: str,
        leaving: Callable[[str], None] | None,
        patience: float,
    ) -> None:
        self.name = name
        self._directory = directory
        self._leaving = leaving
        self._patience = patience
        self._channel: _Link | None = None
        self._old: set[_Link] = set()
        """Of no use for new connections, but those that were made live by them."""
        self._search: asyncio.Task[_Link] | None = None
        self._missing_since: float | None = None
        self._look_at = 0.0
        """When, after patience is spent, it may be looked for again."""
        self._trouble = ""

    async def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        """As of Connectors."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            channel = self._channel or await self._find(loop, deadline)
            left = deadline - loop.time()
            answer = await channel.ask(host, port, max(left, 0.0))
            if isinstance(answer, socket.socket):
                return answer
            if answer == _LOST and left > 0:
                continue  # the endpoint has seen nothing of us: another connector may do it
            if answer == _SILENT:
                self._retire(channel)
            raise self._failure(answer, host, port, seconds)

    def _failure(self, code: int, host: str, port: int, seconds: float) -> Exception:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        way = f"through the connector for network {self.name}"
        if code == _LOST:
            return NetworkUnavailable(f"{self._it()} has gone")
        if code == _SILENT:
            return NetworkUnavailable(f"{self._it()} does not answer")
        if code == errno.ETIMEDOUT:
            return ConnectError(f"{address} accepted no connection within {seconds:g} s")
        if code in _OURS:
            return OutOfResources(f"no connection to {address} {way}: {os.strerror(code)}")
        return ConnectError(f"{address}: {os.strerror(code)} ({way})")

    def _it(self) -> str:
        return f"the connector for network {self.name}"

    # --- finding it ---

    async def _find(self, loop: asyncio.AbstractEventLoop, deadline: float) -> _Link:
        """The channel to use. Raises NetworkUnavailable."""
        if self._search is None:
            if loop.time() < self._look_at:
                raise NetworkUnavailable(self._trouble)
            self._search = loop.create_task(self._look(), name=f"connector for {self.name}")
            self._search.add_done_callback(self._found)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._search)
        except NetworkUnavailable as error:
            raise NetworkUnavailable(str(error)) from None  # each who waits gets one of its own
        except TimeoutError:
            raise NetworkUnavailable(self._trouble or f"{self._it()} does not answer") from None

    def _found(self, search: asyncio.Task[_Link]) -> None:
        self._search = None
        if not search.cancelled():
            search.exception()  # whoever waited has been told

    async def _look(self) -> _Link:
        """Look until it is there, or patience is spent. Raises NetworkUnavailable."""
        loop = asyncio.get_running_loop()
        pause, longest = LOOK_SECONDS
        while True:
            try:
                channel = await self._open()
            except NetworkUnavailable as error:
                self._trouble = str(error)
                if self._missing_since is None:
                    self._missing_since = loop.time()
                if loop.time() - self._missing_since >= self._patience:
                    self._look_at = loop.time() + longest
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
            else:
                self._missing_since = None
                self._channel = channel
                for old in [each for each in self._old if not each.carries]:
                    old.close()
                    self._old.discard(old)
                return channel

    async def _open(self) -> _Link:
        """A channel to who has the network's name in the directory at present."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            path = wire.socket_path(self._directory, self.name)
            sock.connect(path)
        except (OSError, ValueError) as error:
            sock.close()
            raise NetworkUnavailable(self._why(error)) from error
        channel = _Link(sock, self)
        try:
            async with asyncio.timeout(READY_SECONDS):
                version = await channel.ready
        except TimeoutError:
            channel.close()
            raise NetworkUnavailable(f"{self._it()} does not answer") from None
        except BaseException:
            channel.close()
            raise
        if version == _LOST:
            raise NetworkUnavailable(f"{self._it()} hangs up")
        if version != wire.VERSION:
            channel.close()
            raise NetworkUnavailable(
                f"{self._it()} speaks version {version} of the protocol, this proxy "
                f"{wire.VERSION}: update its service"
            )
        return channel

    def _why(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"no connector for network {self.name} is on this node (yet)"
        if isinstance(error, ConnectionRefusedError):
            return f"{self._it()} has ended, and there is no other one yet"
        if isinstance(error, BlockingIOError):
            return f"{self._it()} takes no connections: it may be frozen"
        if isinstance(error, PermissionError):
            return f"{self._it()} runs as another user than the proxy, whose is {os.geteuid()}"
        return f"{self._it()} cannot be reached: {error}"

    # --- what becomes of it ---

    def _retire(self, channel: _Link) -> None:
        """Ask it for nothing any more, but notice its end."""
        if self._channel is channel:
            self._channel = None
        self._old.add(channel)

    def leaving(self, channel: _Link) -> None:
        """It wants to end as soon as nothing goes through it."""
        self._retire(channel)
        if self._leaving is not None:
            self._leaving(self.name)

    def lost(self, channel: _Link) -> None:
        """It has ended."""
        self._old.discard(channel)
        if self._channel is channel:
            self._channel = None

    def close(self) -> None:
        """As of Connectors."""
        if self._search is not None:
            self._search.cancel()
        for channel in (self._channel, *self._old):
            if channel is not None:
                channel.close()
        self._channel = None
        self._old.clear()


_LOST = -1
_SILENT = -2


class _Link:
    """One connection to a connector."""

    def __init__(self, sock: socket.socket, network: _Network) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._network = network
        self.ready: asyncio.Future[int] = self._loop.create_future()
        """The version of the protocol that it speaks, or _LOST."""
        self._number = 0
        self._waiting: dict[int, tuple[asyncio.Future[socket.socket | int], int]] = {}
        """Who waits for the answer to a request, and the address family that was asked for."""
        self._outbox: deque[bytes] = deque()
        """Requests that it had no room for."""
        self._made: WeakSet[socket.socket] = WeakSet()
        self._loop.add_reader(sock, self._read)

    @property
    def carries(self) -> bool:
        """True while connections that it made are in use."""
        return bool(self._made)

    async def ask(self, host: str, port: int, seconds: float) -> socket.socket | int:
        """A connection, or why there is none: an errno, _LOST or _SILENT."""
        version, family = (6, socket.AF_INET6) if ":" in host else (4, socket.AF_INET)
        try:
            address = socket.inet_pton(family, host)
        except OSError:
            return errno.EINVAL
        if len(self._waiting) >= MAX_WAITING:
            return errno.ENOBUFS
        number = self._number = (self._number + 1) & 0xFFFFFFFF
        waiter: asyncio.Future[socket.socket | int] = self._loop.create_future()
        self._waiting[number] = waiter, family
        timer = self._loop.call_later(seconds + SLACK_SECONDS, _settle, waiter, _SILENT)
        milliseconds = round(1000 * seconds)
        self._send(wire.REQUEST.pack(wire.CONNECT, version, port, number, milliseconds, address))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                answer = waiter.result()
                if isinstance(answer, socket.socket):
                    answer.close()
            raise
        finally:
            timer.cancel()
            self._waiting.pop(number, None)

    def _send(self, request: bytes) -> None:
        if not self._outbox:
            try:
                self._sock.send(request)
                return
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._flush)
            except OSError:
                return  # it has ended: that is read before long
        self._outbox.append(request)

    def _flush(self) -> None:
        try:
            while self._outbox:
                self._sock.send(self._outbox[0])
                self._outbox.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._outbox.clear()
        self._loop.remove_writer(self._sock)

    def _read(self) -> None:
        for _ in range(BATCH):
            try:
                message, rights, _, _ = self._sock.recvmsg(
                    wire.ANSWER.size, _RIGHTS_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                message, rights = b"", []
            if len(message) != wire.ANSWER.size:
                self._end()
                return
            kind, _, value, number = wire.ANSWER.unpack(message)
            fd = wire.DESCRIPTOR.unpack(rights[0][2])[0] if rights else -1
            self._take(kind, value, number, fd)

    def _take(self, kind: int, value: int, number: int, fd: int) -> None:
        if kind == wire.READY:
            _settle(self.ready, value)
        elif kind == wire.LEAVING:
            self._network.leaving(self)
        elif kind in (wire.CONNECTED, wire.FAILED):
            waiter, family = self._waiting.pop(number, (None, 0))
            if waiter is None or waiter.done():  # it came too late
                if fd >= 0:
                    os.close(fd)
            elif kind == wire.FAILED:
                waiter.set_result(value)
            elif fd < 0:
                waiter.set_result(errno.EMFILE)  # there was no descriptor left for it here
            else:
                sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fd)
                sock.setblocking(False)
                self._made.add(sock)
                waiter.set_result(sock)

    def _end(self) -> None:
        """Nobody is there any more, and no way to where its connections led."""
        self.close()
        for sock in tuple(self._made):
            with suppress(OSError):  # it is closed
                sock.shutdown(socket.SHUT_RDWR)
        self._network.lost(self)

    def close(self) -> None:
        """Who waits is told that it is lost."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        _settle(self.ready, _LOST)
        for waiter, _ in self._waiting.values():
            _settle(waiter, _LOST)


def _settle(waiter: asyncio.Future[_T], result: _T) -> None:
    if not waiter.done():
        waiter.set_result(result)
