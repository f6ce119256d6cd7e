"""The configuration file while the program runs: it is watched, and read again when it changes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from stickyproxy.base.errors import ConfigError
from stickyproxy.config.load import load
from stickyproxy.config.settings import Config
from stickyproxy.model.events import EventKind, tell

log = logging.getLogger("stickyproxy")

WATCH_SECONDS = 0.5
"""How often the file is looked at. It must look the same twice before it is read: half of a file
that is being written can be a valid one, with half of the services."""

Fingerprint = tuple[tuple[int, int, int] | None, ...]
"""Of each file; None if there is none."""


class ConfigFile:
    """The file with those whose content it asks for, and what they looked like when they were last
    read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._others: tuple[str, ...] = ()
        self._read: Fingerprint = ()

    def load(self) -> Config:
        """Read it. Raises ConfigError."""
        self._read = self.look()
        config = load(self._path)
        if config.files != self._others:
            self._others = config.files
            self._read = self.look()
        return config

    def look(self) -> Fingerprint:
        """What they look like now."""
        return _look(self._path), *map(_look, self._others)

    def changed(self, look: Fingerprint) -> bool:
        """True if these are not the files that were read."""
        return look[0] is not None and look != self._read


def _look(path: Path | str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


_FIXED: Mapping[str, Callable[[Config], object]] = {
    "[[listeners]]": lambda config: config.listeners,
    "[proxy]": lambda config: replace(config.proxy, tracing=None),
    "[tracing]": lambda config: config.proxy.tracing,
    "[access_log]": lambda config: config.access_log,
    "[log]": lambda config: config.log,
    "[admin]": lambda config: (config.admin, config.operator),
    "[providers.swarm]": lambda config: config.swarm,
    "[providers.docker]": lambda config: config.docker,
    "[providers.controller]": lambda config: config.follow,
    "[acme]": lambda config: config.acme,
}
"""What is only read at the start, by the name of its table."""


def needs_restart(started: Config, new: Config) -> list[str]:
    """The tables of ``new`` that differ from what the program started with, and that it does not
    read again."""
    return [table for table, part in _FIXED.items() if part(started) != part(new)]


class Reloader:
    """Reads the file again when it changes and when told to."""

    def __init__(
        self, file: ConfigFile, started: Config, use: Callable[[Config], Awaitable[None]]
    ) -> None:
        """``started`` is the configuration that the program started with. ``use`` puts the services
        of another one into force."""
        self._file = file
        self._started = started
        self._use = use
        self._now = asyncio.Event()

    def reload_soon(self) -> None:
        """Read the file again whether it looks changed or not."""
        self._now.set()

    async def watch(self) -> None:
        """Do so until cancelled. A file that is replaced, as editors and configuration tools do
        it, counts as changed."""
        before: Fingerprint = ()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._now.wait()
            look = self._file.look()
            if self._now.is_set() or (look == before and self._file.changed(look)):
                self._now.clear()
                await self._reload()
            before = look

    async def _reload(self) -> None:
        """Use what the file says now. A bad one is reported and changes nothing."""
        try:
            new = self._file.load()
        except ConfigError as error:
            tell(
                EventKind.CONFIG_REFUSED,
                f"the configuration was not reloaded; the last good one stays in force:\n{error}",
                reason=str(error),
            )
            return
        await self._use(new)
        count = len(new.services)
        tell(EventKind.CONFIG_RELOADED, f"configuration reloaded: {count} services", services=count)
        fixed = needs_restart(self._started, new)
        if fixed:
            log.warning("changes to %s take effect after a restart", ", ".join(fixed))
