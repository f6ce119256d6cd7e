"""A controller tells of all its proxies, and drains for all of them: two proxies, each of several
processes, that follow one controller; real sockets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from stickyproxy.admin import fleet
from stickyproxy.admin.access import Access
from stickyproxy.base.addresses import Address
from stickyproxy.base.token_tls import server_context
from stickyproxy.control.controller import Controller
from stickyproxy.control.orders import Orders
from stickyproxy.control.server import ControlServer
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.snapshot import Snapshot
from tests.cli.test_main import Program, StartProgram, document, programs
from tests.conftest import MakeEndpoint
from tests.runtime.test_draining_under_load import Visitor, says
from tests.specs import service_spec

TOKEN = b"s3cret"
NAMES = (b"one", b"two", b"three")
CLIENTS = 12
REQUESTS = 15


class Site:
    """A controller, and two proxies that follow it."""

    def __init__(self, start: StartProgram, folder: Path) -> None:
        self.start = start
        self.folder = folder
        self.controller = Controller(TOKEN)
        self.orders = Orders(
            self.controller.publish, folder / "orders.json", self.controller.delivered
        )
        app: web.Application = self.controller.make_app()
        access = Access(Address("127.0.0.1", 0), TOKEN, reading=True)
        fleet.add_routes(app, self.controller.fleet, self.orders, access, self.controller.snapshots)
        self._server = ControlServer(app, server_context(TOKEN))
        self.port = 0
        self.proxies: list[Program] = []

    async def begin(self) -> list[int]:
        """Everybody listens; returns the ports of the proxies."""
        await self.listen()
        table = (
            f"[providers.controller]\nurl = 'https://127.0.0.1:{self.port}'\n"
            f"token = '{TOKEN.decode()}'\n"
        )
        ports = []
        for number in (1, 2):
            config = self.folder / f"proxy{number}.toml"
            admin = f"[admin]\naddress = 'unix:{self.folder}/{number}.sock'\n"
            config.write_text(document(table, admin, workers=2))
            self.proxies.append(await self.start("serve", "--config", config))
            ports.append(await self.proxies[-1].listening())
        return ports

    async def listen(self) -> None:
        """The controller does."""
        bound = await self._server.start(Address("127.0.0.1", 0))
        self.port = int(bound.rpartition(":")[2])

    async def end(self) -> None:
        for proxy in self.proxies:
            await proxy.stop()
        await self._server.stop()

    async def operator(self, *words: str) -> tuple[int, str]:
        """Exit status and output of a command for the controller."""
        token = self.folder / "token"
        token.write_bytes(TOKEN + b"\n")
        to = ("--admin", f"127.0.0.1:{self.port}", "--token-file", token)
        program = await self.start(*words, *to)
        return await program.ended(), program.out.text + program.err.text

    async def told(self, path: str, enough: Callable[[Any], object]) -> Any:
        """What the controller tells, as soon as it is enough."""
        shown = {"Authorization": f"Bearer {TOKEN.decode()}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with asyncio.timeout(60), aiohttp.ClientSession(headers=shown) as session:
            while True:
                async with session.get(url) as response:
                    assert response.status == 200, await response.text()
                    found = json.loads(await response.text())
                if enough(found):
                    return found
                await asyncio.sleep(0.05)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with programs() as start:
        site = Site(start, tmp_path)
        yield site
        await site.end()


async def test_it_drains_for_all(site: Site, endpoint: MakeEndpoint) -> None:
    peers = [await endpoint(says(name, own_session=False)) for name in NAMES]
    specs = tuple(
        EndpointSpec(f"task{number}", peer.address, slot=str(number))
        for number, peer in enumerate(peers, 1)
    )
    shop = service_spec("shop", ("shop.local",), specs, sticky_session_cookie="session")
    site.orders.publish(Snapshot("swarm", (shop,), realm="realm"))
    ports = await site.begin()

    begun, drains, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ready: Counter[bytes] = Counter()
    later: Counter[bytes] = Counter()
    moved: list[list[bytes]] = []

    async def client() -> None:
        visitor = Visitor(*ports)
        home = await visitor.ask()
        ready[home] += 1
        if ready.total() == CLIENTS:
            begun.set()
        while not drains.is_set():
            await visitor.ask()
        for _ in range(REQUESTS):
            await visitor.ask()
        if set(visitor.seen) != {home}:
            moved.append(visitor.seen)
        while not over.is_set():
            later[await Visitor(*ports).ask()] += 1

    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(client())
        await begun.wait()
        status, said = await site.operator("drain", "shop/3")
        assert status == 0, said
        drains.set()
        status, said = await site.operator("drain", "shop/3", "--wait", "--idle=1s", "--timeout=1m")
        assert status == 0, said
        assert said.splitlines()[-1] == "shop/task3: drain, 1 endpoint, empty"
        had = len(peers[2].requests)
        await peers[2].stop()
        over.set()
    assert not moved
    assert ready[b"three"] > 0
    assert set(later) <= {b"one", b"two"}
    assert len(peers[2].requests) == had >= ready[b"three"] * REQUESTS


async def test_top_shows_what_it_tells(site: Site) -> None:
    await site.listen()
    services = (service_spec("demo", ("demo.local",), (EndpointSpec("a", "127.0.0.1:1"),)),)
    site.controller.publish(Snapshot("swarm", services))
    status, said = await site.operator("top", "--json")
    assert status == 0, said
    assert [row["name"] for row in json.loads(said)["services"]] == ["demo"]
    status, said = await site.operator("top")
    assert status == 0, said
    assert "127.0.0.1:1" in said


async def test_it_tells_of_all(site: Site, endpoint: MakeEndpoint) -> None:
    peers = [await endpoint(says(name, own_session=False)) for name in NAMES[:2]]
    specs = tuple(EndpointSpec(peer.address, peer.address) for peer in peers)
    shop = service_spec("shop", ("shop.local",), specs, sticky_session_cookie="session")
    site.orders.publish(Snapshot("swarm", (shop,), realm="realm"))
    ports = await site.begin()

    over = asyncio.Event()

    async def client(port: int) -> None:
        while not over.is_set():
            await Visitor(port).ask()

    def all_told(service: Any) -> bool:
        figures = [each["figures"] for each in (service, *service["endpoints"])]
        return all(each and each["requests_per_second"] > 0 for each in figures)

    async with asyncio.TaskGroup() as tasks:
        for port in ports:
            tasks.create_task(client(port))
        found = await site.told("/v1/services/shop", all_told)
        over.set()
    assert (found["name"], found["policy"]) == ("shop", "cookie session, else round robin")
    assert [each["id"] for each in found["endpoints"]] == [each.id for each in specs]
    status, said = await site.operator("maintenance", "shop/1")
    assert status == 0, said
    found = await site.told("/v1/endpoints", lambda _: True)
    assert [each["admin_state"] for each in found["endpoints"]] == ["maintenance", "ready"]
    found = await site.told("/v1/proxies", lambda _: True)
    assert len(found["proxies"]) == 2


@pytest.mark.parametrize("path", ["/v1/services", "/v1/endpoints", "/v1/proxies", "/v1/services/a"])
async def test_nobody_is_told_without_the_token(site: Site, path: str) -> None:
    await site.listen()
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{site.port}{path}") as response,
    ):
        assert response.status == 401
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{site.port}/v1/report", json={}) as response,
    ):
        assert response.status == 401
