"""Fairness: how much of one connection is handled in one turn of the loop, counted.

``Turn`` counts the turns of the loop. What is handled is noted with the turn in which that was, so
that nothing here depends on how fast anything is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack

import pytest

from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane.chunked import CHUNKS_PER_TURN
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.downstream.heads import Limits
from stickyproxy.dataplane.downstream.ports import ClientStream
from stickyproxy.dataplane.downstream.server import ClientServer
from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.dataplane.turns import PER_TURN, Turns
from stickyproxy.dataplane.upstream.pool import Upstreams
from stickyproxy.model.target import Target
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.response import ResponseHead
from tests.conftest import MakeEndpoint, hello, service
from tests.running import InProcessProxy
from tests.scripted import (
    TIMEOUT,
    EndpointConnection,
    RawClient,
    chunk,
    chunked,
    get,
    request,
    respond,
)

CROWD = pytest.mark.parametrize("attackers", [1, 60])
CHUNKED = ("Transfer-Encoding", "chunked")


class Turn:
    """Which turn of the loop it is, and what was handled in which."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.number = 0
        self.handled: dict[object, Counter[int]] = {}
        """By whose it was: how much in which turn."""
        self._news = asyncio.Event()
        self._handle = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()

    def note(self, whose: object, much: int = 1) -> None:
        """So much of this one's was handled now."""
        self.handled.setdefault(whose, Counter())[self.number] += much
        self._news.set()

    async def until(self, total: int) -> None:
        """Until so much was handled in all."""
        async with asyncio.timeout(6 * TIMEOUT):
            while self.total() < total:
                self._news.clear()
                await self._news.wait()

    def total(self) -> int:
        return sum(counter.total() for counter in self.handled.values())

    def most_of_one(self) -> int:
        """The most that was handled of one in a turn."""
        return max(max(counter.values()) for counter in self.handled.values())

    def by_turn(self) -> list[int]:
        """How much was handled in each turn from the first to the last."""
        all_of_them = sum(self.handled.values(), Counter[int]())
        return [all_of_them[n] for n in range(min(all_of_them), max(all_of_them) + 1)]


@pytest.fixture
async def turn() -> AsyncIterator[Turn]:
    """Counts from now on."""
    made = Turn()
    yield made
    made.stop()


def windows(counts: list[int], size: int) -> Iterable[int]:
    """Sums of so many turns on end."""
    return (sum(counts[at : at + size]) for at in range(max(1, len(counts) - size + 1)))


class TestRequests:
    """Issue 7 row 2: pipelined requests without pause."""

    @CROWD
    @pytest.mark.parametrize("host", ["other.local", "demo.local"], ids=["local", "forwarded"])
    async def test_pipelined(
        self, endpoint: MakeEndpoint, turn: Turn, host: str, attackers: int
    ) -> None:
        """One request of each at a time, of all together no more than a few in a turn. The first
        of a read needs not wait, and one may come just behind the last that waited."""
        each = 1200 // attackers
        proxy = InProcessProxy([service(await endpoint(hello))])
        await proxy.start()

        def note(exchange: Exchange) -> None:
            turn.note(exchange.stream.peer)

        proxy.app.proxy.on_finish = note
        try:
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(await RawClient.connect(proxy.port))
                    for _ in range(attackers)
                ]
                for user in clients:
                    await user.send(get(host=host) * each)
                await turn.until(attackers * each)
        finally:
            await proxy.stop()
        assert len(turn.handled) == attackers
        assert turn.most_of_one() <= 2
        if host == "other.local":
            for handled in windows(turn.by_turn(), 10):
                assert handled <= 10 * PER_TURN + 2 * attackers

    async def test_others_wait_for_a_few_only(self, endpoint: MakeEndpoint, turn: Turn) -> None:
        """While 60 send as fast as they can, another's request is answered after a few turns."""
        attackers, each = 60, 100
        proxy = InProcessProxy([service(await endpoint(hello))])
        await proxy.start()
        try:
            async with AsyncExitStack() as stack:

                async def client() -> RawClient:
                    return await stack.enter_async_context(await RawClient.connect(proxy.port))

                clients = [await client() for _ in range(attackers)]
                victim = await client()
                proxy.app.proxy.on_finish = lambda exchange: turn.note(exchange.stream.peer)
                for user in clients:
                    await user.send(get(host="other.local") * each)
                await turn.until(2 * attackers)
                before = turn.total()
                await victim.send(get(host="other.local"))
                assert (await victim.response()).status == 404
                assert turn.total() - before <= 1 + 2 * attackers + 20 * PER_TURN
                assert turn.total() < attackers * each
        finally:
            await proxy.stop()


class Uploads:
    """Takes bodies and counts what comes of them in which turn."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def serve(self, stream: ClientStream) -> Upload:
        return Upload(stream, self._turn)

    def refuse(self, _stream: ClientStream, error: BadRequest) -> None:
        raise AssertionError(error)


class Upload:
    """Implements ``ports.StreamHandler``."""

    def __init__(self, stream: ClientStream, turn: Turn) -> None:
        self._stream, self._turn = stream, turn

    def begin(self) -> None:
        if self._stream.body_length:
            self._stream.start_body()
        else:
            self.body_ended()

    def body(self, data: bytes) -> None:
        self._turn.note(self._stream.peer, len(data))

    def body_ended(self) -> None:
        self._stream.send_head(200, b"OK", [b"Content-Length: 0"], 0)
        self._stream.end()

    def body_failed(self, error: BadRequest) -> None:
        raise AssertionError(error)

    def client_lost(self) -> None:
        """It has what it wanted."""

    client_slow = client_ready = client_lost


LIMITS = Limits(
    max_head=32768,
    max_head_line=8190,
    max_headers=128,
    head_timeout=60,
    keepalive_timeout=60,
    client_timeout=60,
)


class TestUploads:
    """Issue 7 row 6: bodies in chunks of a byte."""

    @CROWD
    async def test_in_small_chunks(self, turn: Turn, attackers: int) -> None:
        size = 60_000 // attackers
        uploads = Uploads(turn)
        clients = ClientServer(
            uploads.serve,
            uploads.refuse,
            LIMITS,
            TrustedProxies((), unix=False),
            turns=Turns(),
            descriptors=Descriptors(),
        )
        loop = asyncio.get_running_loop()
        server = await loop.create_server(clients, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        head = request("POST", "/", ("Host", "x"), CHUNKED)
        body = chunked(*[b"x"] * size)

        async def attack(user: RawClient) -> None:
            await user.send(head + body)
            assert (await user.response()).status == 200

        try:
            async with AsyncExitStack() as stack:
                users = [
                    await stack.enter_async_context(await RawClient.connect(port))
                    for _ in range(attackers)
                ]
                await asyncio.gather(*map(attack, users))
        finally:
            server.close()
            await clients.drain()
        assert turn.total() == attackers * size
        assert turn.most_of_one() <= 2 * CHUNKS_PER_TURN
        for handled in windows(turn.by_turn(), 10):
            assert handled <= (10 * PER_TURN + 2 * attackers) * CHUNKS_PER_TURN

    async def test_that_nobody_wants(self, endpoint: MakeEndpoint, turn: Turn) -> None:
        """What is thrown away takes its turns, too: the next request waits for them."""
        proxy = InProcessProxy([service(await endpoint(hello))])
        await proxy.start()
        size = 30_000
        turns: list[int] = []
        proxy.app.proxy.on_finish = lambda _: turns.append(turn.number)
        try:
            async with await RawClient.connect(proxy.port) as user:
                head = request("POST", "/", ("Host", "other.local"), CHUNKED)
                sending = asyncio.create_task(
                    user.send(head + chunked(*[b"x"] * size) + get(host="other.local"))
                )
                assert [(await user.response()).status for _ in range(2)] == [404, 404]
                await sending
        finally:
            await proxy.stop()
        assert turns[1] - turns[0] >= size // CHUNKS_PER_TURN // 2


class Download:
    """Counts what comes of a response in which turn. Implements ``upstream.http1.Receiver``."""

    bodiless = False

    def __init__(self, turn: Turn, done: Callable[[], None]) -> None:
        self._turn = turn
        self._done = done
        self.flushes = 0

    def interim(self, head: ResponseHead) -> None:
        self._turn.note(self, 1)

    def head(self, head: ResponseHead) -> None:
        """It is of no interest."""

    def data(self, data: bytes) -> None:
        self._turn.note(self, len(data))

    def end(self) -> None:
        self._done()

    def flush(self) -> None:
        self.flushes += 1

    def writable(self) -> None:
        """There is nothing to send."""

    def failed(self, error: Exception) -> None:
        raise AssertionError(error)


class TestDownloads:
    """Issue 7 row 5: responses in chunks of a byte."""

    @CROWD
    async def test_in_small_chunks(
        self, endpoint: MakeEndpoint, turn: Turn, attackers: int
    ) -> None:
        size = 60_000 // attackers
        answer = respond("200 OK", CHUNKED, body=chunk(b"x") * size + b"0\r\n\r\n")

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(answer)
            await conn.eof()

        peer = await endpoint(script)
        upstreams = Upstreams(
            connect_timeout=10,
            response_timeout=60,
            client_timeout=60,
            idle_timeout=60,
            turns=Turns(),
            descriptors=Descriptors(),
            connectors="/nowhere",
            ca="",
        )
        pool = upstreams.pool(Target(peer.address))
        ended = asyncio.Event()
        left = attackers

        def done() -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.set()

        receivers = [Download(turn, done) for _ in range(attackers)]
        connections = [await pool.connect() for _ in range(attackers)]
        for connection, receiver in zip(connections, receivers, strict=True):
            connection.send_head(get(), receiver, body_follows=False)
        async with asyncio.timeout(6 * TIMEOUT):
            await ended.wait()
        upstreams.close()
        await peer.wait_open(0)
        assert turn.total() == attackers * size
        assert turn.most_of_one() <= 2 * CHUNKS_PER_TURN
        for handled in windows(turn.by_turn(), 10):
            assert handled <= (10 * PER_TURN + 2 * attackers) * CHUNKS_PER_TURN
        # What a turn brings is passed on once, and not chunk by chunk.
        assert sum(receiver.flushes for receiver in receivers) <= 2 * attackers * (
            size // CHUNKS_PER_TURN + 3
        )
