"""admin/upkeep.py: what the admin listener and a controller's say and do about ``admin_state``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from stickyproxy.admin import upkeep
from stickyproxy.admin.access import Access
from stickyproxy.base.addresses import Address
from stickyproxy.config import codec
from stickyproxy.control.controller import Controller
from stickyproxy.control.orders import Orders
from stickyproxy.control.server import ControlServer
from stickyproxy.model.service import EndpointKey, EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.sessions import Remains, Sessions
from tests.specs import service_spec

SHOP = ServiceSpec(
    "shop",
    ("shop.local",),
    (EndpointSpec("one", "10.0.0.1:80", node="alpha"), EndpointSpec("two", "10.0.0.2:80")),
)
PATH = "/v1/admin_state"
TOKEN = b"s3cret"
SHOWN = {"Authorization": "Bearer s3cret"}


class Site:
    """An admin listener on 127.0.0.1 and its client."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self.url = f"http://127.0.0.1:{port}{PATH}"

    async def get(
        self, fields: Mapping[str, str] | None = None, **query: str
    ) -> tuple[int, dict[str, Any]]:
        async with self._session.get(self.url, params=query, headers=fields) as answer:
            return answer.status, await answer.json()

    async def post(self, target: str, state: str, **fields: str) -> tuple[int, dict[str, Any]]:
        body = {"target": target, "admin_state": state}
        async with self._session.post(self.url, json=body, headers=fields) as answer:
            return answer.status, await answer.json()

    async def post_text(self, text: str, kind: str = "application/json") -> int:
        fields = {"Content-Type": kind}
        async with self._session.post(self.url, data=text, headers=fields) as answer:
            return answer.status


@pytest.fixture
def left() -> dict[EndpointKey, Remains]:
    """What there is on endpoints."""
    return {}


@pytest.fixture
def orders() -> Orders:
    orders = Orders(lambda _: None)
    orders.publish(Snapshot("static", (SHOP,)))
    return orders


@pytest.fixture
async def site(orders: Orders, left: dict[EndpointKey, Remains]) -> AsyncIterator[Site]:
    app = web.Application()
    upkeep.add_routes(app, orders, Access(Address("127.0.0.1", 0)), left.get)
    async for each in served(ControlServer(app)):
        yield each


async def served(server: ControlServer) -> AsyncIterator[Site]:
    bound = await server.start(Address("127.0.0.1", 0))
    async with aiohttp.ClientSession() as session:
        yield Site(session, int(bound.rpartition(":")[2]))
    await server.stop()


class TestAdminState:
    async def test_there_and_back(self, site: Site) -> None:
        status, found = await site.post("shop/1", "drain")
        assert status == 200
        assert (found["target"], found["admin_state"]) == ("shop/one", "drain")
        assert found["notes"] == [
            "a restart forgets it: name a file that keeps it as state_file in [admin], or for a "
            "controller in [controller]"
        ]
        assert found["endpoints"] == [
            {
                "service": "shop",
                "id": "one",
                "address": "10.0.0.1:80",
                "node": "alpha",
                "admin_state": "drain",
                "sessions": None,
                "busy": None,
                "quiet": None,
                "empty": False,
            }
        ]
        await site.post("node:alpha", "maintenance")
        held = [
            {"target": "shop/one", "admin_state": "drain"},
            {"target": "node:alpha", "admin_state": "maintenance"},
        ]
        assert await site.get() == (200, {"orders": held})
        status, found = await site.post("shop/one", "ready")
        assert [each["admin_state"] for each in found["endpoints"]] == ["maintenance"]
        assert (await site.get())[1] == {"orders": held[1:]}

    async def test_what_is_left(self, site: Site, left: dict[EndpointKey, Remains]) -> None:
        await site.post("shop/one", "drain")
        sessions = Sessions(began=0.0)
        left["shop", "one"] = Remains(sessions, 0)
        _, found = await site.get(target="shop/one", idle="60")
        [row] = found["endpoints"]
        assert (row["sessions"], row["busy"], row["empty"]) == (0, 0, True)
        left["shop", "one"] = Remains(sessions, 2)
        [row] = (await site.get(target="shop/one", idle="60"))[1]["endpoints"]
        assert (row["busy"], row["empty"]) == (2, False)
        left["shop", "one"] = Remains(Sessions(), 0)
        [row] = (await site.get(target="shop/one", idle="3600"))[1]["endpoints"]
        assert not row["empty"], "its sessions may come yet"
        await site.post("shop/one", "maintenance")
        [row] = (await site.get(target="shop/one", idle="3600"))[1]["endpoints"]
        assert row["empty"], "none comes any more"

    async def test_an_endpoint_that_is_gone(self, site: Site, orders: Orders) -> None:
        """There is nothing left of it, and the order can be withdrawn."""
        await site.post("shop/one", "drain")
        orders.publish(Snapshot("static", ()))
        status, found = await site.get(target="shop/one")
        assert (status, found["endpoints"]) == (200, [])
        assert (await site.post("shop/one", "ready"))[0] == 200
        assert (await site.get(target="shop/one"))[0] == 404

    async def test_of_a_controller(self, site: Site, orders: Orders) -> None:
        orders.publish(Snapshot("static", ()))
        orders.publish(Snapshot("controller", (SHOP,)))
        _, found = await site.post("shop", "drain")
        assert "this proxy alone does so" in found["notes"][-1]

    async def test_clients_that_are_known_by_a_hash(self, site: Site, orders: Orders) -> None:
        hashed = service_spec("hashed", ("h.local",), (EndpointSpec("x", "h:80"),), ip_hash=True)
        sticky = service_spec("sticky", ("s.local",), SHOP.endpoints, sticky_session_cookie="s")
        orders.publish(Snapshot("static", (hashed, sticky, SHOP)))
        said = {
            name: (await site.post(name, "drain"))[1]["notes"][1:] for name in ("shop", "sticky")
        }
        assert said == {"shop": [], "sticky": []}
        [note] = (await site.post("hashed", "drain"))[1]["notes"][1:]
        assert note.startswith(
            "service hashed knows its clients by ip hash, not by a cookie of ours"
        )
        assert not (await site.post("hashed", "maintenance"))[1]["notes"][1:]

    @pytest.mark.parametrize("idle", ["-1", "nan", "inf", "x", ""])
    async def test_no_number_of_seconds(self, site: Site, idle: str) -> None:
        status, found = await site.get(target="shop", idle=idle)
        assert (status, found) == (400, {"error": "idle is not a number of seconds"})

    async def test_no_such_thing(self, site: Site) -> None:
        assert (await site.get(target="shup"))[0] == 404
        status, found = await site.post("shup", "drain")
        assert (status, found["error"]) == (404, 'there is no service "shup": there are shop')
        status, found = await site.post("shop", "drian")
        assert status == 400
        assert found["error"].endswith("write one of ready, drain, maintenance")

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", "null", '"x"', '{"target": "shop"}', "\xff", "[" * 100_000]
    )
    async def test_no_order(self, site: Site, text: str) -> None:
        assert await site.post_text(text) == 400

    async def test_a_page_of_another_origin(self, site: Site) -> None:
        text = '{"target": "shop", "admin_state": "maintenance"}'
        assert await site.post_text(text, "text/plain") == 415
        assert (await site.post("shop", "drain", Origin="https://evil.example"))[0] == 403
        assert (await site.post("shop", "drain", Host="evil.example"))[0] == 403
        assert (await site.get())[1] == {"orders": []}


class TestController:
    async def test_all_proxies_learn_of_it(self) -> None:
        controller = Controller(TOKEN)
        orders = Orders(controller.publish)
        orders.publish(Snapshot("swarm", (SHOP,)))
        app = controller.make_app()
        access = Access(Address("0.0.0.0", 1), TOKEN, reading=True)
        upkeep.add_routes(app, orders, access, None)
        async for site in served(ControlServer(app)):
            assert (await site.get())[0] == 401
            assert (await site.post("shop/one", "drain"))[0] == 401
            async with aiohttp.ClientSession() as session, session.get(site.url) as answer:
                assert answer.headers["WWW-Authenticate"] == "Bearer"  # RFC 9110 section 15.5.2
            assert await site.get(SHOWN) == (200, {"orders": []})
            status, found = await site.post("shop/one", "drain", **SHOWN)
            assert (status, found["counts"]) == (200, False)
            async with (
                asyncio.timeout(10),
                aiohttp.ClientSession(headers=SHOWN) as session,
                session.get(site.url.replace(PATH, "/v1/snapshot")) as answer,
            ):
                [service] = codec.decode(await answer.read()).services
            assert [each.admin_state for each in service.endpoints] == ["drain", "ready"]
