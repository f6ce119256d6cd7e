"""Endpoints that are being stopped, over sockets: what becomes of their sessions, connections and
requests under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stickyproxy.model.service import Drain, ServiceSpec
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.scripted import (
    EndpointConnection,
    Response,
    ScriptedEndpoint,
    get,
    ok,
    post,
    request,
    respond,
)

UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "websocket"))


def draining(spec: ServiceSpec, *leaving: ScriptedEndpoint) -> ServiceSpec:
    """The service while these endpoints are being stopped."""
    addresses = {peer.address for peer in leaving}
    endpoints = [replace(each, draining=each.address in addresses) for each in spec.endpoints]
    return replace(spec, endpoints=tuple(endpoints))


def sticky(*peers: ScriptedEndpoint, **fields: object) -> ServiceSpec:
    return service(*peers, sticky_session_cookie="session", **fields)


async def asked(client: MakeClient, proxy: RunningProxy, data: bytes) -> Response:
    user = await client(proxy.port)
    await user.send(data)
    return await user.response()


def address(response: Response) -> bytes:
    assert response.status == 200, response
    return response.header("x-upstream-addr") or b""


async def session_at(peer: ScriptedEndpoint, client: MakeClient, proxy: RunningProxy) -> str:
    """The cookie of a session at that endpoint."""
    for _ in range(4):
        response = await asked(client, proxy, get())
        if address(response) == peer.address.encode():
            return (response.header("set-cookie") or b"").partition(b";")[0].decode()
    raise AssertionError(f"no session at {peer}")


async def telling(conn: EndpointConnection) -> None:
    """Answer, and tell when the connection is closed between two requests."""
    while await conn.request() is not None:
        await conn.send(ok())
    conn.tell("closed")


@pytest.mark.parametrize("data", [get, lambda **fields: post(b"x", **fields)], ids=["GET", "POST"])
@pytest.mark.parametrize("drain", [None, "none", "safe", "sticky"])
async def test_sessions(
    endpoint: MakeEndpoint,
    start_proxy: StartProxy,
    client: MakeClient,
    drain: Drain | None,
    data: Callable[..., bytes],
) -> None:
    a, b = await endpoint(), await endpoint()
    spec = sticky(a, b) if drain is None else sticky(a, b, drain=drain)
    proxy = await start_proxy([spec])
    cookie = await session_at(a, client, proxy)
    proxy.set_services([draining(spec, a)])
    response = await asked(client, proxy, data(Cookie=cookie))
    if drain == "sticky" or (drain == "safe" and data is get):
        assert address(response) == a.address.encode()
        assert response.header("set-cookie") is None
    else:
        assert address(response) == b.address.encode()
        moved = (response.header("set-cookie") or b"").partition(b";")[0].decode()
        assert moved.startswith("session=sp1.")
        again = await asked(client, proxy, get(Cookie=moved))
        assert (address(again), again.header("set-cookie")) == (b.address.encode(), None)


async def test_rather_than_nobody(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    a, b = await endpoint(), await endpoint()
    spec = sticky(a, b)
    proxy = await start_proxy([spec])
    cookie = await session_at(a, client, proxy)
    proxy.set_services([draining(spec, a, b)])
    for data in (get(Cookie=cookie), post(b"x", Cookie=cookie)):
        response = await asked(client, proxy, data)
        assert address(response) == a.address.encode()
        assert response.header("set-cookie") is None
    await asked(client, proxy, get())


async def test_rather_than_one_that_does_not_listen_yet(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    """A task of a rolling update counts as running before it listens."""
    old, new = await endpoint(), await endpoint(listening=False)
    proxy = await start_proxy([sticky(old)])
    cookie = await session_at(old, client, proxy)
    proxy.set_services([draining(sticky(old, new), old)])
    for data in (get(), post(b"x"), get(Cookie=cookie), post(b"x", Cookie=cookie)):
        response = await asked(client, proxy, data)
        assert address(response).endswith(old.address.encode())
    await new.start()
    response = await asked(client, proxy, post(b"x", Cookie=cookie))
    assert address(response) == new.address.encode()


async def test_idle_connections_are_closed_at_once(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    """What a server that stops gracefully waits for."""
    a, b = await endpoint(telling), await endpoint()
    spec = sticky(a, b)
    proxy = await start_proxy([spec], upstream_idle_timeout=3600.0)
    await session_at(a, client, proxy)
    proxy.set_services([draining(spec, a)])
    assert await a.told() == "closed"


async def test_none_is_kept_any_more(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    """A request under way goes on; then its connection is closed. So is one that was made for want
    of another endpoint."""

    async def script(conn: EndpointConnection) -> None:
        assert await conn.request() is not None
        conn.tell("asked")
        await conn.send(respond("200 OK", ("Content-Length", "10"), body=b"12345"))
        await proceed.wait_requests(conn.number)
        await conn.send(b"67890")
        await conn.eof()
        conn.tell("closed")

    proceed = await endpoint()
    a = await endpoint(script)
    spec = sticky(a)
    go = service(proceed, name="go", hosts=("go.local",))
    proxy = await start_proxy([spec, go], upstream_idle_timeout=3600.0)
    for count in (1, 2):
        user = await client(proxy.port)
        await user.send(get())
        assert await a.told() == "asked"
        proxy.set_services([draining(spec, a), go])
        await asked(client, proxy, get(host="go.local"))
        assert a.connections == count
        assert (await user.response()).body == b"1234567890"
        assert await a.told() == "closed"


async def test_sticky_keeps_connections(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    a, b = await endpoint(telling), await endpoint()
    spec = sticky(a, b, drain="sticky")
    proxy = await start_proxy([spec], upstream_idle_timeout=3600.0)
    cookie = await session_at(a, client, proxy)
    proxy.set_services([draining(spec, a)])
    for _ in range(3):
        assert address(await asked(client, proxy, get(Cookie=cookie))) == a.address.encode()
    assert a.connections == 1


async def test_tunnels_go_on(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    async def switch(conn: EndpointConnection) -> None:
        await conn.request()
        await conn.send(respond("101 Switching Protocols", *UPGRADE))
        await conn.send(b"heard " + await conn.read(5))

    a, b = await endpoint(switch), await endpoint()
    spec = sticky(a)
    proxy = await start_proxy([spec])
    user = await client(proxy.port)
    await user.send(request("GET", "/", ("Host", "demo.local"), *UPGRADE))
    assert (await user.response_head()).status == 101
    proxy.set_services([draining(sticky(a, b), a)])
    await user.send(b"hello")
    assert await user.read(11) == b"heard hello"
    assert await user.closed() == "eof"
