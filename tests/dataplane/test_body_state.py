"""Bodies of requests whose endpoint does something else meanwhile: it goes away, or answers before
it has taken them."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from stickyproxy.model.service import EndpointSpec
from tests.conftest import Behind, MakeClient, StartProxy
from tests.scripted import (
    TIMEOUT,
    EndpointConnection,
    RawClient,
    Truncated,
    Wire,
    chunked,
    get,
    ok,
    post,
    request,
)
from tests.specs import service_spec

PIECE = 200_000
"""Bytes that the proxy takes in one read."""


async def round_trip(client: RawClient) -> None:
    """A request that is answered by the proxy itself: what was sent before has been read then."""
    await client.send(get(host="unknown.local"))
    assert (await client.response()).status == 404


class Busy:
    """A listening socket whose backlog is full: connecting to it takes until it is emptied."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(0)
        self.sock.setblocking(False)
        self.address = "127.0.0.1:{1}".format(*self.sock.getsockname())
        self._fillers: list[socket.socket] = []

    async def accept(self) -> Wire:
        async with asyncio.timeout(TIMEOUT):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        return Wire(sock, "accepted")

    def fill(self) -> None:
        """Linux queues one more than the backlog."""
        for _ in range(2):
            filler = socket.socket()
            self._fillers.append(filler)
            filler.setblocking(False)
            filler.connect_ex(self.sock.getsockname())

    async def empty(self) -> Wire:
        """The first connection that is none of the fillers."""
        ports = {filler.getsockname()[1] for filler in self._fillers}
        while True:
            wire = await self.accept()
            if wire.sock.getpeername()[1] not in ports:
                return wire
            wire.close()

    def close(self) -> None:
        for sock in (self.sock, *self._fillers):
            sock.close()


@pytest.mark.parametrize(
    ("field", "body"),
    [
        (("Content-Length", "5"), b"hello"),
        (("Transfer-Encoding", "chunked"), chunked(b"hello")),
    ],
    ids=["length", "chunked"],
)
async def test_what_comes_while_the_endpoint_is_asked_anew_is_sent(
    start_proxy: StartProxy, client: MakeClient, field: tuple[str, str], body: bytes
) -> None:
    """Dropped, the head would announce a body that never follows: the endpoint would take the next
    client's request for it, or store an empty one."""
    with contextlib.closing(Busy()) as busy:
        spec = EndpointSpec("endpoint", busy.address)
        proxy = await start_proxy([service_spec("demo", ("demo.local",), (spec,))])
        user, other = await client(proxy.port), await client(proxy.port)
        await user.send(get())
        async with await busy.accept() as first:
            await first._read_head()
            await first.send(ok())
            await user.response()
            busy.fill()
            await user.send(request("PUT", "/", ("Host", "demo.local"), field))
            await first._read_head()
        await round_trip(other)  # it is being connected to now
        await user.send(body)
        await round_trip(other)
        async with await busy.empty() as second:
            await second._read_head()
            assert await second.read(len(body)) == body
            await second.send(ok(b"stored"))
            assert (await user.response()).body == b"stored"


async def test_an_answer_before_the_body_was_taken_does_not_stop_the_next_body(
    behind: Behind, client: MakeClient
) -> None:
    """For one of these lengths it is the last piece that the endpoint does not keep up with. It
    goes away then, and never tells that it does again."""

    async def hasty(conn: EndpointConnection) -> None:
        head = await conn.head()
        if head is not None and head.target == b"/hasty":
            await conn.endpoint.told()
            await conn.send(ok())
            await conn.endpoint.told()
            conn.abort()
        elif head is not None:
            while await conn.body_some():
                pass
            await conn.send(ok())

    proxy, peer = await behind(hasty)
    other = await client(proxy.port)
    for count in range(4, 60):
        async with await RawClient.connect(proxy.port) as user:
            await user.send(post(bytes(count * PIECE), "/hasty")[: -count * PIECE])
            for _ in range(count):
                await user.send(bytes(PIECE))
                await round_trip(other)
            peer._tell("answer")
            await user.response("POST")
            peer._tell("go away")
            await peer.wait_open(0)
            await round_trip(other)
            try:
                await user.send(post(bytes(2 * PIECE))[:-PIECE])
                await round_trip(other)
                await user.send(bytes(PIECE))
                assert (await user.response("POST")).status == 200
            except (ConnectionError, Truncated):
                return  # too much of the body was left: the connection was not kept
