"""Requests of sessions whose endpoint is being replaced: they go to its successor, and may wait for
it. Two slots; the sessions are those of the first one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import pytest

from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.routing import waiting
from stickyproxy.routing.cluster import Cluster
from tests.conftest import MakeClient, MakeEndpoint, service
from tests.running import InProcessProxy
from tests.scripted import (
    RawClient,
    Response,
    ScriptedEndpoint,
    answering,
    get,
    ok,
    post,
)

LONG = 60.0
"""Longer than any of these tests takes."""


def held(
    peer: ScriptedEndpoint, slot: str, *, draining: bool = False, outdated: bool = False
) -> EndpointSpec:
    return EndpointSpec(peer.address, peer.address, draining, slot=slot, outdated=outdated)


def shop(
    *endpoints: EndpointSpec, coming: Sequence[str] = (), wait: float = LONG, **fields: Any
) -> ServiceSpec:
    asked = {"sticky_session_cookie": "session", "sticky_wait": wait} | fields
    return service(endpoints=endpoints, coming=tuple(coming), **asked)


class Shop:
    """The proxy, and what came of requests."""

    def __init__(self, proxy: InProcessProxy) -> None:
        self.proxy = proxy
        self.port = proxy.port
        self.finished: list[Exchange] = []
        proxy.app.proxy.on_finish = self.finished.append

    @property
    def affinities(self) -> list[str]:
        return [each.pick.affinity.value for each in self.finished if each.pick is not None]

    @property
    def cluster(self) -> Cluster:
        [cluster] = self.proxy.app.proxy.table.clusters()
        return cluster

    def publish(self, *endpoints: EndpointSpec, **fields: Any) -> None:
        self.proxy.set_services([shop(*endpoints, **fields)])

    async def until_waiting(self, count: int) -> None:
        """So many requests wait."""
        wanted = f"<WaitingRoom of {count}>"
        async with asyncio.timeout(10):
            while repr(self.cluster.waiting) != wanted:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)


class StartShop(Protocol):
    async def __call__(self, *endpoints: EndpointSpec, **fields: Any) -> Shop: ...


@pytest.fixture
async def start_shop() -> AsyncIterator[StartShop]:
    started: list[InProcessProxy] = []

    async def start(*endpoints: EndpointSpec, **fields: Any) -> Shop:
        started.append(proxy := InProcessProxy([shop(*endpoints, **fields)]))
        await proxy.start()
        return Shop(proxy)

    yield start
    for proxy in started:
        await proxy.stop()


async def asked(user: RawClient, cookie: str) -> Response:
    await user.send(get(cookie=cookie))
    return await user.response()


def pin(response: Response) -> str:
    """The cookie that it sets; empty: none."""
    return (response.header("set-cookie") or b"").decode().partition(";")[0]


async def session_at(user: RawClient, slot: bytes) -> str:
    """The cookie of a session that is new and at this endpoint."""
    for _ in range(4):
        response = await asked(user, "theme=dark")
        if response.body == slot:
            return pin(response)
    raise AssertionError("new sessions are not dealt by turns")


async def two(endpoint: MakeEndpoint) -> tuple[ScriptedEndpoint, ScriptedEndpoint]:
    return await endpoint(answering(ok(b"one"))), await endpoint(answering(ok(b"two")))


async def test_a_successor_has_the_sessions(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    one, other = await two(endpoint)
    successor = await endpoint(answering(ok(b"successor")))
    proxy = await start_shop(held(one, "1"), held(other, "2"))
    user = await client(proxy.port)
    cookie = await session_at(user, b"one")
    proxy.publish(held(one, "1", draining=True), held(successor, "1"), held(other, "2"))
    response = await asked(user, cookie)
    assert response.body == b"successor"
    assert pin(response)
    response = await asked(user, pin(response))
    assert (response.body, pin(response)) == (b"successor", "")
    assert proxy.affinities[-2:] == ["successor", "pinned"]


@pytest.mark.parametrize("data", [get, lambda **fields: post(b"x" * 300_000, **fields)])
async def test_who_waits_is_served_by_the_successor(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop, data: Any
) -> None:
    one, other = await two(endpoint)
    successor = await endpoint(answering(ok(b"successor")))
    proxy = await start_shop(held(one, "1"), held(other, "2"))
    cookie = await session_at(await client(proxy.port), b"one")
    proxy.publish(held(one, "1", draining=True), held(other, "2"), coming=["1"])
    users = [await client(proxy.port) for _ in range(waiting.AT_ONCE + 10)]
    for user in users:
        await user.send(data(cookie=cookie))
    await proxy.until_waiting(len(users))
    proxy.publish(held(other, "2"), coming=["1"])  # a change, but not the one
    proxy.publish(held(other, "2"), held(successor, "1"))
    for user in users:
        response = await user.response()
        assert (response.status, response.body) == (200, b"successor")
        assert pin(response)
    assert proxy.affinities[-len(users) :] == ["waited"] * len(users)
    await proxy.until_waiting(0)


async def test_who_has_waited_long_enough_is_a_guest_elsewhere(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    """And goes back when the slot is filled."""
    one, other = await two(endpoint)
    successor = await endpoint(answering(ok(b"successor")))
    proxy = await start_shop(held(one, "1"), held(other, "2"))
    user = await client(proxy.port)
    cookie = await session_at(user, b"one")
    proxy.publish(held(other, "2"), coming=["1"], wait=0.05)
    for _ in range(2):
        response = await asked(user, cookie)
        assert (response.body, pin(response)) == (b"two", "")
    proxy.publish(held(other, "2"), held(successor, "1"), wait=0.05)
    response = await asked(user, cookie)
    assert response.body == b"successor"
    assert proxy.affinities[-3:] == ["visit", "visit", "successor"]


async def test_waiting_is_turned_off(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    one, other = await two(endpoint)
    proxy = await start_shop(held(one, "1"), held(other, "2"), wait=0.0)
    user = await client(proxy.port)
    cookie = await session_at(user, b"one")
    proxy.publish(held(other, "2"), coming=["1"], wait=0.0)
    assert (await asked(user, cookie)).body == b"two"


async def test_not_everybody_may_wait(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    one, other = await two(endpoint)
    proxy = await start_shop(held(one, "1"), held(other, "2"))
    user = await client(proxy.port)
    cookie = await session_at(user, b"one")
    proxy.publish(held(other, "2"), coming=["1"])

    class Waiting:
        def resume(self) -> None:
            pass

    others = [Waiting() for _ in range(waiting.MOST)]
    for each in others:
        proxy.cluster.waiting.enter(each, LONG)
    response = await asked(user, cookie)
    assert (response.body, pin(response)) == (b"two", "")
    for each in others:
        proxy.cluster.waiting.leave(each)


async def test_where_there_is_nobody_else(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    """A service with one replica."""
    one, other = await two(endpoint)
    proxy = await start_shop(held(one, "1"))
    user, stranger = await client(proxy.port), await client(proxy.port)
    cookie = pin(await asked(user, "theme=dark"))
    proxy.publish(coming=["1"])
    await user.send(get(cookie=cookie))
    await proxy.until_waiting(1)
    assert (await asked(stranger, "theme=dark")).status == 503
    proxy.publish(held(other, "1"))
    response = await user.response()
    assert response.body == b"two"
    assert pin(response)


async def test_where_there_is_nobody_in_the_end(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    one, _ = await two(endpoint)
    proxy = await start_shop(held(one, "1"))
    user = await client(proxy.port)
    cookie = pin(await asked(user, "theme=dark"))
    proxy.publish(coming=["1"], wait=0.05)
    assert (await asked(user, cookie)).status == 503


async def test_the_only_one_does_not_listen_yet(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    one, _ = await two(endpoint)
    successor = await endpoint(answering(ok(b"successor")), listening=False)
    proxy = await start_shop(held(one, "1"))
    user = await client(proxy.port)
    cookie = pin(await asked(user, "theme=dark"))
    proxy.publish(held(successor, "1"))
    await user.send(get(cookie=cookie))
    await proxy.until_waiting(1)
    await successor.start()
    assert (await user.response()).body == b"successor"


async def test_who_leaves_does_not_wait(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    one, other = await two(endpoint)
    proxy = await start_shop(held(one, "1"), held(other, "2"))
    cookie = await session_at(await client(proxy.port), b"one")
    proxy.publish(held(other, "2"), coming=["1"])
    user = await client(proxy.port)
    await user.send(get(cookie=cookie))
    await proxy.until_waiting(1)
    user.abort()
    await proxy.until_waiting(0)
    assert [each.outcome.value for each in proxy.finished[-1:] if each.outcome] == ["client-gone"]


async def test_the_service_is_removed_meanwhile(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    one, other = await two(endpoint)
    proxy = await start_shop(held(one, "1"), held(other, "2"))
    user = await client(proxy.port)
    cookie = await session_at(user, b"one")
    proxy.publish(held(other, "2"), coming=["1"])
    await user.send(get(cookie=cookie))
    await proxy.until_waiting(1)
    proxy.proxy.set_services([])
    assert (await user.response()).status == 404


async def test_one_that_is_being_stopped_before_anybody_told(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    """It is about to be replaced, and refuses connections: its sessions wait instead of moving
    twice."""
    one, other = await two(endpoint)
    successor = await endpoint(answering(ok(b"successor")))
    proxy = await start_shop(held(one, "1", outdated=True), held(other, "2", outdated=True))
    user = await client(proxy.port)
    cookie = await session_at(user, b"one")
    await one.stop()
    await user.send(get(cookie=cookie))
    await proxy.until_waiting(1)
    proxy.publish(held(one, "1", draining=True), held(other, "2", outdated=True), coming=["1"])
    proxy.publish(held(successor, "1"), held(other, "2", outdated=True))
    response = await user.response()
    assert response.body == b"successor"
    assert pin(response)
    assert proxy.affinities[-1] == "waited"


async def test_a_successor_that_does_not_listen_yet(
    endpoint: MakeEndpoint, client: MakeClient, start_shop: StartShop
) -> None:
    """Docker calls a task without a HEALTHCHECK running before it listens."""
    one, other = await two(endpoint)
    successor = await endpoint(answering(ok(b"successor")), listening=False)
    proxy = await start_shop(held(one, "1"), held(other, "2"))
    users = [await client(proxy.port) for _ in range(50)]
    cookie = await session_at(users[0], b"one")
    proxy.publish(held(successor, "1"), held(other, "2"))
    for user in users:
        await user.send(get(cookie=cookie))
    await proxy.until_waiting(len(users))
    await successor.start()
    for user in users:
        response = await user.response()
        assert (response.status, response.body) == (200, b"successor")
        assert pin(response)


class TestOrder:
    async def test_they_are_called_as_they_came(self) -> None:
        room = waiting.WaitingRoom()
        called: list[int] = []
        done = asyncio.Event()

        class Waiting:
            def __init__(self, number: int) -> None:
                self.number = number

            def resume(self) -> None:
                called.append(self.number)
                if len(called) == 200:
                    done.set()

        for number in range(200):
            room.enter(Waiting(number), LONG)
        room.wake()
        room.wake()
        await done.wait()
        assert called == list(range(200))

    async def test_whose_time_is_over_already(self) -> None:
        """A timer for the past is another kind of object on some loops."""
        room = waiting.WaitingRoom()
        called: list[Waiting] = []
        done = asyncio.Event()

        class Waiting:
            def resume(self) -> None:
                called.append(self)
                if len(called) == 3:
                    done.set()

        for _ in range(3):
            room.enter(Waiting(), -1.0)
        await done.wait()
        assert repr(room) == "<WaitingRoom of 0>"

    async def test_whose_time_is_over_is_called(self) -> None:
        room = waiting.WaitingRoom()
        called: list[float] = []
        done = asyncio.Event()

        class Waiting:
            def __init__(self, seconds: float) -> None:
                self.seconds = seconds

            def resume(self) -> None:
                called.append(self.seconds)
                if len(called) == 3:
                    done.set()

        for seconds in (LONG, 0.02, 0.01, 0.03):
            room.enter(Waiting(seconds), seconds)
        await done.wait()
        assert sorted(called) == [0.01, 0.02, 0.03]
        assert repr(room) == "<WaitingRoom of 1>"
