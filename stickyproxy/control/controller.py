"""CONTROL: the controller of the two planes: it has the Swarm's API and carries no traffic.

    GET /v1/snapshot?after=VERSION&wait=SECONDS

answers with the whole snapshot as soon as its version is not VERSION any more, or with 304 after
SECONDS; with 503 while there is none yet. Proxies show the shared token as
``Authorization: Bearer``. A controller keeps nothing: versions are hashes of the content, so one
that was restarted, or another replica, goes on where it was.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from contextlib import suppress

from aiohttp import web

from stickyproxy.config import codec
from stickyproxy.model.snapshot import Snapshot

log = logging.getLogger("stickyproxy")

MAX_WAIT = 60.0
"""Seconds that a long poll is held at most."""


class Controller:
    """Hands the last snapshot to the proxies that ask for it."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._data = b""
        self._version = ""
        self._changed = asyncio.Event()

    def publish(self, snapshot: Snapshot) -> None:
        """Take a whole state; proxies that wait get it at once."""
        data = codec.encode(snapshot)
        if data == self._data:
            return
        self._data, self._version = data, codec.version(data)
        log.info("version %s: %d services", self._version, len(snapshot.services))
        self._changed.set()
        self._changed = asyncio.Event()

    def make_app(self) -> web.Application:
        """What proxies talk to."""
        app = web.Application()
        app.router.add_get("/v1/snapshot", self._snapshot)
        app.router.add_get("/healthz", self._healthz)
        return app

    async def _snapshot(self, request: web.Request) -> web.Response:
        shown = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(shown, b"Bearer " + self._token):
            return web.Response(status=401, text="the token is missing or wrong\n")
        try:
            wait = float(request.query.get("wait", "0"))
        except ValueError:
            return web.Response(status=400, text="wait is not a number of seconds\n")
        known = request.query.get("after", "")
        if self._version in ("", known) and wait > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait, MAX_WAIT)):
                    await self._changed.wait()
        if not self._version:
            return web.Response(status=503, text="nothing is known of the Swarm yet\n")
        if self._version == known:
            return web.Response(status=304)
        return web.Response(
            body=self._data,
            content_type="application/json",
            headers={"Snapshot-Version": self._version},
        )

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")
