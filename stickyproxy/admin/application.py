"""CONTROL: the application on the admin listener, put together: the one place for it, whatever a
proxy consists of, and for the rule of who may see what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from stickyproxy.admin import api, events, live, pages, questions, upkeep
from stickyproxy.admin.access import Access
from stickyproxy.admin.answers import error
from stickyproxy.admin.metrics import Metrics
from stickyproxy.admin.openapi import MOST_BYTES
from stickyproxy.admin.view import ProxyView
from stickyproxy.control.orders import Orders

FOR_ALL = live.PATHS | {"/healthz", "/readyz"}
"""Paths that tell nothing that somebody must not know."""

CHANGES = frozenset(("/v1/admin_state",))
"""Where a POST changes something: it is looked at there who sends it."""


def make_app(
    view: ProxyView, orders: Orders, access: Access, metrics: Metrics | None = None
) -> web.Application:
    """The application. ``metrics``: None: nothing is counted."""
    app = web.Application(middlewares=[guard(access)], client_max_size=MOST_BYTES)
    live.add_routes(app)
    pages.add_routes(app, view, metrics)
    api.add_routes(app, view)
    questions.add_routes(app, view.questions)
    upkeep.add_routes(app, orders, access, view.remains_of)
    events.add_routes(app, view.stream)
    if view.figures is not None:
        app.on_startup.append(_calling(view.figures.start))
        app.on_cleanup.append(_calling(view.figures.stop))
    return app


def _calling(action: Callable[[], None]) -> Callable[[web.Application], Awaitable[None]]:
    async def call(_app: web.Application) -> None:
        action()

    return call


def guard(access: Access) -> Middleware:
    """Whatever is asked, this is asked first; and errors of ``/v1/`` are JSON."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        versioned = path.startswith("/v1/")
        if path in FOR_ALL or request.match_info.http_exception is not None:
            refused = None
        elif not versioned:
            refused = access.refusal_to_show_pages(request.headers)
        elif request.method != "POST":
            refused = access.refusal_to_show(request.headers)
        elif path in CHANGES:
            refused = None
        else:
            refused = access.refusal_to_ask(request.headers)
        if refused:
            return error(*refused)
        try:
            return await handler(request)
        except web.HTTPException as problem:
            if not versioned:
                raise
            answer = error(problem.status, _sentence(problem))
            if allow := problem.headers.get("Allow"):
                answer.headers["Allow"] = allow
            return answer

    return guarded


def _sentence(problem: web.HTTPException) -> str:
    match problem:
        case web.HTTPNotFound():
            return "there is nothing here: GET /v1/openapi.json lists what there is"
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(problem.allowed_methods))
            return f"{problem.method} is not possible here: use {allowed}"
        case web.HTTPRequestEntityTooLarge():
            return "the body is too large"
    return problem.reason
