"""CONTROL: where services come from: the configuration file and the providers of one process.

Whatever is found goes to ``publish``, as whole snapshots.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from stickyproxy.base.errors import ConfigError
from stickyproxy.config import load as config
from stickyproxy.config.load import Config
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers import static
from stickyproxy.providers.controller import ControllerProvider

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

# --- providers ------------------------------------------------------------------------------


class Provider(Protocol):
    """A source of services that changes by itself."""

    name: str
    ready: asyncio.Event
    """Set when it has published for the first time."""
    trouble: str
    """Why it knows nothing new; empty: all is well."""

    async def run(self) -> None:
        """Publish until cancelled."""


class Providers:
    """Those that a configuration asks for, running; the static one needs no object."""

    def __init__(
        self, settings: Config, publish: Callable[[Snapshot], None], *, forwards_here: bool = True
    ) -> None:
        """``forwards_here``: this container's networks are those that requests take."""
        self._providers = list(_providers(settings, publish, forwards_here))
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to publish."""
        for provider in self._providers:
            task = asyncio.create_task(_keep_running(provider), name=f"provider {provider.name}")
            self._tasks.append(task)

    async def ready(self, seconds: float) -> None:
        """Wait until every one has published, but not for longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for provider in self._providers:
                    await provider.ready.wait()

    def troubles(self) -> dict[str, str]:
        """What keeps them from knowing anything new, by name."""
        return {each.name: each.trouble for each in self._providers if each.trouble}

    async def stop(self) -> None:
        """End them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _providers(
    settings: Config, publish: Callable[[Snapshot], None], forwards_here: bool
) -> Iterator[Provider]:
    if settings.swarm is not None:
        # Only here: a proxy that follows a controller never even loads the docker SDK.
        from stickyproxy.providers.swarm.provider import SwarmProvider  # noqa: PLC0415

        yield SwarmProvider(settings.swarm, publish, forwards_here=forwards_here)
    if settings.follow is not None:
        yield ControllerProvider(settings.follow, publish)


async def _keep_running(provider: Provider) -> None:
    """Run a provider; after a bug, again."""
    while True:
        try:
            await provider.run()
        except Exception:
            log.exception("provider %s failed: this is a bug in stickyproxy", provider.name)
        await asyncio.sleep(RESTART_SECONDS)


# --- the configuration file -----------------------------------------------------------------


class ConfigFile:
    """The file, and what it looked like when it was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: Fingerprint | None = None

    def load(self) -> Config:
        """Read it. Raises ConfigError."""
        self._read = self.look()
        return config.load(self._path)

    def look(self) -> Fingerprint | None:
        """What it looks like now; None if there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def changed(self, look: Fingerprint | None) -> bool:
        """True if that is another file than the one read."""
        return look is not None and look != self._read


async def _at_once() -> None:
    """Nobody has to be waited for."""


_FIXED = {
    "listeners": "[[listeners]]",
    "proxy": "[proxy]",
    "access_log": "[access_log]",
    "admin": "[admin]",
    "swarm": "[providers.swarm]",
    "follow": "[providers.controller]",
}
"""What is read only at the start, and what it is called in the file."""


class Sources:
    """The services of a proxy process: those in its configuration, and those of its providers."""

    def __init__(
        self,
        settings: Config,
        file: ConfigFile | None,
        publish: Callable[[Snapshot], None],
        settled: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        """``settled`` waits until what was published is in force; then a reload is reported."""
        self.config = settings
        """The configuration in force."""
        self._started = settings
        """What holds until a restart of all but the services."""
        self._file = file
        self._publish = publish
        self._settled = settled
        self._providers = Providers(settings, publish)
        self._reload = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Publish what stands in the configuration, and begin to look for more."""
        self._publish(static.snapshot(self.config))
        self._providers.start()

    async def ready(self) -> None:
        """Wait for a first snapshot of every provider, for a while."""
        await self._providers.ready(FIRST_SNAPSHOT_SECONDS)

    def troubles(self) -> dict[str, str]:
        """Why providers know nothing new, by name."""
        return self._providers.troubles()

    def watch(self) -> None:
        """Reload from now on whenever the file changes, and when told to."""
        if self._file is not None:
            self._watching = asyncio.create_task(self._watch(self._file), name="config watch")

    def reload_soon(self) -> None:
        """Read the file again whether it looks changed or not."""
        self._reload.set()

    async def stop(self) -> None:
        """End; what was published stays."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._providers.stop()

    async def _watch(self, file: ConfigFile) -> None:
        """Reload when the file changes; where editors and config tools replace it, too."""
        before = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._reload.wait()
            now = file.look()
            if self._reload.is_set() or (now == before and file.changed(now)):
                self._reload.clear()
                await self._load(file)
            before = now

    async def _load(self, file: ConfigFile) -> None:
        """Publish what the file says now. A bad one changes nothing and is reported."""
        try:
            new = file.load()
        except ConfigError as error:
            log.error("the configuration was not reloaded, the last good one serves on:\n%s", error)
            return
        self.config = new
        self._publish(static.snapshot(new))
        await self._settled()
        log.info("configuration reloaded: %d services", len(new.services))
        fixed = [
            name
            for field, name in _FIXED.items()
            if getattr(self._started, field) != getattr(new, field)
        ]
        if fixed:
            log.warning("changes to %s take effect after a restart", ", ".join(fixed))
