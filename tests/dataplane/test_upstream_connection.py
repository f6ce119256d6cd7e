"""One connection to an endpoint, driven over a socket pair by a receiver that stutters."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any

from stickyproxy.dataplane.turns import MUCH, Turns
from stickyproxy.dataplane.upstream.connection import SweepLimits, UpstreamConnection
from stickyproxy.semantics.response import ResponseHead

ONES = b"1\r\nx\r\n" * 100
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Home:
    """A pool that keeps nothing."""

    address = "endpoint"

    def __init__(self) -> None:
        self.turns = Turns()
        self.lost = asyncio.Event()

    def put(self, connection: UpstreamConnection) -> None: ...

    def forget(self, connection: UpstreamConnection) -> None:
        self.lost.set()


class Stuttering:
    """A receiver whose client is slow for no longer than a moment, again and again."""

    bodiless = False

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        self.size = 0
        self.whole = asyncio.get_running_loop().create_future()

    def interim(self, head: ResponseHead) -> None: ...

    def head(self, head: ResponseHead) -> None: ...

    def writable(self) -> None: ...

    def data(self, data: bytes) -> None:
        self.size += len(data)

    def flush(self) -> None:
        self._connection.pause_reading()
        asyncio.get_running_loop().call_soon(self._connection.resume_reading)

    def failed(self, error: Exception) -> None:
        self.whole.set_exception(error)

    def end(self) -> None:
        """The connection gets the next request at once."""
        self._connection.send_head(b"next", self, body_follows=False)
        if not self.whole.done():
            self.whole.set_result(self.size)


async def test_a_client_that_stutters_gives_its_connection_no_more_than_one_turn() -> None:
    """Many others wait in line. Every resume added a turn, and those left over came when the
    connection had another request."""
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    home = Home()
    turns = home.turns

    def other() -> None:
        if not receiver.whole.done():
            turns.wait(other)

    ours, theirs = socket.socketpair()
    with theirs:
        transport, connection = await loop.create_connection(
            lambda: UpstreamConnection(home), sock=ours
        )
        receiver = Stuttering(connection)
        connection.send_head(b"first", receiver, body_follows=False)
        for _ in range(64):
            turns.wait(other)
        theirs.sendall(CHUNKED + ONES * 20 + b"0\r\n\r\n")
        async with asyncio.timeout(10):
            assert await receiver.whole == 2000
        for _ in range(100):
            await asyncio.sleep(0)
        transport.abort()
    assert not faults


class Tunnel:
    """One whose client has gone."""

    def from_upstream(self, data: bytes) -> None: ...

    def upstream_ended(self) -> bool:
        return False

    def upstream_lost(self) -> None: ...

    def failed(self, error: Exception) -> None: ...

    def pause_client(self) -> None: ...

    def resume_client(self) -> None: ...


async def test_a_closed_tunnel_does_not_wait_for_ever_for_an_endpoint_that_takes_nothing() -> None:
    """Not even if what it has not taken is too little to count as not keeping up."""
    home = Home()
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with theirs:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: UpstreamConnection(home), sock=ours
        )
        connection.switch(Tunnel())
        connection.send_body(bytes(60_000))
        await asyncio.sleep(0)
        assert not connection.writing_paused
        connection.close()
        limits = SweepLimits(
            idle=1, response=3, response_idle=3, events=math.inf, client=1, tunnel=math.inf
        )
        for _ in range(3):
            connection.sweep(limits)
        await asyncio.sleep(0)
        assert not home.lost.is_set()  # it may still take the rest
        connection.sweep(limits)
        async with asyncio.timeout(1):
            await home.lost.wait()


async def test_a_tunnel_takes_a_share_of_a_turn() -> None:
    """Who has much to say would be read on and on, and others would wait."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: UpstreamConnection(Home()), sock=ours
        )
        connection.switch(Tunnel())
        connection.data_received(bytes(MUCH))
        assert transport.is_reading()
        connection.data_received(bytes(MUCH + 1))
        assert not transport.is_reading()
        connection.pause_reading()  # the client is slow, too
        connection.resume_reading()
        assert not transport.is_reading()
        await asyncio.sleep(0)
        assert transport.is_reading()
        transport.abort()
