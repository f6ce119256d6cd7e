"""DATA PLANE: connections to endpoints, kept for the next request.

Upstreams   all pools of the process
Clock       its sweep is the only timer that pools with the same timeouts have
Pool        the connections to one target
"""

from __future__ import annotations

import asyncio
import errno
import math
from weakref import WeakValueDictionary

from stickyproxy.base.addresses import split_host_port
from stickyproxy.base.errors import ConnectError, HandshakeError, OutOfResources
from stickyproxy.connector.client import Connectors
from stickyproxy.dataplane.descriptors import EXHAUSTED, Descriptors
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.connection import SweepLimits, UpstreamConnection
from stickyproxy.dataplane.upstream.tls import Contexts, Identity, TlsLayer
from stickyproxy.model.target import Target
from stickyproxy.model.timeouts import Timeouts

# Errors of connecting that mean a lack of resources here, not a fault of the endpoint.
_OURS = (*EXHAUSTED, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)

RETRY_CONNECTS = 5
"""A request is tried again for as long as so many connects in vain may take."""


class Pool:
    """The connections to one target. The idle one used last is reused first, so that a pool
    that has become too large for its load shrinks from the other end."""

    def __init__(self, upstreams: Upstreams, target: Target) -> None:
        self.target = target
        self.turns = upstreams.turns
        self._upstreams = upstreams
        self._identity = upstreams.identity(target)
        self._clock = upstreams.clock(None)
        self._clock.add(self)
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._outworn: set[UpstreamConnection] = set()
        """Busy ones that serve no further request: see ``renew``."""
        self._connecting = 0
        """How many are being made, each for a request."""
        self._keeps_idle = True
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {self.address} {len(self._idle)} idle of {len(self._all)}>"

    @property
    def address(self) -> str:
        """The target's, for messages."""
        return self.target.address

    @property
    def open(self) -> tuple[int, int]:
        """How many of its connections are busy, and how many idle."""
        idle = len(self._idle)
        return len(self._all) - idle, idle

    @property
    def retry_seconds(self) -> float:
        """A request older than this is not tried on another endpoint."""
        return RETRY_CONNECTS * self._clock.connect_timeout

    @property
    def busy(self) -> int:
        """Connections with a request under way, also those that are being made, or upgraded."""
        return len(self._all) - len(self._idle) + self._connecting

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
        address, timeout = self.address, self._clock.connect_timeout
        self._connecting += 1
        try:
            connection = await self._open(timeout)
        except TimeoutError as error:
            raise ConnectError(f"{address} accepted no connection within {timeout:g} s") from error
        except OSError as error:
            if error.errno in _OURS:
                raise OutOfResources(f"no connection to {address}: {error.strerror}") from error
            raise ConnectError(f"{address}: {error.strerror or error}") from error
        finally:
            self._connecting -= 1
        connection.expect_signs_of_life(timeout)
        self._all.add(connection)
        self._clock.add(self)  # closed and emptied while we were connecting: still swept
        return connection

    async def _open(self, seconds: float) -> UpstreamConnection:
        """Raises OSError, and what connectors raise."""
        open_once = self._open_through if self.target.network else self._open_here
        try:
            return await open_once(seconds)
        except (OSError, OutOfResources) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not (isinstance(cause, OSError) and self._upstreams.descriptors.make_room(cause)):
                raise
        await asyncio.sleep(0)
        return await open_once(seconds)

    async def _open_here(self, seconds: float) -> UpstreamConnection:
        loop, address = asyncio.get_running_loop(), self.address
        deadline = loop.time() + seconds
        connection, protocol = self._begin()
        async with asyncio.timeout_at(deadline):
            if address.startswith("unix:"):
                path = address.removeprefix("unix:")
                await loop.create_unix_connection(lambda: protocol, path)
            else:
                await loop.create_connection(lambda: protocol, *_host_and_port(address))
        if isinstance(protocol, TlsLayer):
            await self._shake_hands(protocol, deadline)
        return connection

    async def _open_through(self, seconds: float) -> UpstreamConnection:
        """By the connector of the target's network, which keeps to the time itself: its silence
        is not the endpoint's."""
        loop, connectors = asyncio.get_running_loop(), self._upstreams.connectors
        deadline = loop.time() + seconds
        sock = await connectors.connect(self.target.network, *_host_and_port(self.address), seconds)
        connection, protocol = self._begin()
        await loop.create_connection(lambda: protocol, sock=sock)
        if isinstance(protocol, TlsLayer):
            await self._shake_hands(protocol, deadline)
        return connection

    def _begin(self) -> tuple[UpstreamConnection, asyncio.Protocol]:
        """A connection, and what is to be connected for it: itself, or what speaks TLS for it."""
        connection = UpstreamConnection(self)
        if self._identity is None:
            return connection, connection
        return connection, TlsLayer(connection, self._identity)

    async def _shake_hands(self, layer: TlsLayer, deadline: float) -> None:
        """Raises HandshakeError."""
        seconds = self._clock.connect_timeout
        try:
            async with asyncio.timeout_at(deadline):
                await layer.handshake()
        except TimeoutError as error:
            reason = f"it accepted the connection, but the handshake took longer than {seconds:g} s"
            raise HandshakeError(self.address, reason) from error

    async def probe(self) -> None:
        """Make a connection and keep it for a request. Raises ConnectError."""
        self.put(await self.connect())

    def put(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is fit for another exchange."""
        if self._keeps_idle and connection not in self._outworn:
            self._idle.append(connection)
        else:
            connection.retire()

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is lost."""
        self._all.discard(connection)
        self._outworn.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closed and not self._all:
            self._clock.remove(self)

    def limit(self, timeouts: Timeouts | None) -> None:
        """See ``routing.endpoint.Connections``. Sweeps that were counted before stay counted."""
        clock = self._upstreams.clock(timeouts)
        if clock is not self._clock:
            self._clock.remove(self)
            self._clock = clock
            clock.add(self)

    def keep_idle(self, keep: bool) -> None:
        """See ``routing.endpoint.Connections``."""
        self._keeps_idle = keep and not self._closed
        if not keep:
            for connection in self._idle:
                connection.retire()
            self._idle.clear()

    def renew(self) -> None:
        """Close idle connections now, and those that are busy when their exchange ends. The next
        ones are new."""
        for connection in self._idle:
            connection.retire()
        self._idle.clear()
        self._outworn = set(self._all)

    def close(self) -> None:
        """Close idle connections now, and busy ones when their exchange ends."""
        self._closed = True
        self.keep_idle(False)
        if not self._all:
            self._clock.remove(self)

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


class Clock:
    """Sweeps the pools of those services that have the same timeouts, and is the only timer that
    they have. It stands still while there is none."""

    def __init__(self, timeouts: Timeouts, idle_timeout: float) -> None:
        """``timeouts``: of these, only ``response_idle`` and ``upgrade_idle`` may be None."""
        assert timeouts.connect is not None
        assert timeouts.response is not None
        assert timeouts.client is not None
        self.connect_timeout = timeouts.connect
        self.started = False
        self._pools: set[Pool] = set()
        self._timer: asyncio.TimerHandle | None = None
        response_idle = timeouts.response_idle or timeouts.response
        tunnel = timeouts.upgrade_idle or math.inf
        limited = (timeouts.response, response_idle, timeouts.client, idle_timeout, tunnel)
        interval = self._interval = max(0.02, min(1.0, min(limited) / 4))

        def sweeps(seconds: float) -> float:
            return math.ceil(seconds / interval) if seconds < math.inf else math.inf

        self._limits = SweepLimits(
            idle=sweeps(idle_timeout),
            response=sweeps(timeouts.response),
            response_idle=sweeps(response_idle),
            events=sweeps(timeouts.response_idle or math.inf),
            client=sweeps(timeouts.client),
            tunnel=sweeps(tunnel),
        )

    def add(self, pool: Pool) -> None:
        """The pool has connections to sweep."""
        self._pools.add(pool)
        if self.started and self._timer is None:
            self._wind()

    def remove(self, pool: Pool) -> None:
        """The pool has another clock, or is closed and its last connection gone."""
        self._pools.discard(pool)

    def pools(self) -> tuple[Pool, ...]:
        """Those that it sweeps."""
        return tuple(self._pools)

    def start(self) -> None:
        """Start sweeping."""
        self.started = True
        if self._pools:
            self._wind()

    def stop(self) -> None:
        """Stop sweeping."""
        self.started = False
        if self._timer is not None:
            self._timer.cancel()

    def _wind(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        if self.started and self._pools:
            self._wind()  # first: one that raises must not end the time of all others
        for pool in self.pools():
            pool.sweep(self._limits)


class Upstreams:
    """All pools of the process, and the clocks of their timeouts (seconds)."""

    def __init__(
        self,
        *,
        connect_timeout: float,
        response_timeout: float,
        client_timeout: float,
        idle_timeout: float,
        turns: Turns,
        descriptors: Descriptors,
        response_idle_timeout: float | None = None,
        upgrade_idle_timeout: float | None = None,
        connectors: str,
        ca: str,
    ) -> None:
        """``connectors``: the directory where they have their sockets. ``ca``: see ``Contexts``."""
        self.turns = turns
        self.descriptors = descriptors
        descriptors.may_shed(self.shed)
        self.connectors = Connectors(connectors, self._renew)
        self._contexts = Contexts(ca)
        self._timeouts = Timeouts(
            connect=connect_timeout,
            response=response_timeout,
            response_idle=response_idle_timeout,
            client=client_timeout,
            upgrade_idle=upgrade_idle_timeout,
        )
        self._idle_timeout = idle_timeout
        self._started = False
        self._clocks: WeakValueDictionary[Timeouts, Clock] = WeakValueDictionary()
        """By the timeouts that they count; held by the pools that they sweep."""

    def pool(self, target: Target) -> Pool:
        """A new pool; the endpoint's owner closes it."""
        return Pool(self, target)

    def identity(self, target: Target) -> Identity | None:
        """Whom TLS expects there; None: it is spoken to in the clear."""
        return None if target.tls is None else Identity(self._contexts, target, self.turns)

    def clock(self, own: Timeouts | None) -> Clock:
        """The clock for a service with these timeouts of its own."""
        timeouts = self._timeouts if own is None else own.over(self._timeouts)
        clock = self._clocks.get(timeouts)
        if clock is None:
            clock = self._clocks[timeouts] = Clock(timeouts, self._idle_timeout)
            clock.started = self._started
        return clock

    def _renew(self, network: str) -> None:
        """A connector of that network is about to end."""
        for clock in list(self._clocks.values()):
            for pool in clock.pools():
                if pool.target.network == network:
                    pool.renew()

    def shed(self) -> int:
        """Close idle connections, for lack of file descriptors; returns how many."""
        return sum(pool.shed() for clock in self._clocks.values() for pool in clock.pools())

    def start(self) -> None:
        """Start sweeping."""
        self._started = True
        for clock in list(self._clocks.values()):
            clock.start()

    def close(self) -> None:
        """Stop sweeping and close every pool."""
        self._started = False
        for clock in list(self._clocks.values()):
            clock.stop()
            for pool in clock.pools():
                pool.close()
        self.connectors.close()


def _host_and_port(address: str) -> tuple[str, int]:
    host, port = split_host_port(address)
    return host.strip("[]"), port
