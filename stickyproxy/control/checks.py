"""CONTROL: active checks: a request of our own to every endpoint of a service that asks for it.

    ``fall`` checks in a row fail    the endpoint is unhealthy
    ``rise`` checks in a row pass    it is well again

An endpoint that is new is used at once: other proxies may have pinned sessions to it already. It is
checked at once too, and often; until it has passed for the first time, one check decides either
way: what is still starting is out as soon as it was asked, and in as soon as it is ready.

One process does this for all of a proxy, and the one that forwards nothing if there is one: a busy
event loop must not make endpoints look slow. Each check is a connection of its own, made like those
of requests (through connectors, with TLS). If it cannot be made for a reason that is ours, it says
nothing.
"""

from __future__ import annotations

import asyncio
import random
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from stickyproxy.base.errors import OutOfResources, UpstreamError
from stickyproxy.model.events import EventKind, tell
from stickyproxy.model.health import Checks, Outage
from stickyproxy.model.service import EndpointKey, ServiceSpec
from stickyproxy.model.snapshot import Problem
from stickyproxy.model.target import Target

AT_ONCE = 64
"""Checks under way at a time."""
SPREAD = (0.01, 2.0)
"""Seconds over which the first checks of new endpoints are spread: for each one, and at most."""
STARTING_INTERVAL = 1.0
"""Most seconds from one check to the next of an endpoint that has never passed one."""


class Asks(Protocol):
    """Asks one target, again and again."""

    async def status(self, head: bytes, seconds: float) -> int:
        """The status of the response to a request of this head. Raises UpstreamError, also if it
        is not there in time, and OutOfResources."""

    def close(self) -> None:
        """It is asked no more."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An endpoint, and how it is checked."""

    target: Target
    checks: Checks

    @property
    def head(self) -> bytes:
        """The head of the request."""
        address = self.target.address
        host = self.checks.host or ("localhost" if address.startswith("unix:") else address)
        return (
            f"GET {self.checks.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: stickyproxy\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n"
        ).encode()


class CheckRecord:
    """What came of the checks of one endpoint."""

    __slots__ = ("_checks", "_in_a_row", "proven", "well")

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._in_a_row = 0
        """Checks that said the opposite of ``well``."""
        self.proven = False
        """True once it has passed a check."""
        self.well = True

    def note(self, failure: str) -> bool:
        """Note a check; ``failure`` is empty if it was passed. True if ``well`` has changed."""
        passed = not failure
        if passed is self.well:
            self._in_a_row = 0
            self.proven = self.proven or passed
            return False
        self._in_a_row += 1
        needed = self._checks.rise if passed else self._checks.fall
        if self.proven and self._in_a_row < needed:
            return False
        self._in_a_row = 0
        self.well, self.proven = passed, self.proven or passed
        return True


class Checker:
    """Checks the endpoints of all services that ask for it, each in a task of its own."""

    def __init__(self, asks: Callable[[Target], Asks], changed: Callable[[], None]) -> None:
        """``changed`` is called when the keys of ``outages`` change."""
        self._asks = asks
        self._changed = changed
        self._checked: dict[EndpointKey, Checked] = {}
        self.outages: dict[EndpointKey, Outage] = {}
        """The endpoints that fail their checks, and why."""
        self._tasks: dict[EndpointKey, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def use(self, services: Iterable[ServiceSpec]) -> None:
        """Check the endpoints of these from now on. Those whose target and checks are as before go
        on as before."""
        wanted = {
            (service.name, spec.id): Checked(spec.target(service.tls), service.checks)
            for service in services
            if service.checks is not None
            for spec in service.endpoints
        }
        before = self._checked
        self._checked = wanted
        ended = [key for key in before if wanted.get(key) != before[key]]
        begun = [key for key in wanted if wanted[key] != before.get(key)]
        for key in ended:
            self._tasks.pop(key).cancel()
        for key in begun:
            delay = random.uniform(0, min(len(begun) * SPREAD[0], SPREAD[1]))  # noqa: S311  # not secret
            self._tasks[key] = asyncio.create_task(
                self._keep_checking(key, wanted[key], delay),
                name=f"checks of {wanted[key].target}",
            )
        if ended_out := self.outages.keys() & ended:
            for key in ended_out:
                del self.outages[key]
            self._changed()

    async def stop(self) -> None:
        """Check no more."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def problems(self) -> Iterator[Problem]:
        """Services of which every endpoint fails: most likely it is the check that is wrong."""
        by_service: dict[str, list[EndpointKey]] = {}
        for key in self._checked:
            by_service.setdefault(key[0], []).append(key)
        for service, keys in by_service.items():
            if self.outages.keys() >= {*keys}:
                yield _all_fail(service, self._checked[keys[0]], self.outages[keys[0]].reason)

    async def _keep_checking(self, key: EndpointKey, checked: Checked, delay: float) -> None:
        asks, checks, record = (
            self._asks(checked.target),
            checked.checks,
            CheckRecord(checked.checks),
        )
        clock = asyncio.get_running_loop().time
        name = f"service {key[0]}: endpoint {checked.target}"
        try:
            await asyncio.sleep(delay)
            while True:
                began = clock()
                failure = await self._check(asks, checked)
                if failure is not None and record.note(failure):
                    if record.well:
                        tell(
                            EventKind.ENDPOINT_BACK,
                            f"{name} passes its checks again",
                            **_details(key, checked),
                        )
                        del self.outages[key]
                    else:
                        tell(
                            EventKind.ENDPOINT_EJECTED,
                            f"{name} fails its checks: {failure}",
                            **_details(key, checked),
                            reason=failure,
                        )
                        self.outages[key] = Outage(failure, time.time())
                    self._changed()
                elif failure and not record.well:
                    self.outages[key] = replace(self.outages[key], reason=failure)
                interval = checks.interval
                if not record.proven:
                    interval = min(interval, STARTING_INTERVAL)
                interval *= random.uniform(0.9, 1.1)  # noqa: S311  # not secret
                await asyncio.sleep(began + interval - clock())
        finally:
            asks.close()

    async def _check(self, asks: Asks, checked: Checked) -> str | None:
        """What is wrong; empty: nothing, None: unknown."""
        checks = checked.checks
        async with self._slots:
            try:
                status = await asks.status(checked.head, checks.timeout)
            except OutOfResources:
                return None
            except UpstreamError as error:
                return f"GET {checks.path}: {error}"
        return "" if checks.passes(status) else f"GET {checks.path}: {status}, not {checks.wanted}"


def _all_fail(service: str, checked: Checked, reason: str) -> Problem:
    checks, target = checked.checks, checked.target
    scheme, options = ("http", ["-i"]) if target.tls is None else ("https", ["-i", "-k"])
    place = target.address
    if place.startswith("unix:"):
        options += ["--unix-socket", place.removeprefix("unix:")]
        place = "localhost"
    options += ["-H", f"Host: {checks.host or place}", f"{scheme}://{place}{checks.path}"]
    return Problem(
        service,
        f"every endpoint fails its check, so all of them are used ({reason}): see whether "
        "healthcheck_path, healthcheck_host and healthcheck_status are right",
        remedy=shlex.join(["curl", *options]),
    )


def _details(key: EndpointKey, checked: Checked) -> dict[str, Any]:
    """What an event says of an endpoint."""
    service, endpoint = key
    return {"service": service, "endpoint": endpoint, "address": checked.target.address}
