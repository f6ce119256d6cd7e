"""dataplane/upstream/pool.py: connections to endpoints, over sockets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from stickyproxy.base.errors import ConnectError, UpstreamTimeout
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.connection import State, SweepLimits, UpstreamConnection
from stickyproxy.dataplane.upstream.pool import Pool, Upstreams
from stickyproxy.model.target import Target
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.semantics.response import ResponseHead
from tests.conftest import MakeEndpoint
from tests.scripted import TIMEOUT, EndpointConnection, get, ok


def sweeps(**limits: float) -> SweepLimits:
    """These, and no limit to anything else."""
    return SweepLimits(**(dict.fromkeys(SweepLimits.__slots__, math.inf) | limits))


NEVER = sweeps()


async def stay(conn: EndpointConnection) -> None:
    """Answer until the peer leaves."""
    while await conn.request() is not None:
        await conn.send(ok(b"hello"))


class Receiver:
    """Waits for the end of a response."""

    bodiless = False

    def __init__(self) -> None:
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def interim(self, head: ResponseHead) -> None:
        raise NotImplementedError

    def head(self, head: ResponseHead) -> None:
        """It is of no interest."""

    def data(self, data: bytes) -> None:
        """Nor is this."""

    def end(self) -> None:
        self.ended.set_result(None)

    def flush(self) -> None:
        """Nor this."""

    writable = flush

    def failed(self, error: Exception) -> None:
        self.ended.set_result(error)


MakeUpstreams = Callable[..., Upstreams]


@pytest.fixture
async def upstreams() -> AsyncIterator[MakeUpstreams]:
    """Makes what holds pools, with timeouts in seconds."""
    made: list[Upstreams] = []

    def make(**timeouts: float) -> Upstreams:
        seconds = dict.fromkeys(("connect", "response", "client", "idle"), 60.0) | timeouts
        each = Upstreams(
            **{f"{name}_timeout": seconds[name] for name in seconds},
            turns=Turns(),
            descriptors=Descriptors(),
            connectors="/nowhere",
            ca="",
        )
        made.append(each)
        return each

    yield make
    for each in made:
        each.close()


async def served(connection: UpstreamConnection) -> Exception | None:
    """Send a request and wait for the end of its response; what it failed with."""
    receiver = Receiver()
    connection.send_head(get(), receiver, body_follows=False)
    async with asyncio.timeout(TIMEOUT):
        return await receiver.ended


class TestTake:
    async def test_the_one_used_last(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        pool = upstreams().pool(Target((await endpoint(stay)).address))
        connections = [await pool.connect() for _ in range(3)]
        assert pool.take(replayable=True) is None  # whoever connects has the connection
        for connection in connections:
            assert await served(connection) is None
        assert repr(pool).endswith(" 3 idle of 3>")
        for connection in reversed(connections):
            assert pool.take(replayable=True) is connection
        assert pool.take(replayable=True) is None

    async def test_what_cannot_be_repeated_gets_none_that_was_idle(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        pool = upstreams().pool(Target((await endpoint(stay)).address))
        connection = await pool.connect()
        await served(connection)
        assert pool.take(replayable=False) is connection  # busy a moment ago
        pool.put(connection)
        pool.sweep(NEVER)
        assert pool.take(replayable=False) is None
        assert pool.take(replayable=True) is connection  # it was left where it was

    async def test_none_that_the_endpoint_closed(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        peer = await endpoint(stay)
        pool = upstreams().pool(Target(peer.address))
        connection = await pool.connect()
        await served(connection)
        await peer.stop()
        async with asyncio.timeout(TIMEOUT):
            while connection.state is not State.CLOSED:  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0)
        assert pool.take(replayable=True) is None
        assert repr(pool).endswith(" 0 idle of 0>")

    async def test_none_that_is_closing(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        pool = upstreams().pool(Target((await endpoint(stay)).address))
        first, second = await pool.connect(), await pool.connect()
        pool.put(first)
        pool.put(second)
        second.retire()
        assert pool.take(replayable=True) is first


class TestConnect:
    async def test_refused(self, endpoint: MakeEndpoint, upstreams: MakeUpstreams) -> None:
        peer = await endpoint(listening=False)
        with pytest.raises(ConnectError, match=peer.address):
            await upstreams().pool(Target(peer.address)).connect()

    async def test_no_such_socket(self, upstreams: MakeUpstreams, tmp_path: Path) -> None:
        with pytest.raises(ConnectError, match=r"none\.sock"):
            await upstreams().pool(Target(f"unix:{tmp_path}/none.sock")).connect()

    async def test_a_unix_socket(self, upstreams: MakeUpstreams, tmp_path: Path) -> None:
        path = f"{tmp_path}/app.sock"
        server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), path)
        async with server:
            connection = await upstreams().pool(Target(f"unix:{path}")).connect()
            assert repr(connection) == f"<UpstreamConnection unix:{path} idle idle_sweeps=0>"

    async def test_a_probe_leaves_its_connection(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        peer = await endpoint(stay)
        pool = upstreams().pool(Target(peer.address))
        await pool.probe()
        connection = pool.take(replayable=False)
        assert connection is not None
        assert await served(connection) is None
        assert peer.connections == 1


class TestBusy:
    """Until it is not, an endpoint that is to be empty is not."""

    async def test_also_while_connections_are_made(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        peer = await endpoint()
        pool = upstreams().pool(Target(peer.address))
        connecting = asyncio.create_task(pool.connect())
        await asyncio.sleep(0)  # it has begun
        assert (pool.open, pool.busy) == ((0, 0), 1)
        connection = await connecting
        assert pool.busy == 1
        pool.put(connection)
        assert pool.busy == 0

    async def test_not_after_one_that_failed(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        peer = await endpoint(listening=False)
        pool = upstreams().pool(Target(peer.address))
        with pytest.raises(ConnectError):
            await pool.connect()
        assert pool.busy == 0


class TestEnd:
    async def test_close(self, endpoint: MakeEndpoint, upstreams: MakeUpstreams) -> None:
        """Idle ones at once, busy ones when their exchange ends."""
        go_on = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            while await conn.request() is not None:
                await go_on.wait()
                await conn.send(ok(b"hello"))

        peer = await endpoint(script)
        pool = upstreams().pool(Target(peer.address))
        busy, idle = await pool.connect(), await pool.connect()
        pool.put(idle)
        receiver = Receiver()
        busy.send_head(get(), receiver, body_follows=False)
        await peer.wait_requests(1)
        pool.close()
        await peer.wait_open(1)
        assert (busy.state, idle.state) == (State.BUSY, State.CLOSED)
        go_on.set()
        assert await receiver.ended is None
        await peer.wait_open(0)

    async def test_connected_after_it_was_closed(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        """Its request is served, and watched: the pool is swept until its last connection ends."""
        peer = await endpoint(stay)
        holder = upstreams()
        pool = holder.pool(Target(peer.address))
        pool.close()
        connection = await pool.connect()
        assert await served(connection) is None
        await peer.wait_open(0)
        assert connection.state is State.CLOSED

    async def test_shed(self, endpoint: MakeEndpoint, upstreams: MakeUpstreams) -> None:
        """Idle ones of all pools, and those in use stay."""
        peers = [await endpoint(stay), await endpoint(stay)]
        holder = upstreams()
        pools = [holder.pool(Target(peer.address)) for peer in peers]
        for pool in pools:
            for connection in [await pool.connect() for _ in range(2)]:
                pool.put(connection)
        used = pools[0].take(replayable=True)
        assert used is not None
        for peer in peers:
            await peer.wait_connections(2)
        assert holder.shed() == 3
        assert holder.shed() == 0
        assert pools[0].take(replayable=True) is None
        await peers[0].wait_open(1)
        await peers[1].wait_open(0)
        assert await served(used) is None

    async def test_shed_when_descriptors_run_out(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        holder = upstreams()
        pool = holder.pool(Target((await endpoint(stay)).address))
        await pool.probe()
        assert holder.descriptors.make_room(OSError(24, "Too many open files"))
        assert pool.take(replayable=True) is None


class TestKeepIdle:
    async def test_closed_now_or_when_they_are_free(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        peer = await endpoint(stay)
        pool = upstreams().pool(Target(peer.address))
        busy, idle = await pool.connect(), await pool.connect()
        await served(idle)
        await peer.wait_connections(2)
        pool.keep_idle(False)
        await peer.wait_open(1)
        assert await served(busy) is None
        await peer.wait_open(0)
        assert repr(pool).endswith(" 0 idle of 0>")

    async def test_kept_again(self, endpoint: MakeEndpoint, upstreams: MakeUpstreams) -> None:
        pool = upstreams().pool(Target((await endpoint(stay)).address))
        pool.keep_idle(False)
        pool.keep_idle(True)
        await pool.probe()
        assert pool.take(replayable=True) is not None

    async def test_not_when_closed(self, endpoint: MakeEndpoint, upstreams: MakeUpstreams) -> None:
        peer = await endpoint(stay)
        pool = upstreams().pool(Target(peer.address))
        pool.close()
        pool.keep_idle(True)
        await pool.probe()
        assert pool.take(replayable=True) is None


class TestClocks:
    async def test_one_for_the_same_timeouts(self, upstreams: MakeUpstreams) -> None:
        holder = upstreams(response=30.0)
        common = holder.clock(None)
        assert holder.clock(Timeouts(response=30.0)) is common
        own = holder.clock(Timeouts(response=5.0))
        assert own is not common
        assert holder.clock(Timeouts(response=5.0, client=60.0)) is own

    async def test_a_pool_has_one(self, endpoint: MakeEndpoint, upstreams: MakeUpstreams) -> None:
        holder = upstreams()
        pool = holder.pool(Target((await endpoint(stay)).address))
        common, own = holder.clock(None), holder.clock(Timeouts(connect=7.0))
        assert (common.pools(), own.pools()) == ((pool,), ())
        pool.limit(Timeouts(connect=7.0))
        assert (common.pools(), own.pools()) == ((), (pool,))
        assert pool.retry_seconds == 35
        pool.limit(None)
        pool.close()
        assert (common.pools(), own.pools()) == ((), ())


class TestSweep:
    async def test_idle_ones_are_closed(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        peer = await endpoint(stay)
        pool = upstreams().pool(Target(peer.address))
        await pool.probe()
        await peer.wait_connections(1)
        limits = sweeps(idle=3, response=1, client=1)
        for _ in range(3):
            pool.sweep(limits)
        assert len(peer.open) == 1
        pool.sweep(limits)
        await peer.wait_open(0)

    async def test_silent_ones_fail(self, endpoint: MakeEndpoint, upstreams: MakeUpstreams) -> None:
        async def silent(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.eof()

        peer = await endpoint(silent)
        pool = upstreams().pool(Target(peer.address))
        connection, receiver = await pool.connect(), Receiver()
        connection.send_head(get(), receiver, body_follows=False)
        limits = sweeps(idle=1, response=3, client=1)
        for _ in range(3):
            pool.sweep(limits)
        assert not receiver.ended.done()
        pool.sweep(limits)
        assert isinstance(await receiver.ended, UpstreamTimeout)
        await peer.wait_open(0)

    async def test_goes_on_by_itself(
        self, endpoint: MakeEndpoint, upstreams: MakeUpstreams
    ) -> None:
        peer = await endpoint(stay)
        holder = upstreams(idle=0.08)
        holder.start()
        await holder.pool(Target(peer.address)).probe()
        await peer.wait_connections(1)
        await peer.wait_open(0)


async def test_a_response_nobody_asked_for(
    endpoint: MakeEndpoint, upstreams: MakeUpstreams
) -> None:
    """RFC 9112 section 9.2: whatever it is, the next request must not get it."""

    async def eager(conn: EndpointConnection) -> None:
        await conn.send(ok(b"unasked"))
        await conn.eof()

    peer = await endpoint(eager)
    pool: Pool = upstreams().pool(Target(peer.address))
    await pool.probe()
    await peer.wait_connections(1)
    await peer.wait_open(0)
    assert pool.take(replayable=True) is None
