"""CONTROL: endpoints are drained, and put into maintenance, through the admin listener.

    GET /v1/admin_state?target=TARGET&idle=SECONDS
    POST /v1/admin_state    {"target": TARGET, "admin_state": "ready", "drain" or "maintenance"}

Both respond with what is wanted of the target's endpoints, and what they still have: ``sessions``
with a request within the last SECONDS (60), requests under way and upgraded connections (``busy``),
``quiet``, the seconds since the last request of a session, or else since the order; null: not all
workers have told yet. One is ``empty`` if nothing is under way and it has been quiet for that long;
in maintenance, if nothing is under way. A GET without a target lists the orders. Errors are
``{"error": SENTENCE}``. Targets are described in ``control/orders.py``, and in ``admin/access.py``
who may POST.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator

from aiohttp import web

from stickyproxy.admin.access import Access
from stickyproxy.admin.answers import as_json, error
from stickyproxy.base.errors import StickyproxyError
from stickyproxy.base.text import shown
from stickyproxy.control import report
from stickyproxy.control.orders import Orders, Scope
from stickyproxy.model.service import ADMIN_STATES, AdminState

IDLE = 60.0
"""Seconds without a request after which a session is over, if nothing else is said."""

_FORGETFUL = (
    "a restart forgets it: name a file that keeps it as state_file in [admin], or for a controller "
    "in [controller]"
)
_ALONE = (
    "this proxy alone does so, and the others that follow the controller do not know of it: name "
    "the controller's address (--admin ADDR) and the file of its token (--token-file FILE)"
)


def add_routes(
    app: web.Application, orders: Orders, access: Access, remains_of: report.RemainsOf | None
) -> None:
    """Let operators change what is wanted of endpoints. ``remains_of`` None: no requests are
    forwarded here, so that nobody knows."""
    pages = _Upkeep(orders, access, remains_of)
    app.router.add_get("/v1/admin_state", pages.show)
    app.router.add_post("/v1/admin_state", pages.change)


class _Upkeep:
    def __init__(self, orders: Orders, access: Access, remains_of: report.RemainsOf | None) -> None:
        self._orders = orders
        self._access = access
        self._counts = remains_of is not None
        self._remains_of: report.RemainsOf = remains_of or (lambda _: None)

    async def show(self, request: web.Request) -> web.Response:
        if refused := self._access.refusal_to_show(request.headers):
            return error(*refused)
        try:
            idle = float(request.query.get("idle", IDLE))
            if not (math.isfinite(idle) and idle >= 0):
                raise ValueError
        except ValueError:
            return error(400, "idle is not a number of seconds")
        target = request.query.get("target")
        if target is None:
            return as_json({"orders": self._held()})
        try:
            return as_json(self._described(self._orders.find(target), idle))
        except StickyproxyError as wrong:
            return error(404, str(wrong))

    async def change(self, request: web.Request) -> web.Response:
        if refused := self._access.refusal(request.headers):
            return error(*refused)
        try:
            asked = json.loads(await request.read())
            target, word = str(asked["target"]), asked["admin_state"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return error(400, 'the body has to be {"target": TARGET, "admin_state": STATE}')
        state = next((each for each in ADMIN_STATES if each == word), None)
        if state is None:
            known = ", ".join(ADMIN_STATES)
            return error(400, f"admin_state {shown(word)} is not known: write one of {known}")
        try:
            scope = self._orders.find(target)
        except StickyproxyError as wrong:
            return error(404, str(wrong))
        try:
            await self._orders.change(scope, state)
        except StickyproxyError as wrong:
            return error(409, str(wrong))
        return as_json(self._described(scope, IDLE))

    def _held(self) -> list[report.Json]:
        held = self._orders.held.items()
        return [{"target": str(scope), "admin_state": state} for scope, state in held]

    def _described(self, scope: Scope, idle: float) -> report.Json:
        now = time.monotonic()
        ordered: AdminState = self._orders.held.get(scope, "ready")
        return {
            "target": str(scope),
            "admin_state": ordered,
            "counts": self._counts,
            "notes": [] if ordered == "ready" else list(self._notes(scope, ordered)),
            "endpoints": [
                report.upkeep_row(service, spec, self._remains_of, idle, now)
                for service, spec in self._orders.covered(scope)
            ],
        }

    def _notes(self, scope: Scope, ordered: AdminState) -> Iterator[str]:
        """What whoever gave this order should know."""
        concerned = list(self._orders.concerned(scope))
        if not self._orders.lasting:
            yield _FORGETFUL
        if any(provider == "controller" for provider, _ in concerned):
            yield _ALONE
        for _, service in concerned:
            policy = service.policy
            if ordered == "drain" and policy and policy.affinity and policy.kind != "cookie":
                yield (
                    f"service {service.name} knows its clients by {policy.describe()}, not by a "
                    "cookie of ours: they move at once, as in maintenance"
                )
