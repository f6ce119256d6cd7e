"""CONTROL: the pages that have no version: for people, and for what looks after the proxy.

GET /services       every service with its endpoints and problems; JSON if asked for by
                    ``Accept: application/json`` or ``?format=json``, else text
GET /certificates   every certificate with its hosts and dates, and no keys; JSON
GET /table          the routing table, as text
GET /metrics        what was counted, for Prometheus; only if something is
GET /healthz        200 as long as this process responds
GET /readyz         200 if clients are welcome, else 503 and the reason: not every provider has
                    published yet, or the proxy is starting or stopping
"""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

from aiohttp import web

from stickyproxy.admin.metrics import CONTENT_TYPE, Metrics
from stickyproxy.admin.view import ProxyView
from stickyproxy.control import certificates, report


def add_routes(app: web.Application, view: ProxyView, metrics: Metrics | None = None) -> None:
    """Show what there is. ``metrics``: None: nothing is counted."""
    pages = _Pages(view)
    app.router.add_get("/services", pages.services)
    app.router.add_get("/certificates", pages.certificates)
    app.router.add_get("/table", pages.table)
    if metrics is not None:
        app.router.add_get("/metrics", partial(_metrics, metrics))
    app.router.add_get("/healthz", pages.healthz)
    app.router.add_get("/readyz", pages.readyz)


async def _metrics(metrics: Metrics, _request: web.Request) -> web.Response:
    return web.Response(body=await metrics.text(), headers={"Content-Type": CONTENT_TYPE})


class _Pages:
    def __init__(self, view: ProxyView) -> None:
        self._view = view

    async def services(self, request: web.Request) -> web.Response:
        view = self._view
        snapshots, problems, states = view.registry.snapshots(), view.problems(), view.states()
        lost = [report.out_of_touch(*each) for each in view.troubles().items()]
        asked: str = request.query.get("format") or request.headers.get("Accept") or ""
        as_json = "json" in asked

        def text() -> str:
            rows = [*lost, *report.rows(snapshots, problems, states, view.outage_of)]
            return json.dumps({"services": rows}) if as_json else report.as_text(rows) + "\n"

        # It takes its time, and requests may be served by this process.
        kind = "application/json" if as_json else "text/plain"
        return web.Response(text=await asyncio.to_thread(text), content_type=kind)

    async def certificates(self, _request: web.Request) -> web.Response:
        rows = certificates.rows(self._view.registry.snapshots(), time.time())
        return web.json_response({"certificates": rows})

    async def table(self, _request: web.Request) -> web.Response:
        table = self._view.questions.table()
        return web.Response(text=await asyncio.to_thread(table.dump) + "\n")

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        if reason := self._view.unready():
            return web.Response(status=503, text=f"not ready: {reason}\n")
        return web.Response(text="ready\n")
