"""CONTROL: the admin API: JSON under ``/v1/``, of the current state alone.

``openapi.py`` describes it, and ``docs/reference/admin-api.md`` does for people. Within a version,
names are added and never taken away. Errors are ``{"error": SENTENCE}``.
"""

from __future__ import annotations

import time

from aiohttp import web

from stickyproxy.admin import openapi
from stickyproxy.admin.answers import Pieces, as_json, error
from stickyproxy.admin.view import ProxyView
from stickyproxy.base.text import shown
from stickyproxy.control import certificates, inventory


def add_routes(app: web.Application, view: ProxyView) -> None:
    """Tell what there is."""
    api = _Api(view)
    app.router.add_get("/v1/status", api.status)
    app.router.add_get("/v1/services", api.services)
    app.router.add_get("/v1/services/{name}", api.service)
    app.router.add_get("/v1/endpoints", api.endpoints)
    app.router.add_get("/v1/routes", api.routes)
    app.router.add_get("/v1/problems", api.problems)
    app.router.add_get("/v1/certificates", api.certificates)
    app.router.add_get("/v1/config", api.config)
    app.router.add_get("/v1/openapi.json", api.openapi)


class _Api:
    def __init__(self, view: ProxyView) -> None:
        self._view = view
        self._pieces = Pieces()
        self._document = openapi.document()

    async def status(self, _request: web.Request) -> web.Response:
        return as_json(self._view.status())

    async def services(self, _request: web.Request) -> web.Response:
        return await self._pieces.answer(lambda: self._view.inventory().services())

    async def service(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        pieces = self._view.inventory().service(name)
        if pieces is None:
            return error(404, f"there is no service {shown(name)}")
        return await self._pieces.answer(lambda: pieces)

    async def endpoints(self, _request: web.Request) -> web.Response:
        return await self._pieces.answer(lambda: self._view.inventory().endpoints())

    async def routes(self, _request: web.Request) -> web.Response:
        return await self._pieces.answer(lambda: inventory.routes(self._view.questions.table()))

    async def problems(self, _request: web.Request) -> web.Response:
        view = self._view
        return await self._pieces.answer(
            lambda: inventory.problems(view.problems(), view.troubles())
        )

    async def certificates(self, _request: web.Request) -> web.Response:
        rows = certificates.rows(self._view.registry.snapshots(), time.time())
        return as_json({"certificates": rows})

    async def config(self, _request: web.Request) -> web.Response:
        return await self._pieces.answer(self._view.config)

    async def openapi(self, _request: web.Request) -> web.Response:
        return as_json(self._document)
