"""The composition root: makes the parts of one process, a proxy or a controller, joins them, and
owns its tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from stickyproxy import admin, build_info, config
from stickyproxy.access_log import AccessLog
from stickyproxy.config import Config, ProxySettings
from stickyproxy.controller import Controller
from stickyproxy.downstream import ClientServer, Limits
from stickyproxy.errors import ConfigError, ConfigProblem, StickyproxyError
from stickyproxy.headers import TrustedProxies
from stickyproxy.health import Health
from stickyproxy.model import Snapshot
from stickyproxy.providers import static
from stickyproxy.providers.controller import ControllerProvider
from stickyproxy.proxy import Proxy
from stickyproxy.registry import Registry
from stickyproxy.server import Server
from stickyproxy.side_server import SideServer
from stickyproxy.upstream import Upstreams

log = logging.getLogger("stickyproxy")

WATCH_SECONDS = 0.5
"""How often the configuration file is looked at for changes. It must look the same twice before
it is read: half of a file that is being written can be a valid one, with half of the services."""


Fingerprint = tuple[int, int, int]

FIRST_SNAPSHOT_SECONDS = 5.0
"""How long listeners stay closed for want of a first snapshot: a proxy without routes answers 404,
so it is better not to answer yet."""

RESTART_SECONDS = 5.0
"""Pause before a provider that failed for want of foresight is started again."""


class Provider(Protocol):
    """A source of services that changes by itself."""

    name: str
    ready: asyncio.Event
    """Set when it has published for the first time."""

    async def run(self) -> None:
        """Publish until cancelled."""


def providers(
    settings: Config, publish: Callable[[Snapshot], None], *, forwards_here: bool = True
) -> Iterator[Provider]:
    """The providers that a configuration asks for; the static one needs no object."""
    if settings.swarm is not None:
        # Only here: a proxy that follows a controller never even loads the docker SDK.
        from stickyproxy.providers.swarm import SwarmProvider  # noqa: PLC0415

        yield SwarmProvider(settings.swarm, publish, forwards_here=forwards_here)
    if settings.follow is not None:
        yield ControllerProvider(settings.follow, publish)


async def keep_running(provider: Provider) -> None:
    """Run a provider; after a bug, again."""
    while True:
        try:
            await provider.run()
        except Exception:
            log.exception("provider %s failed: this is a bug in stickyproxy", provider.name)
        await asyncio.sleep(RESTART_SECONDS)


async def all_ready(running: Iterable[Provider], seconds: float) -> None:
    """Wait until every provider has published, but not for longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for provider in running:
                await provider.ready.wait()


class App:
    """One proxy process. ``start`` it inside a running event loop, and ``stop`` it."""

    def __init__(self, settings: Config) -> None:
        """Raises ListenError if the access log cannot be opened."""
        self._config = settings
        self._path: Path | None = None
        self._read: Fingerprint | None = None
        """What the configuration file looked like when it was read."""
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        proxy = settings.proxy
        self._grace_period = proxy.grace_period
        access_log = settings.access_log
        self._access_log = (
            None if access_log.format == "off" else AccessLog(access_log.format, access_log.path)
        )
        self._upstreams = Upstreams(
            connect_timeout=proxy.connect_timeout,
            response_timeout=proxy.response_timeout,
            client_timeout=proxy.client_timeout,
            idle_timeout=proxy.upstream_idle_timeout,
        )
        self.proxy = Proxy(
            info=None if proxy.hide_info_headers else _proxy_info(),
            retry_seconds=3 * proxy.connect_timeout,
            access_log=self._access_log,
        )
        self._health = Health(self.proxy)
        self.proxy.health = self._health
        self.registry = Registry(self.proxy, self._upstreams, proxy.pin_secret)
        self._admin = SideServer(admin.make_app(self.registry, self.proxy))
        self._server = Server(
            ClientServer(
                self.proxy.handle,
                self.proxy.refuse,
                _limits(proxy),
                TrustedProxies(proxy.trusted_proxies, unix=proxy.trust_unix),
            )
        )

    @classmethod
    def from_file(cls, path: Path) -> App:
        """Configured by a file, which is watched for changes. Raises ConfigError, ListenError."""
        fingerprint = _fingerprint(path)
        app = cls(config.load(path))
        app._path, app._read = path, fingerprint
        return app

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    async def start(self) -> list[str]:
        """Publish the services and open the listeners; returns their addresses. Raises
        ListenError."""
        self.registry.publish(static.snapshot(self._config))
        self._upstreams.start()
        running = list(providers(self._config, self.registry.publish))
        for provider in running:
            task = asyncio.create_task(keep_running(provider), name=f"provider {provider.name}")
            self._tasks.append(task)
        try:
            if self._config.admin is not None:
                await self._admin.start(self._config.admin)
            await all_ready(running, FIRST_SNAPSHOT_SECONDS)
            bound = await self._server.listen(
                [listener.address for listener in self._config.listeners]
            )
        except StickyproxyError:
            await self.stop(grace=0)
            raise
        if self._path is not None:
            self._tasks.append(asyncio.create_task(self._watch(self._path), name="config watch"))
        return bound

    async def stop(self, grace: float | None = None) -> None:
        """Stop accepting, let requests under way finish for ``grace`` seconds (the configured
        grace period by default), then end."""
        if grace is None:
            grace = self._grace_period
        cut = await self._server.drain(grace)  # routes are kept in step meanwhile
        if cut:
            log.warning("%d connections did not finish within %g s and were cut", cut, grace)
        await _end(self._tasks)
        await self._health.stop()
        await self._admin.stop()
        self._upstreams.close()
        if self._access_log is not None:
            self._access_log.close()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end ``run_until_signalled``, a second one the process; SIGHUP
        reloads."""
        _on_stop_signals(self._stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)

    async def run_until_signalled(self) -> None:
        """Serve until a signal, then stop gracefully."""
        await self._stop.wait()
        log.info("stopping: requests under way get %g s", self._grace_period)
        await self.stop()

    def reload(self) -> None:
        """Read the configuration file again. A bad one changes nothing and is reported."""
        if self._path is None:
            return
        self._read = _fingerprint(self._path)
        try:
            new = config.load(self._path)
        except ConfigError as error:
            log.error("the configuration was not reloaded, the last good one serves on:\n%s", error)
            return
        old, self._config = self._config, new
        self.registry.publish(static.snapshot(new))
        log.info("configuration reloaded: %d services", len(new.services))
        fixed = [
            name
            for name in ("listeners", "proxy", "access_log", "admin", "swarm", "follow")
            if getattr(old, name) != getattr(new, name)
        ]
        if fixed:
            log.warning("changes to %s take effect after a restart", ", ".join(fixed))

    def _on_hangup(self) -> None:
        if self._access_log is not None:
            try:
                self._access_log.reopen()
            except StickyproxyError as error:
                log.error("%s", error)
        self.reload()

    async def _watch(self, path: Path) -> None:
        """Reload when the file changes; where editors and config tools replace it, too."""
        before = self._read
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = _fingerprint(path)
            if now is not None and now == before and now != self._read:
                self.reload()
            before = now


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
        self._address = settings.controller.address
        self._config = settings
        self._controller = Controller(settings.controller.token)
        self._server = SideServer(self._controller.make_app())
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    async def start(self) -> str:
        """Look at the Swarm and listen; returns the address. Raises ListenError."""
        for provider in providers(self._config, self._controller.publish, forwards_here=False):
            task = asyncio.create_task(keep_running(provider), name=f"provider {provider.name}")
            self._tasks.append(task)
        try:
            return await self._server.start(self._address)
        except StickyproxyError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End; the proxies serve on."""
        await _end(self._tasks)
        await self._server.stop()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end ``run_until_signalled``, a second one the process."""
        _on_stop_signals(self._stop)

    async def run_until_signalled(self) -> None:
        """Work until a signal."""
        await self._stop.wait()
        await self.stop()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _on_stop_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on SIGTERM and SIGINT; a second one ends the process at once."""

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)


def _fingerprint(path: Path) -> Fingerprint | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _proxy_info() -> bytes:
    host = "".join(c for c in socket.gethostname() if c.isprintable() and c.isascii())
    return f"x-proxy-id: {host}\r\nx-server-info: {build_info.server_info()}".encode()


def _limits(settings: ProxySettings) -> Limits:
    return Limits(
        max_head_line=settings.max_head_line,
        max_headers=settings.max_headers,
        head_timeout=settings.head_timeout,
        keepalive_timeout=settings.keepalive_timeout,
        client_timeout=settings.client_timeout,
    )
