"""The controller provider: a proxy that follows a controller, by long poll.

A proxy has no state of its own but the cache file, from which it starts when no controller
answers. What is published stays until something else comes.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp

from stickyproxy.base.errors import ProviderError
from stickyproxy.config import codec
from stickyproxy.config.load import FollowSettings
from stickyproxy.model.snapshot import Snapshot

log = logging.getLogger("stickyproxy")

WAIT = 25.0
"""Seconds a poll is held by the controller when nothing changes."""
PATIENCE = 5.0
"""Seconds a connection may take, and an answer beyond WAIT."""
BACKOFF = (0.25, 5.0)
"""Seconds before the controller is asked again after a failure: the first time, and at most."""
LEFTOVER_SECONDS = 60.0
"""Age from which a file that was to take the cache file's place never will."""


class ControllerProvider:
    """Publishes what a controller says."""

    name = "controller"

    def __init__(self, settings: FollowSettings, publish: Callable[[Snapshot], None]) -> None:
        self.ready = asyncio.Event()
        """Set when there is something published."""
        self._settings = settings
        self._publish = publish
        self._cache = None if settings.cache_file is None else Path(settings.cache_file)
        self._version = ""
        self._failures = 0
        self.trouble = ""
        """Why nothing new is known; empty: all is well."""

    async def run(self) -> None:
        """Publish until cancelled."""
        self._start_from_cache()
        timeout = aiohttp.ClientTimeout(total=WAIT + PATIENCE, sock_connect=PATIENCE)
        token = self._settings.token.decode("utf-8", "surrogateescape")
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            while True:
                try:
                    await self._poll(session)
                    if self._failures:
                        log.info("controller: it answers again")
                    self._failures, self.trouble = 0, ""
                except ProviderError as error:
                    await self._wait_after(error)

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        """One long poll. Raises ProviderError."""
        # After a failure, ask for an answer at once: it tells that the controller is back.
        wait = 0 if self._failures else WAIT
        url = f"{self._settings.url}/v1/snapshot"
        try:
            async with session.get(url, params={"after": self._version, "wait": wait}) as response:
                if response.status == 304:
                    return
                body = await response.read()
                if response.status != 200:
                    text = body[:200].decode("ascii", "replace").strip()
                    raise ProviderError(f"{self._settings.url}: {response.status} {text}")
            await self._take(body)
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or str(error.os_error)
            raise ProviderError(f"{self._settings.url}: cannot connect: {reason}") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            reason = str(error) or "it does not answer in time"
            raise ProviderError(f"{self._settings.url}: {reason}") from error

    async def _wait_after(self, error: ProviderError) -> None:
        self._failures += 1
        kept = "routes are kept" if self._version else "no route is known yet"
        trouble = f"{error}; {kept}, trying again"
        if trouble != self.trouble:
            log.warning("controller: %s", trouble)
            self.trouble = trouble
        first, most = BACKOFF
        longest = min(most, first * 2 ** min(self._failures - 1, 16))
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311  # not secret

    async def _take(self, data: bytes) -> None:
        """Publish an encoded snapshot and keep it for the next start. Raises ValueError."""
        self._accept(data)
        if self._cache is not None:
            try:
                await asyncio.to_thread(_write_whole, self._cache, data)
            except OSError as error:
                log.warning("controller: %s cannot be written: %s", self._cache, error.strerror)

    def _start_from_cache(self) -> None:
        if self._cache is None:
            return
        _remove_leftovers(self._cache)
        try:
            self._accept(self._cache.read_bytes())
        except FileNotFoundError:
            return
        except Exception as error:  # whatever it is: the controller will say what is true
            log.warning("controller: %s is not used: %r", self._cache, error)
            return
        log.info("controller: started from %s, version %s", self._cache, self._version)

    def _accept(self, data: bytes) -> None:
        """Publish an encoded snapshot. Only then its version is ours: one that cannot be published
        is asked for again. Raises ValueError."""
        snapshot = codec.decode(data)
        self._publish(replace(snapshot, provider=self.name))
        self._version = codec.version(data)
        self.ready.set()


def _write_whole(path: Path, data: bytes) -> None:
    """Replace the file: whoever reads it, even after a crash, finds the old or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        with suppress(OSError):
            os.unlink(name)
        raise


def _remove_leftovers(path: Path) -> None:
    """What writes that were cut short have left; not what another process is writing just now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                leftover.unlink()
