"""The controller provider: a proxy that follows a controller, by long poll.

It reports to the controller what it does, so that one place can tell it of all proxies.

A proxy has no state of its own except the cache file, which it starts from when no controller
responds. What is published stays until something else arrives.

The channel is TLS (``base/token_tls.py``), or plain HTTP if the url says so: then no key comes over
it. What comes may hold keys, so the cache file is for its owner alone.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import aiohttp

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ProviderError
from stickyproxy.base.files import write_whole
from stickyproxy.config import codec
from stickyproxy.config.settings import FollowSettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.contact import Contact

log = logging.getLogger("stickyproxy")

WAIT = 25.0
"""Seconds a poll is held by the controller when nothing changes."""
PATIENCE = 5.0
"""Seconds a connection may take, and a response beyond WAIT."""
BACKOFF = (0.25, 5.0)
"""Seconds before the controller is asked again after a failure: the first time, and at most."""
REPORT_SECONDS = 10.0
"""Between two reports, if the controller does not say."""
UNHEARD_SECONDS = 60.0
"""The same if it does not know what a report is, being older."""
AT_LEAST_SECONDS = 0.1
"""Between two reports, whatever the reason."""
LEFTOVER_SECONDS = 60.0
"""Age from which a temporary file counts as left over from an interrupted write."""


class MakesReports(Protocol):
    """Makes reports."""

    def __call__(self, *, services: bool) -> Awaitable[bytes]:
        """What is reported; ``services``: they are wanted."""


class ControllerProvider:
    """Publishes the snapshots of a controller."""

    name = "controller"

    def __init__(
        self,
        settings: FollowSettings,
        publish: Callable[[Snapshot], None],
        report: MakesReports | None = None,
    ) -> None:
        """``report``: None: nothing is reported."""
        self.ready = asyncio.Event()
        """Set when something has been published."""
        self._settings = settings
        self._publish = publish
        self._cache = None if settings.cache_file is None else Path(settings.cache_file)
        self._version = ""
        self._report = report
        self._news = asyncio.Event()
        """Set when there is another snapshot in force: what is left on endpoints may matter; and
        when services are wanted."""
        self._wanted = False
        """Whether reports are to have services."""
        self._me = uuid.uuid4().hex
        """What the controller tells proxies apart by."""
        self._contact = Contact(self.name, "it", Backoff(*BACKOFF, jitter=0.5))

    @property
    def trouble(self) -> str:
        """Why the controller cannot be reached; empty: all is well."""
        return self._contact.trouble

    @property
    def confirmed(self) -> float | None:
        """See ``Contact``."""
        return self._contact.confirmed

    async def run(self) -> None:
        """Publish until cancelled."""
        self._start_from_cache()
        timeout = aiohttp.ClientTimeout(total=WAIT + PATIENCE, sock_connect=PATIENCE)
        token = self._settings.token.decode("utf-8", "surrogateescape")
        headers = {"Authorization": f"Bearer {token}"}
        tls = None
        if self._settings.url.startswith("https://"):
            # It takes 10 MiB, which a proxy without a controller need not have.
            from stickyproxy.base.token_tls import client_context  # noqa: PLC0415

            tls = await asyncio.to_thread(client_context, self._settings.token)
        async with (
            aiohttp.ClientSession(
                timeout=timeout,
                headers=headers,
                connector=aiohttp.TCPConnector(ssl=True if tls is None else tls),
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._keep_polling(session), name="controller")
            if self._report is not None:
                tasks.create_task(
                    self._keep_reporting(session, self._report), name="reports to the controller"
                )

    async def _keep_polling(self, session: aiohttp.ClientSession) -> None:
        while True:
            try:
                await self._poll(session)
                self._contact.restored()
            except ProviderError as error:
                pause = self._contact.lost(error, has_routes=bool(self._version))
                await asyncio.sleep(pause)

    async def _keep_reporting(self, session: aiohttp.ClientSession, report: MakesReports) -> None:
        """Whether the controller can be reached is seen by polling; who cannot report waits."""
        await self.ready.wait()
        pause = 0.0
        while True:
            await asyncio.sleep(min(pause, AT_LEAST_SECONDS))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
            self._news.clear()
            version = self._version  # a newer one may be in force when the report is made
            body = await report(services=self._wanted)
            try:
                pause, self._wanted = await self._tell(session, version, body)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                log.debug("controller: no report: %s", error)
                pause, self._wanted = REPORT_SECONDS, False

    async def _tell(
        self, session: aiohttp.ClientSession, version: str, body: bytes
    ) -> tuple[float, bool]:
        """Report, by the snapshot of this version; returns in how many seconds again, and whether
        services are wanted then. Raises what aiohttp raises, and ValueError."""
        url = f"{self._settings.url}/v1/report"
        me = {"proxy": self._me, "version": version}
        kind = {"Content-Type": "application/json"}
        async with session.post(url, params=me, data=body, headers=kind) as response:
            if response.status != 200:
                return UNHEARD_SECONDS, False
            said = await response.json()
        try:
            pause = max(AT_LEAST_SECONDS, min(float(said["again"]), UNHEARD_SECONDS))
            return pause, bool(said["services"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"its answer is not understood: {error!r}") from error

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        """One long poll. Raises ProviderError."""
        # After a failure, ask for an immediate response: it shows that the controller is back.
        wait = 0 if self._contact.is_lost else WAIT
        url = f"{self._settings.url}/v1/snapshot"
        try:
            asked = {"after": self._version, "wait": wait, "proxy": self._me}
            async with session.get(url, params=asked) as response:
                if response.status == 304:
                    if "Report-Wanted" in response.headers and not self._wanted:
                        self._wanted = True
                        self._news.set()
                    return
                body = await response.read()
                if response.status != 200:
                    text = body[:200].decode("ascii", "replace").strip()
                    raise ProviderError(f"{self._settings.url}: {response.status} {text}")
            await self._take(body)
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise ProviderError(f"{self._settings.url}: {_tls_trouble(error)}") from error
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or str(error.os_error)
            raise ProviderError(f"{self._settings.url}: cannot connect: {reason}") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            reason = str(error) or "it does not respond in time"
            raise ProviderError(f"{self._settings.url}: {reason}") from error

    async def _take(self, data: bytes) -> None:
        """Publish an encoded snapshot and keep it for the next start. Raises ValueError."""
        self._accept(data)
        if self._cache is not None:
            try:
                await asyncio.to_thread(write_whole, self._cache, data)
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
        except Exception as error:  # whatever it is: the controller knows better
            log.warning("controller: %s is not used: %r", self._cache, error)
            return
        log.info("controller: started from %s, version %s", self._cache, self._version)

    def _accept(self, data: bytes) -> None:
        """Publish an encoded snapshot, and only then note its version: one that cannot be published
        is requested again. Raises ValueError."""
        snapshot = codec.decode(data)
        self._publish(replace(snapshot, provider=self.name))
        self._version = codec.version(data)
        self.ready.set()
        self._news.set()


def _tls_trouble(error: Exception) -> str:
    """Why no connection came about over TLS."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "it has another token: give both the same"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "what listens there does not speak TLS: update the controller, or write http://"
    return f"no TLS connection: {text}"


def _remove_leftovers(path: Path) -> None:
    """Files left by interrupted writes, but not what another process is writing just now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                leftover.unlink()
