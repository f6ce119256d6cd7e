"""What is limited is limited in all workers together."""

from __future__ import annotations

import os
import signal

from tests.cli.test_main import service
from tests.conftest import MakeEndpoint
from tests.runtime.test_supervisor import TAKES_PLACE, Proxies, proxies, start
from tests.scripted import EndpointConnection, RawClient, get, ok

__all__ = ["proxies", "start"]  # fixtures


async def test_rates(proxies: Proxies, endpoint: MakeEndpoint) -> None:
    peer = await endpoint()
    proxy = await proxies(
        service("demo", [peer.address], "allow_from = ['127.0.0.0/8']"),
        service("shop", [peer.address], 'rate_limit = "10/h"'),
    )
    users = [user for [user, *_] in (await proxy.users()).values()]
    assert len(users) == 2
    statuses = []
    for turn in range(20):
        user = users[turn % 2]
        await user.send(get(host="shop.local"))
        statuses.append((await user.response()).status)
    assert statuses == [200] * 10 + [429] * 10


async def test_connections(proxies: Proxies, endpoint: MakeEndpoint) -> None:
    """Whichever worker accepts one, and however many it has itself."""
    peer = await endpoint()
    proxy = await proxies(
        service("demo", [peer.address]), proxy=["max_connections_per_client = 12"]
    )
    open_: list[RawClient] = []
    try:
        for number in range(30):
            user = await RawClient.connect(proxy.port)
            open_.append(user)
            await user.send(get())
            status = (await user.response()).status
            assert status == (200 if number < 12 else 503)
        other = await RawClient.connect(proxy.port, local="127.0.0.2")
        open_.append(other)
        await other.send(get())
        assert (await other.response()).status == 200
    finally:
        for user in open_:
            user.close()


async def test_what_a_worker_had_in_flight_ends_with_it(
    proxies: Proxies, endpoint: MakeEndpoint
) -> None:
    """Also if its successor has nothing to do yet."""

    async def holds(conn: EndpointConnection) -> None:
        while (request := await conn.request()) is not None:
            if request.target != b"/held":
                await conn.send(ok(b"done"))

    peer = await endpoint(holds)
    proxy = await proxies(service("demo", [peer.address], "max_in_flight = 1", "max_queue = 0"))
    (victim, [first, *_]), (_, [second, *_]) = (await proxy.users()).items()
    begun = len(peer.requests)
    await first.send(get("/held"))
    await peer.wait_requests(begun + 1)
    await second.send(get())
    assert (await second.response()).status == 503
    os.kill(victim, signal.SIGKILL)
    await proxy.program.err.says(TAKES_PLACE)
    await second.send(get())
    assert (await second.response()).status == 200
