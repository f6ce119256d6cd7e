"""An admin listener on 127.0.0.1, of a proxy that has a bit of everything and forwards nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from stickyproxy.admin.access import Access
from stickyproxy.admin.application import make_app
from stickyproxy.admin.view import ProxyView, Workers
from stickyproxy.base.addresses import Address
from stickyproxy.config.settings import Config
from stickyproxy.control import effective
from stickyproxy.control.orders import Orders
from stickyproxy.control.questions import Questions
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.control.server import ControlServer
from stickyproxy.model.health import Outage
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.routing.sessions import Remains, Sessions
from stickyproxy.routing.table import RoutingTable
from stickyproxy.runtime.app import explainer
from tests.certificates import make_certificate
from tests.specs import service_spec

HERE = Address("127.0.0.1", 0)

SERVICES = (
    service_spec(
        "shop",
        ("shop.local", "*.shop.local"),
        (EndpointSpec("t1", "10.0.0.1:80", node="alpha"), EndpointSpec("t2", "10.0.0.2:80")),
        context_root="/app",
        sticky_session_cookie="session",
    ),
    service_spec(
        "hashed",
        ("hashed.local",),
        (EndpointSpec("h1", "10.0.1.1:80"), EndpointSpec("h2", "10.0.1.2:80", draining=True)),
        hash_header="x-key",
    ),
    ServiceSpec("bare", ("bare.local",), default_backend=True),
    ServiceSpec(
        "passed",
        ("tls.local",),
        (EndpointSpec("p1", "10.0.2.1:443"),),
        ssl_passthrough=True,
        redirects=(("old.local", "https://shop.local"),),
    ),
)
BAD = Problem("bad", '"80a" is no port', "com.docker.lb.port", '"80a"', "docker ...", fatal=True)


class Site:
    """The listener and its client."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self.url = f"http://127.0.0.1:{port}"

    async def get(self, path: str, **fields: str) -> tuple[int, Any]:
        """Status and document."""
        async with self._session.get(self.url + path, headers=fields) as answer:
            return answer.status, await answer.json()

    async def request(
        self, method: str, path: str, data: bytes | None = None, **fields: str
    ) -> tuple[int, Mapping[str, str], str]:
        """Status, header fields and text."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        asked = self._session.request(method, self.url + path, data=data, headers=named)
        async with asked as answer:
            return answer.status, answer.headers, await answer.text()


class Shown:
    """What has the table."""

    def __init__(self) -> None:
        self.table = RoutingTable({})


@asynccontextmanager
async def site(
    access: Access | None = None, config: Config | None = None, **more: Any
) -> AsyncIterator[Site]:
    """``more``: what the view has else."""
    config = config or Config(admin=HERE)
    shown = Shown()
    registry = Registry(shown, NoConnections(), None, tells_problems=False)
    orders = Orders(registry.publish)
    certificates = (make_certificate(["shop.local"], name="secret shop"),)
    orders.publish(Snapshot("static", SERVICES, (BAD,), certificates=certificates))
    view = ProxyView(
        registry=registry,
        proxy=shown,
        troubles=lambda: {"swarm": "there is no engine at unix:///none"},
        unready=lambda: "swarm: no response yet",
        questions=Questions(lambda: shown.table, explainer(config)),
        workers=lambda: Workers(wanted=4, accepting=3, lost=2),
        outage_of={("shop", "t1"): Outage("it is slow", 1_800_000_000.0)}.get,
        remains_of={("shop", "t1"): Remains(Sessions(began=0.0), 2)}.get,
        checks=lambda: [BAD, Problem("", "expires soon", certificate="/etc/a.pem")],
        config=lambda: effective.pieces(config),
        **more,
    )
    server = ControlServer(make_app(view, orders, access or Access(HERE)))
    bound = await server.start(HERE)
    try:
        async with aiohttp.ClientSession() as session:
            yield Site(session, int(bound.rpartition(":")[2]))
    finally:
        await server.stop()
