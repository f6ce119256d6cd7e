"""CONTROL: the admin API of a controller: services, endpoints and their figures as all its proxies
see them, and what operators want of them (``upkeep``). And what a proxy reports for that.

GET /v1/services, /v1/services/NAME, /v1/endpoints    as those of a proxy, see ``api``
GET /v1/proxies                                       those that follow the controller
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic

from aiohttp import web
from aiohttp.typedefs import Handler

from stickyproxy.admin import upkeep
from stickyproxy.admin.access import Access
from stickyproxy.admin.answers import Pieces, as_json, error, joined
from stickyproxy.admin.application import guard
from stickyproxy.admin.view import ProxyView
from stickyproxy.base.text import shown
from stickyproxy.control.fleet import Fleet, written
from stickyproxy.control.inventory import Inventory
from stickyproxy.control.orders import Orders
from stickyproxy.control.report import Json
from stickyproxy.model.service import EndpointKey
from stickyproxy.model.snapshot import Snapshot


def add_routes(
    app: web.Application,
    fleet: Fleet,
    orders: Orders,
    access: Access,
    snapshots: Callable[[], Sequence[Snapshot]],
) -> None:
    """Tell what there is, and take orders. ``snapshots``: what is handed out."""
    pages = _Proxies(fleet, snapshots)
    guarded = guard(access)

    def add(path: str, handler: Handler) -> None:
        async def allowed(request: web.Request) -> web.StreamResponse:
            return await guarded(request, handler)

        app.router.add_get(path, allowed)

    add("/v1/services", pages.services)
    add("/v1/services/{name}", pages.service)
    add("/v1/endpoints", pages.endpoints)
    add("/v1/proxies", pages.proxies)
    upkeep.add_routes(app, orders, access, fleet.remains_of)


class _Proxies:
    def __init__(self, fleet: Fleet, snapshots: Callable[[], Sequence[Snapshot]]) -> None:
        self._fleet = fleet
        self._snapshots = snapshots
        self._pieces = Pieces()

    def _inventory(self) -> Inventory:
        fleet, snapshots = self._fleet, self._snapshots()
        fleet.ask()
        problems = [problem for snapshot in snapshots for problem in snapshot.problems]
        return Inventory(
            snapshots,
            problems,
            fleet.state_of,
            lambda _: None,
            fleet.figures_of,
            fleet.figures_at,
        )

    async def services(self, _request: web.Request) -> web.StreamResponse:
        return await self._pieces.answer(lambda: self._inventory().services())

    async def service(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        pieces = self._inventory().service(name)
        if pieces is None:
            return error(404, f"there is no service {shown(name)}")
        return await self._pieces.answer(lambda: pieces)

    async def endpoints(self, _request: web.Request) -> web.StreamResponse:
        return await self._pieces.answer(lambda: self._inventory().endpoints())

    async def proxies(self, _request: web.Request) -> web.StreamResponse:
        return as_json({"proxies": self._fleet.rows()})


async def report_of(view: ProxyView, *, services: bool) -> bytes:
    """What a proxy reports to its controller; ``services``: they are wanted."""
    emptying = list(_emptying(view))
    head: Json = {
        "name": socket.gethostname(),
        "now": monotonic(),
        "emptying": bool(emptying),
        "remains": list(_remains(view, emptying)),
    }
    if not services:
        return json.dumps(head).encode()
    rows = await joined(view.inventory().services())
    return (json.dumps(head)[:-1] + ", " + rows[1:]).encode()


def _remains(view: ProxyView, emptying: Iterable[EndpointKey]) -> Iterator[Json]:
    """What endpoints still have that are to become empty, of those that all workers told of."""
    remains_of = view.remains_of
    for key in emptying:
        if remains_of is not None and (found := remains_of(key)) is not None:
            yield written(key, found)


def _emptying(view: ProxyView) -> Iterator[EndpointKey]:
    """The endpoints of the controller that are to become empty."""
    for snapshot in view.registry.snapshots():
        for service in snapshot.services if snapshot.provider == "controller" else ():
            for spec in service.endpoints:
                if not spec.admin_state == service.admin_state == "ready":
                    yield service.name, spec.id
