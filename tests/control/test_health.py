"""Endpoints that cannot be connected to: out after two failures in a row, back when they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, islice

from stickyproxy.control import health
from tests.conftest import MakeClient, MakeEndpoint, StartProxy, service
from tests.running import InProcessProxy
from tests.scripted import answering, get, ok


async def eventually(holds: Callable[[], bool]) -> None:
    """Look until it holds; TimeoutError if it does not."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)


def dump(proxy: object) -> str:
    assert isinstance(proxy, InProcessProxy)
    return proxy.app.proxy.table.dump()


class TestEjection:
    async def test_two_failures_take_it_out_and_a_probe_brings_it_back(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        good = await endpoint(answering(ok(b"good")))
        bad = await endpoint(answering(ok(b"bad")), listening=False)
        proxy = await start_proxy([service(good, bad)])
        user = await client(proxy.port)
        seen = []
        for _ in range(6):
            await user.send(get())
            answer = await user.response()
            assert answer.body == b"good"
            seen.append((answer.header("x-upstream-addr") or b"").count(b","))
        assert sum(seen) == health.FAILURES
        assert f"{bad.address} down" in dump(proxy)

        await bad.start()
        await eventually(lambda: " down" not in dump(proxy))
        bodies = set()
        for _ in range(2):
            await user.send(get())
            bodies.add((await user.response()).body)
        assert bodies == {b"good", b"bad"}

    async def test_the_last_usable_one_stays(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        bad = await endpoint(listening=False)
        proxy = await start_proxy([service(bad)])
        user = await client(proxy.port)
        for _ in range(3):
            await user.send(get())
            assert (await user.response()).status == 502
        assert " down" not in dump(proxy)
        await bad.start()
        await user.send(get())
        assert (await user.response()).status == 200

    async def test_what_has_never_listened_is_probed_more_often_at_first(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        good, starting = await endpoint(), await endpoint(listening=False)
        proxy = await start_proxy([service(good, starting)])
        assert isinstance(proxy, InProcessProxy)
        [cluster] = proxy.app.proxy.table.clusters()
        user = await client(proxy.port)

        for _ in range(2 * health.FAILURES):
            await user.send(get())
            await user.response()
        assert [each.has_connected for each in cluster.endpoints].count(False) == 1
        assert " down" in dump(proxy)
        await starting.start()
        await eventually(lambda: " down" not in dump(proxy))
        assert all(each.has_connected for each in cluster.endpoints)

    async def test_one_that_is_down_and_begins_to_drain_stays_down_until_it_connects(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        good, bad = await endpoint(), await endpoint(listening=False)
        declared = service(good, bad)
        proxy = await start_proxy([declared])
        user = await client(proxy.port)
        for _ in range(2 * health.FAILURES):
            await user.send(get())
            await user.response()
        assert f"{bad.address} down" in dump(proxy)

        leaving = tuple(
            replace(each, draining=each.address == bad.address) for each in declared.endpoints
        )
        proxy.set_services([replace(declared, endpoints=leaving)])
        assert f"{bad.address} down" in dump(proxy)
        await bad.start()
        await eventually(lambda: f"{bad.address} draining" in dump(proxy))

    def test_pauses_of_probes(self) -> None:
        usual = list(islice(health.pauses(starting=False), 8))
        assert usual == [0.25, 0.5, 1, 2, 4, 5, 5, 5]
        first = list(islice(health.pauses(starting=True), 60))
        assert first[:5] == [0.1, 0.2, 0.4, 0.8, 1]
        early = [pause for pause, since in zip(first, accumulate(first), strict=True) if since < 30]
        assert max(early) == 1
        assert first[-1] == 5, "it is not to come any more"

    async def test_what_leaves_the_table_is_not_probed_on(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        good, bad = await endpoint(), await endpoint(listening=False)
        proxy = await start_proxy([service(good, bad)])
        user = await client(proxy.port)
        for _ in range(4):
            await user.send(get())
            await user.response()
        assert " down" in dump(proxy)
        proxy.set_services([service(good)])
        await eventually(
            lambda: not any(task.get_name().startswith("probe") for task in asyncio.all_tasks())
        )


class TestNobodyIsUsable:
    async def test_the_last_one_that_is_left_is_tried_though_it_was_ejected(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        good, bad = await endpoint(), await endpoint(listening=False)
        proxy = await start_proxy([service(good, bad)])
        user = await client(proxy.port)
        for _ in range(2 * health.FAILURES):
            await user.send(get())
            await user.response()
        assert f"{bad.address} down" in dump(proxy)
        proxy.set_services([service(bad)])
        await user.send(get())
        assert (await user.response()).status == 502, "503 would say that nobody was asked"
