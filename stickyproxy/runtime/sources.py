"""Where the services of a process come from: its configuration file and its providers.

Whatever is found goes to ``publish``, as whole snapshots.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stickyproxy.config.settings import Config
from stickyproxy.control.orders import Orders
from stickyproxy.control.reload import ConfigFile, Reloader
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.controller import ControllerProvider, MakesReports
from stickyproxy.providers.static import StaticProvider

if TYPE_CHECKING:
    from stickyproxy.providers.acme.provider import AcmeProvider
    from stickyproxy.providers.certificates import CertificatesProvider

log = logging.getLogger("stickyproxy")

Publish = Callable[[Snapshot], None]

FIRST_SNAPSHOT_SECONDS = 5.0
"""How long listeners stay closed while there is no first snapshot: most are there much sooner, and
a client that waits a little is better off than one that is told 503. After that it is told."""

REVIEW_SECONDS = 60.0
"""How often it is seen which certificates are about to expire."""

RESTART_SECONDS = 5.0
"""Pause before a provider that failed unexpectedly is started again."""


class Provider(Protocol):
    """A source of services that changes by itself."""

    name: str
    ready: asyncio.Event
    """Set when it has published for the first time."""

    @property
    def trouble(self) -> str:
        """Why its source cannot be reached; empty: all is well."""

    @property
    def confirmed(self) -> float | None:
        """When its source responded last, in Unix time; None: it never has, or there is nobody to
        ask."""

    async def run(self) -> None:
        """Publish until cancelled."""


class Providers:
    """The providers that a configuration asks for."""

    def __init__(
        self,
        settings: Config,
        publish: Callable[[Snapshot], None],
        of_file: Sequence[Provider] = (),
        acme: AcmeProvider | None = None,
        report: MakesReports | None = None,
    ) -> None:
        """``of_file``: those of ``[[services]]`` and ``[[certificates]]``, if requests are
        forwarded by this process or its workers, so that the networks of its container are those
        that count. ``report``: what a controller is told of them; None: nothing."""
        found = _providers(settings, publish, report, forwards_here=bool(of_file))
        self._providers = [*of_file, *([] if acme is None else [acme]), *found]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to publish."""
        for provider in self._providers:
            task = asyncio.create_task(_keep_running(provider), name=f"provider {provider.name}")
            self._tasks.append(task)

    async def ready(self, seconds: float) -> bool:
        """Wait until every one has published, but not for longer than that; returns whether."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for provider in self._providers:
                    await provider.ready.wait()
        return all(provider.ready.is_set() for provider in self._providers)

    def troubles(self) -> dict[str, str]:
        """Why sources cannot be reached, by name of the provider."""
        return {each.name: each.trouble for each in self._providers if each.trouble}

    def confirmed(self) -> dict[str, float]:
        """When sources responded last, in Unix time, by name of the provider."""
        return {each.name: each.confirmed for each in self._providers if each.confirmed}

    async def stop(self) -> None:
        """Stop them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _providers(
    settings: Config,
    publish: Callable[[Snapshot], None],
    report: MakesReports | None,
    *,
    forwards_here: bool,
) -> Iterator[Provider]:
    if settings.swarm is not None:
        # Only here: a proxy that follows a controller never even loads the docker SDK.
        from stickyproxy.providers.swarm.provider import SwarmProvider  # noqa: PLC0415

        yield SwarmProvider(settings.swarm, publish, forwards_here=forwards_here)
    if settings.docker is not None:
        from stickyproxy.providers.docker.provider import DockerProvider  # noqa: PLC0415

        yield DockerProvider(settings.docker, publish)
    if settings.follow is not None:
        yield ControllerProvider(settings.follow, publish, report)


def with_acme(
    settings: Config, publish: Publish, settled: Callable[[], Awaitable[None]]
) -> tuple[Publish, AcmeProvider | None]:
    """How other providers publish where certificates are ordered for their services, and who orders
    them. Certificates are published first, so that nobody gets a service without those that there
    are. ``settled`` waits until what was published is in force."""
    if settings.acme is None:
        return publish, None
    # Only here: the libraries for it take their time.
    from stickyproxy.providers.acme.provider import AcmeProvider  # noqa: PLC0415
    from stickyproxy.providers.acme.storage import DirectoryStore, Store  # noqa: PLC0415

    store: Store = DirectoryStore(settings.acme.storage)
    if settings.acme.storage == "swarm" and settings.swarm is not None:
        from stickyproxy.providers.acme.vault import SwarmStore  # noqa: PLC0415

        store = SwarmStore(settings.swarm, settings.acme.secret)
    acme = AcmeProvider(settings.acme, publish, store, settled)

    def seen_by_acme(snapshot: Snapshot) -> None:
        acme.see(snapshot)
        publish(snapshot)

    return seen_by_acme, acme


def _certificates(settings: Config, publish: Publish) -> CertificatesProvider | None:
    if not has_tls(settings):
        if settings.certificates:
            log.warning("[[certificates]] has no effect: no listener has tls")
        return None
    # Only here: who speaks in the clear alone need not load what certificates are read with.
    from stickyproxy.providers.certificates import CertificatesProvider  # noqa: PLC0415

    makes_default = settings.proxy.default_certificate
    return CertificatesProvider(settings.certificates, publish, makes_default=makes_default)


def names(settings: Config) -> tuple[str, ...]:
    """Names of the providers that a configuration asks for, except the static one."""
    asked = {
        "swarm": settings.swarm,
        "docker": settings.docker,
        "controller": settings.follow,
        "acme": settings.acme,
    }
    return tuple(name for name in asked if asked[name] is not None)


def has_tls(settings: Config) -> bool:
    """True if some listener has TLS."""
    return any(listener.tls is not None for listener in settings.listeners)


def waiting_for(awaited: Iterable[str], troubles: Mapping[str, str]) -> str:
    """The providers that have not published yet, and why; empty: all have."""
    return "; ".join(f"{name}: {troubles.get(name) or 'no response yet'}" for name in awaited)


async def _keep_running(provider: Provider) -> None:
    """Run a provider; after a bug, again."""
    while True:
        try:
            await provider.run()
        except Exception:
            log.exception("provider %s failed: this is a bug in stickyproxy", provider.name)
        await asyncio.sleep(RESTART_SECONDS)


async def _at_once() -> None:
    """There are no workers to wait for."""


class Sources:
    """The services of a proxy process: those in its configuration, and those of its providers."""

    def __init__(
        self,
        settings: Config,
        file: ConfigFile | None,
        publish: Callable[[Snapshot], None],
        settled: Callable[[], Awaitable[None]] = _at_once,
        *,
        review: Callable[[], None],
        report: MakesReports | None = None,
    ) -> None:
        """``settled`` waits until what was published is in force; then a reload is reported.
        ``review`` is called from time to time: there are problems that come with time.
        ``report``: what a controller is told."""
        self.config = settings
        """The configuration in force."""
        self._settled = settled
        state_file = settings.operator.state_file
        self.orders = Orders(publish, Path(state_file) if state_file else None, settled)
        """What operators want of endpoints."""
        publish, acme = with_acme(settings, self.orders.publish, settled)
        self._static = StaticProvider(settings.services, publish)
        self._certificates = _certificates(settings, publish)
        of_file: list[Provider] = [self._static]
        if self._certificates is not None:
            of_file.append(self._certificates)
        self._providers = Providers(settings, publish, of_file, acme, report)
        self._reloader = None if file is None else Reloader(file, settings, self._use)
        self._watching: asyncio.Task[None] | None = None
        self._review = review
        self._reviewing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to publish."""
        self._providers.start()
        self._reviewing = asyncio.create_task(self._keep_reviewing(), name="review")

    async def ready(self) -> bool:
        """Wait for a first snapshot of every provider, for a while; returns whether they are
        there."""
        return await self._providers.ready(FIRST_SNAPSHOT_SECONDS)

    def troubles(self) -> dict[str, str]:
        """Why sources cannot be reached, by name of the provider."""
        return self._providers.troubles()

    def confirmed(self) -> dict[str, float]:
        """When sources responded last that have to be asked, in Unix time."""
        return self._providers.confirmed()

    def watch(self) -> None:
        """Reload from now on whenever the file changes, and when told to."""
        if self._reloader is not None:
            self._watching = asyncio.create_task(self._reloader.watch(), name="config watch")

    def reload_soon(self) -> None:
        """Read the file again whether it looks changed or not."""
        if self._reloader is not None:
            self._reloader.reload_soon()

    async def stop(self) -> None:
        """Stop; what was published stays."""
        tasks = [task for task in (self._watching, self._reviewing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._providers.stop()

    async def _keep_reviewing(self) -> None:
        while True:
            await asyncio.sleep(REVIEW_SECONDS)
            self._review()

    async def _use(self, new: Config) -> None:
        self.config = new
        if self._certificates is not None:
            await self._certificates.use(new.certificates)
        await self._static.use(new.services)
        await self._settled()
