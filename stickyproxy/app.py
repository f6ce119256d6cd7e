"""The composition root: makes the parts of one proxy process, joins them, and owns its tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from pathlib import Path

from stickyproxy import build_info, config
from stickyproxy.access_log import AccessLog
from stickyproxy.config import Config, ProxySettings
from stickyproxy.downstream import ClientServer, Limits
from stickyproxy.errors import ConfigError, StickyproxyError
from stickyproxy.headers import TrustedProxies
from stickyproxy.providers import static
from stickyproxy.proxy import Proxy
from stickyproxy.registry import Registry
from stickyproxy.server import Server
from stickyproxy.upstream import Upstreams

log = logging.getLogger("stickyproxy")

WATCH_SECONDS = 0.5
"""How often the configuration file is looked at for changes. It must look the same twice before
it is read: half of a file that is being written can be a valid one, with half of the services."""


Fingerprint = tuple[int, int, int]


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
        self.registry = Registry(self.proxy, self._upstreams, proxy.pin_secret)
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
        try:
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if grace is None:
            grace = self._config.proxy.grace_period
        cut = await self._server.drain(grace)
        if cut:
            log.warning("%d connections did not finish within %g s and were cut", cut, grace)
        self._upstreams.close()
        if self._access_log is not None:
            self._access_log.close()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end ``run_until_signalled``, a second one the process; SIGHUP
        reloads."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    async def run_until_signalled(self) -> None:
        """Serve until a signal, then stop gracefully."""
        await self._stop.wait()
        log.info("stopping: requests under way get %g s", self._config.proxy.grace_period)
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
            for name in ("listeners", "proxy", "access_log")
            if getattr(old, name) != getattr(new, name)
        ]
        if fixed:
            log.warning("changes to %s take effect after a restart", ", ".join(fixed))

    def _on_stop_signal(self) -> None:
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()

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
