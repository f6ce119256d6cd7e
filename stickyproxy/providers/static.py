"""The static provider: the services in the configuration file.

An endpoint given by a name becomes one endpoint for each address that the name resolves to, known
by both, so that a client stays at one address for as long as the name has it. Names are looked up
again and again; workers are told addresses only.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from stickyproxy.base.addresses import Address, join_host_port
from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ProviderError
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.providers import names
from stickyproxy.providers.names import Resolution, name_in
from stickyproxy.providers.threads import CallThreads

log = logging.getLogger("stickyproxy")

INTERVAL = 10.0
"""Seconds from one look-up of a name to the next, give or take a tenth: the system's resolver does
not tell how long an answer holds."""
FIRST_RETRY = 0.5
"""Seconds until a name that has never been resolved is looked up again: the first time."""
FIRST_ANSWERS = 3.0
"""Seconds that new names may take before the services are published without their endpoints."""
LOOK_UPS = 4
"""Look-ups under way at a time."""


class StaticProvider:
    """Publishes the services of a configuration, and follows the names in them."""

    name = "static"
    confirmed = None
    """Nobody has to be asked."""
    trouble = ""
    """Always: a name that does not resolve is a problem of its services."""

    def __init__(
        self,
        services: Sequence[ServiceSpec],
        publish: Callable[[Snapshot], None],
        look_up: Callable[[str], Sequence[str]] = names.look_up,
        *,
        interval: float = INTERVAL,
        first_answers: float = FIRST_ANSWERS,
    ) -> None:
        """``look_up`` gives the sorted addresses of a host, may block, and raises ProviderError;
        ``interval`` and ``first_answers`` are in seconds."""
        self.ready = asyncio.Event()
        """Set when the services have been published."""
        self._services = services
        self._publish = publish
        self._look_up = look_up
        self._interval = interval
        self._first_answers = first_answers
        self._names: dict[str, _FollowedName] = {}
        self._tasks: asyncio.TaskGroup | None = None
        """Of the names; None: it does not run."""
        self._threads: CallThreads | None = None
        """Where names are looked up; None: there has been none yet."""
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Publish until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self.use(self._services)
                while True:
                    await self._changed.wait()
                    self._tell()
        finally:
            self._tasks = None
            self._names = {}
            if self._threads is not None:
                self._threads.stop()
                self._threads = None

    async def use(self, services: Sequence[ServiceSpec]) -> None:
        """Publish these from now on. New names are looked up first, so that no service is without
        its endpoints for a moment."""
        if self._tasks is not None:
            await self._follow(_names_in(services), self._tasks)
        self._services = services
        self._tell()
        self.ready.set()

    async def _follow(self, wanted: frozenset[str], tasks: asyncio.TaskGroup) -> None:
        """Begin to follow those that are new, and forget those that are gone."""
        for name in sorted(wanted - self._names.keys()):
            followed = self._names[name] = _FollowedName()
            followed.task = tasks.create_task(self._keep(name, followed), name=f"look up {name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._first_answers):
                for name in wanted:
                    await self._names[name].answered.wait()
        for name in self._names.keys() - wanted:
            followed = self._names.pop(name)
            if followed.task is not None:
                followed.task.cancel()

    async def _keep(self, name: str, followed: _FollowedName) -> None:
        """Look a name up until cancelled."""
        if self._threads is None:
            self._threads = CallThreads("resolver", LOOK_UPS)
        threads = self._threads
        early = Backoff(FIRST_RETRY, self._interval)
        while True:
            before = followed.resolution
            try:
                answer = await threads.run(lambda: self._look_up(name))
                followed.resolution = before.after(answer)
            except ProviderError as error:
                followed.resolution = before.after_failure(str(error))
            followed.answered.set()
            if followed.resolution != before:
                self._changed.set()
            pause = self._interval if followed.resolution.addresses else early.next()
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311  # not secret

    def _tell(self) -> None:
        self._changed.clear()
        known = {name: self._names[name].resolution for name in self._names}
        self._publish(snapshot(self._services, known))


class _FollowedName:
    """A name that is looked up again and again."""

    def __init__(self) -> None:
        self.resolution = names.Resolution()
        self.answered = asyncio.Event()
        """Set when the first attempt to look it up has ended."""
        self.task: asyncio.Task[None] | None = None


# --- pure -----------------------------------------------------------------------------------


def snapshot(services: Iterable[ServiceSpec], known: Mapping[str, Resolution]) -> Snapshot:
    """The services with addresses for names, by what is ``known`` of each."""
    specs: list[ServiceSpec] = []
    problems: list[Problem] = []
    for service in services:
        endpoints = tuple(
            each
            for endpoint in service.endpoints
            for each in _resolved(endpoint, known, tells_name=service.tls is not None)
        )
        specs.append(replace(service, endpoints=endpoints))
        problems += _unresolved(service, endpoints, known)
    return Snapshot("static", tuple(specs), tuple(problems))


def _names_in(services: Iterable[ServiceSpec]) -> frozenset[str]:
    found = (name_in(each.address) for service in services for each in service.endpoints)
    return frozenset(name for name in found if name)


def _resolved(
    endpoint: EndpointSpec, known: Mapping[str, Resolution], *, tells_name: bool
) -> Iterator[EndpointSpec]:
    """One endpoint for each address, or itself if it is given by none but an address.
    ``tells_name``: they are asked for a certificate for it."""
    name = name_in(endpoint.address)
    if not name:
        yield endpoint
        return
    port = Address.parse(endpoint.address).port or 0
    resolution = known.get(name, Resolution())
    for addresses, draining in ((resolution.addresses, False), (resolution.leaving, True)):
        for each in addresses:
            address = join_host_port(each, port)
            server_name = name if tells_name else ""
            yield EndpointSpec(
                f"{endpoint.id}/{address}",
                address,
                draining,
                server_name=server_name,
                slot=endpoint.slot,
            )


def _unresolved(
    service: ServiceSpec, endpoints: Sequence[EndpointSpec], known: Mapping[str, Resolution]
) -> Iterator[Problem]:
    for name in sorted(_names_in([service])):
        resolution = known.get(name, Resolution())
        if not resolution.trouble:
            continue
        if resolution.addresses:
            reason = (
                f"{name} no longer resolves ({resolution.trouble}): its last addresses are kept"
            )
        else:
            reason = (
                f"{name} does not resolve ({resolution.trouble}): correct the name, or put the "
                "proxy where it is known (in Docker: on a network of that container)"
            )
        remedy = f"getent ahosts {name}"
        yield Problem(service.name, reason, remedy=remedy, fatal=not endpoints)
