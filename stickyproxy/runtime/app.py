"""The composition root: makes the parts of one process, a proxy or a controller, joins them, and
owns its tasks. A proxy of several processes is put together in ``supervisor``."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import ChainMap
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from stickyproxy.admin import fleet
from stickyproxy.admin.access import Access
from stickyproxy.admin.application import make_app
from stickyproxy.admin.figures import Figures
from stickyproxy.admin.fleet import report_of
from stickyproxy.admin.metrics import Metrics
from stickyproxy.admin.view import ProxyView, Workers
from stickyproxy.base import build_info, signals
from stickyproxy.base.errors import ConfigError, ConfigProblem, StickyproxyError
from stickyproxy.config.settings import Config
from stickyproxy.control import effective
from stickyproxy.control.checks import Checker
from stickyproxy.control.controller import Controller
from stickyproxy.control.orders import Orders
from stickyproxy.control.questions import Explain, Questions
from stickyproxy.control.reload import ConfigFile
from stickyproxy.control.server import ControlServer
from stickyproxy.dataplane.counters import ENDPOINT_LAYOUT, LAYOUT, Memory, counts_of
from stickyproxy.dataplane.downstream.listeners import Listeners
from stickyproxy.dataplane.upstream.asking import Asker
from stickyproxy.model.health import Outage
from stickyproxy.model.metrics import Counts
from stickyproxy.model.service import EndpointKey
from stickyproxy.routing.explain import explain
from stickyproxy.routing.sessions import Remains
from stickyproxy.runtime.data_plane import DataPlane, PlaneSettings
from stickyproxy.runtime.sources import (
    Providers,
    Sources,
    has_tls,
    names,
    waiting_for,
    with_acme,
)
from stickyproxy.runtime.succession import Succession, delivered
from stickyproxy.runtime.telling import Telling
from stickyproxy.semantics.forwarded import TrustedProxies

log = logging.getLogger("stickyproxy")


class App:
    """One proxy process. ``start`` it inside a running event loop, and ``stop`` it."""

    def __init__(self, settings: Config, file: ConfigFile | None = None) -> None:
        """``file``: where the settings come from; it is watched for changes. Raises ListenError
        if the access log cannot be opened."""
        self._grace_period = settings.proxy.grace_period
        self._stop = asyncio.Event()
        self._accepts = asyncio.Event()
        self._memory = None if settings.admin is None else Memory()
        self._plane = DataPlane(
            plane_settings(settings), rebuilt=self._on_new_table, memory=self._memory
        )
        self.proxy = self._plane.proxy
        self.passthrough = self._plane.passthrough
        self.registry = self._plane.registry
        self._checker = Checker(partial(Asker, self._plane.upstreams), self._on_checks)
        self._server = self._plane.server
        self._listeners = Listeners()
        self._succession = Succession(settings)
        self._sources = Sources(
            settings,
            file,
            self.registry.publish,
            self._settled,
            review=self.registry.review,
            report=self._report,
        )
        counts = None if self._memory is None else self._counts
        view = self._view = ProxyView(
            registry=self.registry,
            proxy=self.proxy,
            troubles=self._sources.troubles,
            confirmed=self._sources.confirmed,
            unready=self._unready,
            questions=Questions(lambda: self.proxy.table, explainer(settings)),
            workers=lambda: Workers(wanted=1, accepting=int(self._accepts.is_set())),
            outage_of=self._outage_of,
            remains_of=self._remains_of,
            checks=self._checker.problems,
            config=lambda: effective.pieces(effective.in_force(settings, self.config)),
            figures=figures(settings, counts),
        )
        self._events = Telling(view.stream.put, self._plane.take_moves)
        self._admin = admin_server(settings, view, self._sources.orders, counts)
        self.admin_address = ""
        """Of the admin listener, once it listens."""

    @classmethod
    def from_file(cls, path: Path) -> App:
        """Configured by a file, which is watched for changes. Raises ConfigError, ListenError."""
        file = ConfigFile(path)
        return cls(file.load(), file)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._sources.config

    @property
    def outages(self) -> Mapping[EndpointKey, Outage]:
        """Endpoints that get nothing as long as there are others, and why."""
        return ChainMap(self._checker.outages, self._plane.outages)

    async def start(self) -> list[str]:
        """Publish the services and open the listeners; returns their addresses. Raises
        ListenError."""
        self._plane.start()
        self._events.start()
        self._sources.start()
        try:
            await self._succession.begin(shares=1)
            if self.config.admin is not None:
                sockets = await self._succession.admin_sockets()
                self.admin_address = await self._admin.start(self.config.admin, sockets)
            self._succession.check(ready=await self._sources.ready())
            self._listeners = await self._succession.open()
        except StickyproxyError:
            await self.stop(grace=0)
            raise
        self._plane.accept_on(each for share in self._listeners.shares for each in share)
        self._accepts.set()
        self._succession.accepting(self._listeners)
        self._sources.watch()
        return self._listeners.names

    async def stop(self, grace: float | None = None) -> None:
        """Stop accepting, let requests under way finish for ``grace`` seconds (the configured
        grace period by default), then end."""
        if grace is None:
            grace = self._grace_period
        self._plane.accept_on(())
        ports = await self._succession.end(self._listeners)
        if self._succession.succeeded:
            await self._admin.stop()  # it is our successor who is asked now
        # Routes stay up to date meanwhile.
        began = time.monotonic()
        await self._plane.drain(grace, self._succession.patience)
        await delivered(ports, grace - (time.monotonic() - began))
        await self._sources.stop()
        await self._checker.stop()
        await self._events.stop()
        await self._admin.stop()
        await self._plane.stop()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end ``run_until_signalled``, a second one the process; SIGHUP
        reloads."""
        signals.on_stop(self._stop)
        signals.on_hangup(self._on_hangup)

    async def run_until_signalled(self) -> None:
        """Serve until a signal, or until another process has taken over, then stop gracefully.
        Raises ListenError if the listeners are lost."""
        await self._succession.until_over(self._stop)
        log.info("stopping: requests under way get %g s", self._grace_period)
        await self.stop()

    def _on_new_table(self) -> None:
        self._checker.use(self.registry.services())

    def _on_checks(self) -> None:
        self._plane.use_checks(frozenset(self._checker.outages))

    async def _counts(self) -> Counts:
        self._plane.add_up()
        return counts_of(() if self._memory is None else (self._memory,))

    def _outage_of(self, key: EndpointKey) -> Outage | None:
        return self.outages.get(key)

    def _remains_of(self, key: EndpointKey) -> Remains | None:
        return self._plane.remains_of(key)

    async def _report(self, *, services: bool) -> bytes:
        return await report_of(self._view, services=services)

    async def _settled(self) -> None:
        """What was published is in force at once, but nobody sees it before connections are
        accepted."""
        await self._accepts.wait()

    def _unready(self) -> str:
        """Why clients had better go elsewhere; empty: they are welcome."""
        if self._stop.is_set():
            return "it is stopping"
        if reason := waiting_for(self.registry.awaited, self._sources.troubles()):
            return reason
        return "" if self._accepts.is_set() else "it does not accept connections yet"

    def _on_hangup(self) -> None:
        try:
            self._plane.reopen_log()
        except StickyproxyError as error:
            log.error("%s", error)
        self._sources.reload_soon()


class ControllerApp:
    """One controller process: it sees the Swarm, and proxies see it."""

    def __init__(self, settings: Config) -> None:
        """Raises ConfigError if ``settings`` lacks what a controller needs."""
        tables = {"controller": settings.controller, "providers.swarm": settings.swarm}
        missing = [ConfigProblem(name, "is required") for name in tables if tables[name] is None]
        if settings.controller is None or missing:
            raise ConfigError("a controller's configuration", missing)
        if settings.swarm is not None and settings.swarm.proxy_service is None:
            log.warning(
                "providers.swarm.proxy_service is not set: no network is joined, and every "
                "service counts as reachable"
            )
        others = {
            "[[services]]": settings.services,
            "[[certificates]]": settings.certificates,
            "[providers.docker]": settings.docker,
            "[providers.controller]": settings.follow,
            "[admin]": settings.admin,
        }
        for name in (name for name in others if others[name]):
            log.warning("%s is for proxies, and ignored by a controller: remove it", name)
        self._address = settings.controller.address
        usable = replace(settings, docker=None, follow=None)
        self._controller = Controller(settings.controller.token, names(usable))
        self.orders = Orders(
            self._controller.publish,
            Path(settings.controller.state_file) if settings.controller.state_file else None,
            self._controller.delivered,
        )
        """What operators want of endpoints, for all proxies."""
        publish, acme = with_acme(usable, self.orders.publish, self._controller.delivered)
        self._providers = Providers(usable, publish, acme=acme)
        # It takes 10 MiB, which only a controller and its proxies need to have.
        from stickyproxy.base.token_tls import server_context  # noqa: PLC0415

        app = self._controller.make_app()
        access = Access(self._address, settings.controller.token, reading=True)
        controller = self._controller
        fleet.add_routes(app, controller.fleet, self.orders, access, controller.snapshots)
        self._server = ControlServer(app, server_context(settings.controller.token))
        self._stop = asyncio.Event()
        self._events = Telling(None, dict)

    async def start(self) -> str:
        """Look at the Swarm and listen; returns the address. Raises ListenError."""
        self._providers.start()
        self._events.start()
        try:
            return await self._server.start(self._address)
        except StickyproxyError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End; the proxies go on serving."""
        await self._providers.stop()
        await self._events.stop()
        await self._server.stop()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end ``run_until_signalled``, a second one the process; SIGHUP, which
        makes proxies reload, does nothing."""
        signals.on_stop(self._stop)
        signals.on_hangup(self._on_hangup)

    async def run_until_signalled(self) -> None:
        """Work until a signal."""
        await self._stop.wait()
        await self.stop()

    def _on_hangup(self) -> None:
        log.warning("a controller reads its file once: restart it for changes to take effect")


def explainer(settings: Config) -> Explain:
    """What says what would come of a request, with the proxies that these settings trust and the
    listeners that they have."""
    proxy = settings.proxy
    trusted = TrustedProxies(proxy.trusted_proxies, unix=proxy.trust_unix)
    clear = [each for each in settings.listeners if each.tls is None]
    moved = bool(clear) and all(each.redirect_to_https is not None for each in clear)
    return partial(explain, trusted_proxies=trusted, moves_clear=moved)


_LAYOUTS = LAYOUT, ENDPOINT_LAYOUT


def figures(settings: Config, counts: Callable[[], Awaitable[Counts]] | None) -> Figures | None:
    """How much goes on. ``counts``: what was counted; None: nothing is."""
    if counts is None:
        return None
    return Figures(_LAYOUTS, counts, window=settings.proxy.session_window)


def admin_server(
    settings: Config,
    view: ProxyView,
    orders: Orders,
    counts: Callable[[], Awaitable[Counts]] | None,
) -> ControlServer:
    """What listens on the admin listener of a proxy. ``counts``: what was counted; None: nothing
    is."""
    access = admin_access(settings)
    if counts is None:
        return ControlServer(make_app(view, orders, access))
    metrics = Metrics(_LAYOUTS, counts, view, window=settings.proxy.session_window)
    return ControlServer(make_app(view, orders, access, metrics))


def admin_access(settings: Config) -> Access:
    """The rules of a proxy's admin listener."""
    operator = settings.operator
    return Access(settings.admin, operator.change_token, read_token=operator.read_token)


def plane_settings(settings: Config) -> PlaneSettings:
    """The part of a configuration that is the data plane's."""
    info = None if settings.proxy.hide_info_headers else _proxy_info()
    return PlaneSettings(
        settings.proxy, settings.access_log, info, names(settings), has_tls=has_tls(settings)
    )


def _proxy_info() -> bytes:
    host = "".join(c for c in socket.gethostname() if c.isprintable() and c.isascii())
    return f"x-proxy-id: {host}\r\nx-server-info: {build_info.server_info()}".encode()
