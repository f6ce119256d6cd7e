"""DATA PLANE: connections to endpoints, kept for the next request.

Upstreams   all pools of the process; its sweep is the only timer there is
Pool        the connections to one target
"""

from __future__ import annotations

import asyncio
import errno
import math

from stickyproxy.base.addresses import split_host_port
from stickyproxy.base.errors import ConnectError, OutOfResources
from stickyproxy.dataplane.descriptors import EXHAUSTED, Descriptors
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.connection import SweepLimits, UpstreamConnection
from stickyproxy.model.target import Target

# Errors of connecting that mean a lack of resources here, not a fault of the endpoint.
_OURS = (*EXHAUSTED, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


class Pool:
    """The connections to one target. The idle one used last is reused first, so that a pool
    that has become too large for its load shrinks from the other end."""

    def __init__(self, upstreams: Upstreams, target: Target) -> None:
        self.target = target
        self.turns = upstreams.turns
        self._upstreams = upstreams
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {self.address} {len(self._idle)} idle of {len(self._all)}>"

    @property
    def address(self) -> str:
        """The target's, for messages."""
        return self.target.address

    def take(self, *, replayable: bool) -> UpstreamConnection | None:
        """An idle connection, or None. A request that cannot be replayed only gets one that was
        busy a moment ago: the longer it idles, the likelier its endpoint is about to close it."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            if replayable or connection.idle_sweeps == 0:
                return connection
            idle.append(connection)
            return None
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises ConnectError, OutOfResources."""
        upstreams = self._upstreams
        address = self.address
        try:
            async with asyncio.timeout(upstreams.connect_timeout):
                connection = await self._open()
        except TimeoutError as error:
            timeout = upstreams.connect_timeout
            raise ConnectError(f"{address} accepted no connection within {timeout:g} s") from error
        except OSError as error:
            if error.errno in _OURS:
                raise OutOfResources(f"no connection to {address}: {error.strerror}") from error
            raise ConnectError(f"{address}: {error.strerror or error}") from error
        connection.expect_signs_of_life(upstreams.connect_timeout)
        self._all.add(connection)
        self._upstreams.add(self)  # closed and emptied while we were connecting: still swept
        return connection

    async def _open(self) -> UpstreamConnection:
        """Raises OSError."""
        try:
            return await self._open_once()
        except OSError as error:
            if not self._upstreams.descriptors.make_room(error):
                raise
        await asyncio.sleep(0)
        return await self._open_once()

    async def _open_once(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        if self.address.startswith("unix:"):
            _, connection = await loop.create_unix_connection(
                lambda: UpstreamConnection(self), self.address.removeprefix("unix:")
            )
        else:
            host, port = split_host_port(self.address)
            _, connection = await loop.create_connection(
                lambda: UpstreamConnection(self), host.strip("[]"), port
            )
        return connection

    async def probe(self) -> None:
        """Make a connection and keep it for a request. Raises ConnectError."""
        self.put(await self.connect())

    def put(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is fit for another exchange."""
        if self._closed:
            connection.retire()
        else:
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is lost."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closed and not self._all:
            self._upstreams.remove(self)

    def close(self) -> None:
        """Close idle connections now, and busy ones when their exchange ends."""
        self._closed = True
        for connection in self._idle:
            connection.retire()
        self._idle.clear()
        if not self._all:
            self._upstreams.remove(self)

    def sweep(self, limits: SweepLimits) -> None:
        """Count one sweep for every connection, and end those that reached their limit."""
        for connection in tuple(self._all):
            connection.sweep(limits)

    def shed(self) -> int:
        """Close idle connections, for lack of file descriptors; returns how many."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.retire()
        return len(idle)


class Upstreams:
    """All pools of the process, and the clock of their timeouts (seconds)."""

    def __init__(
        self,
        *,
        connect_timeout: float,
        response_timeout: float,
        client_timeout: float,
        idle_timeout: float,
        turns: Turns,
        descriptors: Descriptors,
    ) -> None:
        self.turns = turns
        self.descriptors = descriptors
        descriptors.may_shed(self.shed)
        self.connect_timeout = connect_timeout
        shortest = min(response_timeout, client_timeout, idle_timeout)
        self._interval = max(0.02, min(1.0, shortest / 4))
        self._limits = SweepLimits(
            idle=math.ceil(idle_timeout / self._interval),
            response=math.ceil(response_timeout / self._interval),
            client=math.ceil(client_timeout / self._interval),
        )
        self._pools: set[Pool] = set()
        self._timer: asyncio.TimerHandle | None = None

    def pool(self, target: Target) -> Pool:
        """A new pool; the endpoint's owner closes it."""
        pool = Pool(self, target)
        self.add(pool)
        return pool

    def add(self, pool: Pool) -> None:
        """The pool has connections to sweep."""
        self._pools.add(pool)

    def remove(self, pool: Pool) -> None:
        """The pool is closed and its last connection gone."""
        self._pools.discard(pool)

    def shed(self) -> int:
        """Close idle connections, for lack of file descriptors; returns how many."""
        return sum(pool.shed() for pool in self._pools)

    def start(self) -> None:
        """Start sweeping."""
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._sweep)

    def close(self) -> None:
        """Stop sweeping and close every pool."""
        if self._timer is not None:
            self._timer.cancel()
        for pool in tuple(self._pools):
            pool.close()

    def _sweep(self) -> None:
        self.start()  # first: one that raises must not end the time of all others
        for pool in tuple(self._pools):
            pool.sweep(self._limits)
