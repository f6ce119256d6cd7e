"""What is limited is limited in all workers together."""

from __future__ import annotations

from tests.cli.test_main import service
from tests.conftest import MakeEndpoint
from tests.runtime.test_supervisor import Proxies, proxies, start
from tests.scripted import RawClient, get

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
