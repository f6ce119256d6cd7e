"""CONTROL: the admin page: what was found, what is served, what is wrong. Read-only.

GET /services       every service with its endpoints and problems; JSON if asked for by
                    ``Accept: application/json`` or ``?format=json``, else text
GET /certificates   every certificate with its hosts and dates, and no keys; JSON
GET /table          the routing table, as text
GET /metrics        what was counted, for Prometheus; only if something is
POST /explain       what would come of a request, and why: question and answer in JSON
POST /simulate      what a change of endpoints would do to sessions, likewise
GET /healthz        200 as long as this process responds
GET /readyz         200 if clients are welcome, else 503 and the reason: not every provider has
                    published yet, or the proxy is starting or stopping
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from aiohttp import web

from stickyproxy.admin.metrics import CONTENT_TYPE, Metrics
from stickyproxy.control import certificates, report
from stickyproxy.control.questions import Questions
from stickyproxy.control.registry import HoldsTable
from stickyproxy.model.snapshot import Problem, Snapshot


class RegistryView(Protocol):
    """What the page asks of the registry."""

    problems: tuple[Problem, ...]

    def snapshots(self) -> list[Snapshot]:
        """The state of each provider."""


def make_app(
    registry: RegistryView,
    proxy: HoldsTable,
    troubles: Callable[[], Mapping[str, str]],
    unready: Callable[[], str],
    state_of: report.StateOf | None = None,
    *,
    questions: Questions,
    outage_of: report.OutageOf = lambda _: None,
    checks: Callable[[], Iterable[Problem]] = lambda: (),
    metrics: Metrics | None = None,
) -> web.Application:
    """The admin page of one proxy. ``troubles``: why sources cannot be reached, by name of
    the provider. ``unready``: why clients had better go elsewhere; empty: they are welcome.
    ``questions`` answers those about the table. ``state_of`` replaces the states in the table.
    ``checks``: what is odd about the checks of endpoints. ``metrics``: None: nothing is counted."""
    pages = _Pages(
        registry,
        proxy,
        troubles,
        unready,
        state_of,
        questions=questions,
        outage_of=outage_of,
        checks=checks,
    )
    app = web.Application()
    app.router.add_post(
        "/explain", partial(_answer_by_thread, questions.explanation, asyncio.Lock())
    )
    app.router.add_post(
        "/simulate", partial(_answer_by_thread, questions.simulation, asyncio.Lock())
    )
    app.router.add_get("/services", pages.services)
    app.router.add_get("/certificates", pages.certificates)
    app.router.add_get("/table", pages.table)
    if metrics is not None:
        app.router.add_get("/metrics", partial(_metrics, metrics))
    app.router.add_get("/healthz", pages.healthz)
    app.router.add_get("/readyz", pages.readyz)
    return app


async def _metrics(metrics: Metrics, _request: web.Request) -> web.Response:
    return web.Response(body=await metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _asked(request: web.Request) -> object:
    """The question in a request. Raises ValueError, also for what a web page elsewhere could make a
    browser send without asking us first."""
    if request.content_type != "application/json":
        raise ValueError("the question is not JSON: send Content-Type: application/json")
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise ValueError("the question is not JSON") from error


async def _answer_by_thread(
    prepare: Callable[[object], Callable[[], report.Json]],
    one_at_a_time: asyncio.Lock,
    request: web.Request,
) -> web.Response:
    """Answer a question in JSON. It is prepared here, where the table is, and answered in a thread,
    because that may take so long that requests would wait for it."""
    try:
        prepared = prepare(await _asked(request))
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    async with one_at_a_time:
        return web.json_response(await asyncio.to_thread(prepared))


class _Pages:
    def __init__(
        self,
        registry: RegistryView,
        proxy: HoldsTable,
        troubles: Callable[[], Mapping[str, str]],
        unready: Callable[[], str],
        state_of: report.StateOf | None,
        *,
        questions: Questions,
        outage_of: report.OutageOf,
        checks: Callable[[], Iterable[Problem]],
    ) -> None:
        self._registry = registry
        self._proxy = proxy
        self._troubles = troubles
        self._unready = unready
        self._state_of = state_of
        self._questions = questions
        self._outage_of = outage_of
        self._checks = checks

    async def services(self, request: web.Request) -> web.Response:
        state_of = self._state_of or report.states_in(self._proxy.table)
        rows = [report.out_of_touch(*each) for each in self._troubles().items()]
        problems = [*self._registry.problems, *self._checks()]
        rows += report.rows(self._registry.snapshots(), problems, state_of, self._outage_of)
        asked: str = request.query.get("format") or request.headers.get("Accept") or ""
        if "json" in asked:
            return web.json_response({"services": rows})
        return web.Response(text=report.as_text(rows) + "\n")

    async def certificates(self, _request: web.Request) -> web.Response:
        rows = certificates.rows(self._registry.snapshots(), time.time())
        return web.json_response({"certificates": rows})

    async def table(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._questions.table().dump() + "\n")

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        if reason := self._unready():
            return web.Response(status=503, text=f"not ready: {reason}\n")
        return web.Response(text="ready\n")
