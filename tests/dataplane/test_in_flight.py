"""How many requests an endpoint has at a time, and who waits for it."""

from __future__ import annotations

import asyncio

from stickyproxy.model.terms import InFlight, Terms
from tests.conftest import Behind, MakeClient, MakeEndpoint, StartProxy, service
from tests.scripted import EndpointConnection, get, ok


def one(queue: int = 10, patience: float = 60.0) -> Terms:
    return Terms(in_flight=InFlight(most=1, queue=queue, patience=patience))


class Held:
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, conn: EndpointConnection) -> None:
        while await conn.request() is not None:
            await self.go.wait()
            await conn.send(ok(b"done"))


async def test_the_next_one_waits(behind: Behind, client: MakeClient) -> None:
    held = Held()
    proxy, peer = await behind(held, terms=one())
    first, second = await client(proxy.port), await client(proxy.port)
    await first.send(get("/1"))
    await peer.wait_requests(1)
    await second.send(get("/2"))
    held.go.set()
    assert (await first.response()).status == 200
    assert (await second.response()).status == 200
    assert [each.target for each in peer.requests] == [b"/1", b"/2"]
    assert peer.connections == 1


async def test_there_is_no_room_to_wait(behind: Behind, client: MakeClient) -> None:
    held = Held()
    proxy, peer = await behind(held, terms=one(queue=0))
    first, second = await client(proxy.port), await client(proxy.port)
    await first.send(get())
    await peer.wait_requests(1)
    await second.send(get())
    response = await second.response()
    assert (response.status, response.header("retry-after")) == (503, b"1")
    assert response.body == b"service demo has too many requests\n"
    held.go.set()
    assert (await first.response()).status == 200
    await second.send(get())
    assert (await second.response()).status == 200


async def test_who_has_waited_too_long(behind: Behind, client: MakeClient) -> None:
    held = Held()
    proxy, peer = await behind(held, terms=one(patience=0.05))
    first, second = await client(proxy.port), await client(proxy.port)
    await first.send(get())
    await peer.wait_requests(1)
    await second.send(get())
    assert (await second.response()).status == 503
    held.go.set()
    assert (await first.response()).status == 200
    await second.send(get())
    assert (await second.response()).status == 200


async def test_who_leaves_makes_room(behind: Behind, client: MakeClient) -> None:
    """Whether it was served or waited."""
    held = Held()
    proxy, peer = await behind(held, terms=one())
    served, waiting, last = [await client(proxy.port) for _ in range(3)]
    await served.send(get("/1"))
    await peer.wait_requests(1)
    await waiting.send(get("/2"))
    waiting.abort()
    served.abort()
    held.go.set()
    await last.send(get("/3"))
    assert (await last.response()).status == 200


async def test_an_attempt_that_failed_makes_room(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    gone, peer = await endpoint(), await endpoint()
    await gone.stop()
    proxy = await start_proxy([service(gone, peer, terms=one(queue=0))])
    connection = await client(proxy.port)
    for _ in range(5):
        await connection.send(get())
        assert (await connection.response()).status == 200


async def test_what_holds_changes_with_the_service(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    held = Held()
    peer = await endpoint(held)
    proxy = await start_proxy([service(peer, terms=one(queue=0))])
    first, second = await client(proxy.port), await client(proxy.port)
    await first.send(get())
    await peer.wait_requests(1)
    two = Terms(in_flight=InFlight(most=2, queue=0, patience=60.0))
    proxy.set_services([service(peer, terms=two)])
    await second.send(get())
    await peer.wait_requests(2)
    proxy.set_services([service(peer)])
    held.go.set()
    assert (await first.response()).status == 200
    assert (await second.response()).status == 200
