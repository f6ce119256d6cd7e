"""CONTROL: the controller of the two planes: it uses the Swarm's API and carries no traffic.

    GET /v1/snapshot?after=VERSION&wait=SECONDS&proxy=ID

responds with the whole snapshot as soon as its version is no longer VERSION, or with 304 after
SECONDS; with 503 while there is none yet. Proxies show the shared token as
``Authorization: Bearer``. A controller keeps nothing: versions are hashes of the content, so one
that was restarted, or another replica, goes on where it was. ``after`` also says what a proxy has
in force: so it is known when all have the latest version. ``proxy`` tells them apart.

    POST /v1/report?proxy=ID&version=VERSION

takes what a proxy says of itself (``control/fleet.py``), with the same token.

Keys of certificates are handed out over TLS only (``base/token_tls.py``). Who asks in the clear
gets everything else, and a problem that says so.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from aiohttp import web

from stickyproxy.config import codec
from stickyproxy.control.fleet import Fleet
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot

log = logging.getLogger("stickyproxy")

MAX_WAIT = 60.0
"""Longest time in seconds that a long poll is held."""
SILENT_SECONDS = MAX_WAIT + 10
"""A proxy that has not asked for so long is gone."""
MANY = 1000
"""From so many proxies on, those that are gone are forgotten."""
WANTED = "Report-Wanted"
"""A header field of responses while services are wanted in reports."""
MOST_BYTES = 32 << 20
"""Of a report."""
DELIVERY_SECONDS = 5.0
"""Longest time that is waited for proxies to have the latest version."""


@dataclass(frozen=True, slots=True)
class _Edition:
    """A snapshot as it is handed out."""

    data: bytes = b""
    version: str = ""
    """Empty: there is none yet."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> _Edition:
        data = codec.encode(snapshot)
        return cls(data, codec.version(data))


class Controller:
    """Hands the last snapshot to the proxies that ask for it."""

    def __init__(self, token: bytes, awaits: Iterable[str] = ()) -> None:
        """``awaits``: the providers without which there is no snapshot yet: what one has not said
        must not be taken for emptiness."""
        self._token = token
        self._awaits = frozenset(awaits)
        self._parts: dict[str, Snapshot] = {}
        self._proxies: dict[str, tuple[str, float]] = {}
        """The version that a proxy has, and when it asked last, by the clock of the loop."""
        self._asked = asyncio.Event()
        self._whole = _Edition()
        self._public = _Edition()
        """What may be read by anybody on the way."""
        self._changed = asyncio.Event()
        self.fleet = Fleet(self._following, lambda: self._whole.version, wake=self._wake)
        """What the proxies say of themselves."""

    def snapshots(self) -> list[Snapshot]:
        """What is handed out, by provider."""
        return [self._parts[name] for name in sorted(self._parts)]

    def publish(self, snapshot: Snapshot) -> None:
        """Take a provider's whole state; waiting proxies get it at once."""
        self._parts[snapshot.provider] = snapshot
        if self._awaits <= self._parts.keys():
            self._hand_out(_joined(self._parts.values()))

    async def delivered(self, seconds: float = DELIVERY_SECONDS) -> None:
        """Wait until all proxies have the latest version, but not for longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._is_behind():
                    asked = self._asked
                    await asked.wait()

    def _is_behind(self) -> bool:
        """Whether a proxy has not got the latest version yet."""
        since = asyncio.get_running_loop().time() - SILENT_SECONDS
        latest = (self._whole.version, self._public.version)
        return any(had not in latest for had, asked in self._proxies.values() if asked > since)

    def _following(self) -> list[str]:
        """The ids of the proxies that ask."""
        since = asyncio.get_running_loop().time() - SILENT_SECONDS
        return [proxy for proxy, (_, asked) in self._proxies.items() if asked > since]

    def _hand_out(self, snapshot: Snapshot) -> None:
        whole = _Edition.of(snapshot)
        if whole == self._whole:
            return
        public = without_keys(snapshot)
        self.fleet.forget_remains()
        self._whole, self._public = whole, whole if public is snapshot else _Edition.of(public)
        log.info("version %s: %d services", whole.version, len(snapshot.services))
        self._wake()

    def _wake(self) -> None:
        """Proxies that wait get a response."""
        self._changed.set()
        self._changed = asyncio.Event()

    def make_app(self) -> web.Application:
        """The application that proxies send requests to."""
        app = web.Application(client_max_size=MOST_BYTES)
        app.router.add_get("/v1/snapshot", self._snapshot)
        app.router.add_post("/v1/report", self._report)
        app.router.add_get("/healthz", self._healthz)
        return app

    async def _snapshot(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        try:
            wait = float(request.query.get("wait", "0"))
        except ValueError:
            return web.Response(status=400, text="wait is not a number of seconds\n")
        known = request.query.get("after", "")
        self._note(request.query.get("proxy") or str(request.remote), known)
        if self._edition(request).version in ("", known) and wait > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait, MAX_WAIT)):
                    await self._changed.wait()
        edition = self._edition(request)
        if not edition.version:
            return web.Response(status=503, text="the state of the Swarm is not known yet\n")
        if edition.version == known:
            return web.Response(status=304, headers={WANTED: "1"} if self.fleet.wanted else None)
        return web.Response(
            body=edition.data,
            content_type="application/json",
            headers={"Snapshot-Version": edition.version},
        )

    async def _report(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        proxy, version = request.query.get("proxy", ""), request.query.get("version", "")
        if version == self._public.version:  # who has got all but the keys is in step, too
            version = self._whole.version
        try:
            return web.json_response(self.fleet.take(proxy, version, await request.json()))
        except (ValueError, RecursionError) as error:
            return web.Response(status=400, text=f"{error}\n")

    def _refused(self, request: web.Request) -> web.Response | None:
        """What is said to somebody without the token."""
        shown = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if hmac.compare_digest(shown, b"Bearer " + self._token):
            return None
        return web.Response(status=401, text="the token is missing or wrong\n")

    def _note(self, proxy: str, version: str) -> None:
        """A proxy says what it has in force."""
        now = asyncio.get_running_loop().time()
        self._proxies[proxy] = version, now
        if len(self._proxies) > MANY:
            since = now - SILENT_SECONDS
            self._proxies = {
                key: (had, asked) for key, (had, asked) in self._proxies.items() if asked > since
            }
        self._asked.set()
        self._asked = asyncio.Event()

    def _edition(self, request: web.Request) -> _Edition:
        return self._whole if request.secure else self._public

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")


def _joined(parts: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of all providers'."""
    ordered = sorted(parts, key=lambda part: (not part.realm, part.provider))
    first, *others = ordered
    for other in others:
        first = replace(
            first,
            services=first.services + other.services,
            problems=first.problems + other.problems,
            certificates=first.certificates + other.certificates,
            acme_thumbprints=first.acme_thumbprints + other.acme_thumbprints,
        )
    return first


_HELD_BACK = (
    "is not handed out by the controller over http, where its key could be read on the way: write "
    "https:// instead of http:// in url of [providers.controller]"
)


def without_keys(snapshot: Snapshot) -> Snapshot:
    """What of a snapshot may travel in the clear, with problems that say what is missing; the very
    same if nothing is."""
    services = tuple(_without_key(service) for service in snapshot.services)
    pairs = zip(snapshot.services, services, strict=True)
    problems = [
        Problem(service.name, f"its client certificate {_HELD_BACK}", fatal=True)
        for service, public in pairs
        if public is not service
    ]
    if snapshot.certificates:
        first, *others = snapshot.certificates
        more = f" (and {len(others)} more)" if others else ""
        problems.append(Problem("", f"{_HELD_BACK}{more}", certificate=first.name, fatal=True))
    if not problems:
        return snapshot
    problems = [*snapshot.problems, *problems]
    return replace(snapshot, services=services, certificates=(), problems=tuple(problems))


def _without_key(service: ServiceSpec) -> ServiceSpec:
    """A service without what its endpoints are shown; itself if that is nothing."""
    if service.tls is None or not service.tls.key:
        return service
    tls = replace(service.tls, certificate="", key="")
    return replace(service, tls=tls)
