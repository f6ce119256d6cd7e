"""How many connections there may be: in the clear, over TLS, behind other proxies."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.dataplane.downstream.limits import (
    TOO_MANY,
    TOO_MANY_OF_CLIENT,
    ConnectionLimits,
)
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.tls import ListenerTls
from stickyproxy.semantics.forwarded import TrustedProxies
from tests.certificates import client_context, make_ca, make_certificate
from tests.conftest import Behind, MakeClient, MakeEndpoint, StartProxy, service
from tests.running import InProcessProxy
from tests.scripted import RawClient, get
from tests.tls import TlsClient

CA = make_ca()
DEMO = make_certificate(["demo.local"], CA, name="demo")
HOME = (ip_network("127.0.0.1/32"),)


def limits_of(proxy: object) -> ConnectionLimits:
    assert isinstance(proxy, InProcessProxy)
    limits = proxy.app._server._limits
    assert limits is not None
    return limits


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def served(user: RawClient) -> bool:
    """Whether a request on this connection is."""
    await user.send(get())
    response = await user.response()
    if response.status == 200:
        return True
    assert response.status == 503
    assert response.header("retry-after") == b"1"
    assert response.body == b"too many connections\n"
    assert response.closes
    await user.closed()
    return False


async def test_in_all(behind: Behind, client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "stickyproxy")
    proxy, _ = await behind(max_connections=2)
    users = [await client(proxy.port) for _ in range(2)]
    assert [await served(user) for user in users] == [True, True]
    assert not await served(await client(proxy.port, local="127.0.0.2"))
    assert [record.getMessage() for record in caplog.records] == [
        f"a connection of 127.0.0.2 was closed: {TOO_MANY}"
    ]
    users[0].close()
    await until(lambda: len(limits_of(proxy)) == 1)
    assert await served(await client(proxy.port))
    assert await served(users[1])


async def test_of_each_client(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(max_connections_per_client=2)
    users = [await client(proxy.port) for _ in range(2)]
    assert [await served(user) for user in users] == [True, True]
    assert not await served(await client(proxy.port))
    other = await client(proxy.port, local="127.0.0.2")
    assert await served(other)
    users.pop().close()
    await until(lambda: len(limits_of(proxy)) == 2)
    assert await served(await client(proxy.port))


async def test_none_by_default(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind()
    assert isinstance(proxy, InProcessProxy)
    assert proxy.app._server._limits is None


async def test_a_trusted_proxy_has_many_clients(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(max_connections_per_client=1, max_connections=4, trusted_proxies=HOME)
    users = [await client(proxy.port) for _ in range(4)]
    assert [await served(user) for user in users] == [True] * 4
    assert not await served(await client(proxy.port))


async def test_whom_a_header_of_the_proxy_protocol_names(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    spec = ListenerSpec(Address("127.0.0.1", 0), proxy_protocol=True)
    proxy = await start_proxy(
        [service(await endpoint())],
        listeners=[spec],
        trusted_proxies=HOME,
        max_connections_per_client=1,
    )

    async def connect(address: str) -> RawClient:
        user = await client(proxy.port)
        await user.send(b"PROXY TCP4 %b 198.51.100.1 56324 80\r\n" % address.encode())
        return user

    first = await connect("192.0.2.1")
    assert await served(first)
    assert not await served(await connect("192.0.2.1"))
    assert await served(await connect("192.0.2.2"))
    first.close()
    await until(lambda: len(limits_of(proxy)) == 1)
    assert await served(await connect("192.0.2.1"))


async def test_over_tls(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    """Also those that never begin a handshake."""
    tls = ListenerSpec(Address("127.0.0.1", 0), tls=ListenerTls())
    proxy = await start_proxy(
        [service(await endpoint())], listeners=[tls], certificates=[DEMO], max_connections=2
    )
    silent = await client(proxy.port)
    user = await TlsClient.over(await client(proxy.port), client_context(CA))
    await user.send(get())
    assert (await user.response()).status == 200
    refused = await client(proxy.port)
    assert await refused.read_until_eof() == bytes((21, 3, 3, 0, 2, 2, 80))
    silent.close()
    await until(lambda: len(limits_of(proxy)) == 1)
    again = await TlsClient.over(await client(proxy.port), client_context(CA))
    await again.send(get())
    assert (await again.response()).status == 200
    again.close()
    user.close()
    await until(lambda: not len(limits_of(proxy)))


def test_of_an_address() -> None:
    """IPv6: of each /64. A unix socket has none."""
    limits = ConnectionLimits(TrustedProxies(), in_all=None, per_client=1)
    sockets = [socket.socket() for _ in range(6)]
    addresses = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "", "", "192.0.2.1")
    said = [limits.refuses(*each) for each in zip(sockets, addresses, strict=True)]
    assert said == ["", TOO_MANY_OF_CLIENT, "", "", "", ""]
    assert len(limits) == 5
    for each in sockets:
        each.close()
    del sockets[:], each
    assert len(limits) == 0
    assert not limits._of_client
