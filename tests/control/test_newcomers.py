"""control/newcomers.py: endpoints are tried before there is traffic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stickyproxy.model.tls import UpstreamTls
from tests.cli.test_main import TIMEOUT, asked, programs
from tests.cli.test_main import service as table
from tests.conftest import MakeEndpoint, StartProxy, service
from tests.control.test_health import dump, eventually
from tests.running import InProcessProxy
from tests.runtime.test_readiness import Site
from tests.scripted import EndpointConnection, get, respond


async def in_the_clear(conn: EndpointConnection) -> None:
    """Respond to a handshake as a server does that speaks no TLS."""
    await conn.send(respond("400 Bad Request", ("Content-Length", "0")))
    await conn.eof()


async def becomes(state: Callable[[], Awaitable[str]], wanted: str) -> None:
    """Ask until it is that; TimeoutError if it never is."""
    async with asyncio.timeout(TIMEOUT):
        while await state() != wanted:
            pass


class TestNewcomers:
    async def test_one_of_several_is_taken_out_until_it_listens(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        good, bad = await endpoint(), await endpoint(listening=False)
        proxy = await start_proxy([service(good, bad)], probe_new_endpoints=True)
        await eventually(lambda: f"{bad.address} down" in dump(proxy))
        assert f"{good.address} down" not in dump(proxy)
        await bad.start()
        await eventually(lambda: " down" not in dump(proxy))
        assert good.requests == bad.requests == []

    async def test_the_only_one_stays_in_use(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        only = await endpoint(listening=False)
        proxy = await start_proxy([service(only)], probe_new_endpoints=True)
        assert isinstance(proxy, InProcessProxy)
        [cluster] = proxy.app.proxy.table.clusters()
        [live] = cluster.endpoints
        await eventually(lambda: live.unreached)
        assert " down" not in dump(proxy)
        await only.start()
        await eventually(lambda: live.has_connected and not live.unreached)

    async def test_the_log_says_what_is_wrong_with_its_tls(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The only one is never taken out, so nothing else would say it before a client comes."""
        only = await endpoint(in_the_clear)
        encrypted = service(only, tls=UpstreamTls())
        proxy = await start_proxy([encrypted], probe_new_endpoints=True)
        assert isinstance(proxy, InProcessProxy)
        [cluster] = proxy.app.proxy.table.clusters()
        [live] = cluster.endpoints
        await eventually(lambda: live.unreached)
        said = f"service demo: {only.address}: no TLS: it speaks HTTP in the clear"
        assert said in caplog.messages

    async def test_what_leaves_is_tried_no_more(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        only = await endpoint(listening=False)
        proxy = await start_proxy([service(only)], probe_new_endpoints=True)
        assert isinstance(proxy, InProcessProxy)
        [cluster] = proxy.app.proxy.table.clusters()
        [live] = cluster.endpoints
        await eventually(lambda: live.unreached)
        proxy.set_services([])
        await eventually(lambda: not live.unreached)

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_it_shows_without_traffic(
        self, endpoint: MakeEndpoint, tmp_path: Path, workers: int
    ) -> None:
        only = await endpoint(listening=False)
        site = Site(tmp_path, table("shop", [only.address]), workers=workers)
        text = site.config.read_text().replace("probe_new_endpoints = false", "")
        site.config.write_text(text)
        async with programs() as start:
            program = await start("serve", "--config", site.config)
            port = await program.listening()

            async def state() -> str:
                [row] = json.loads((await site.services("--json"))[1])
                return str(row["endpoints"][0]["state"])

            await becomes(state, "not reachable")
            assert (await asked(port, get(host="shop.local"))).status == 502
            await only.start()
            await becomes(state, "usable")
            await program.stop()
