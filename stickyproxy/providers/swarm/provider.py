"""The Swarm provider: events and the clock wake it; it lists, reads and publishes.

Events only wake, because Docker has none for tasks: the listing is the truth. The docker SDK
blocks, so it never runs on the event loop: listings have one thread, the event stream another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import SwarmSettings
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.providers.contact import Contact
from stickyproxy.providers.engine.client import BACKOFF
from stickyproxy.providers.engine.events import EventWatch
from stickyproxy.providers.swarm.connectors import ConnectorPlanner
from stickyproxy.providers.swarm.contents import SecretContents
from stickyproxy.providers.swarm.custodian import CustodianPlanner
from stickyproxy.providers.swarm.engine import Engine, View
from stickyproxy.providers.swarm.networks import NetworkPlanner
from stickyproxy.providers.swarm.reader import Reading, SwarmReader
from stickyproxy.providers.threads import CallThreads

log = logging.getLogger("stickyproxy")

FAST_POLL = 0.25
"""Seconds between listings while a published service converges."""
FAST_POLL_LIMIT = 30.0
"""Seconds without any change after which a service that never converges is no longer watched
closely."""
SETTLE = 2.0
"""Seconds of close watching after an event: what it announces is listed a little later."""
LISTING_SHARE = 0.1
"""Part of a core that listings may take while polling fast."""


class SwarmProvider:
    """Publishes the labelled services of a Swarm, and keeps in step with it."""

    name = "swarm"

    def __init__(
        self,
        settings: SwarmSettings,
        publish: Callable[[Snapshot], None],
        *,
        forwards_here: bool = True,
    ) -> None:
        self.ready = asyncio.Event()
        """Set when something has been published and networks that can be joined at once are."""
        self._settings = settings
        self._publish = publish
        self._engine = Engine(settings, forwards_here=forwards_here)
        self._planner = NetworkPlanner(settings)
        self._connectors = ConnectorPlanner(settings, self._planner.may_join)
        self._reader = SwarmReader(settings.service_cluster, self._planner.may_join)
        self._custodian = CustodianPlanner()
        self._contents = SecretContents(self._engine)
        self._has_published = False
        self._reading: Reading | None = None
        self._view: View | None = None
        self._reported: tuple[Problem, ...] = ()
        """Problems of the planners that have been published."""
        self._joined = False
        """Networks were joined at the last step."""
        self._woken = asyncio.Event()
        self._contact = Contact(self.name, "the engine", Backoff(*BACKOFF, jitter=0.5))
        self._last_change = 0.0
        self._last_event = 0.0

    @property
    def trouble(self) -> str:
        """Why the engine cannot be reached; empty: all is well."""
        return self._contact.trouble

    @property
    def confirmed(self) -> float | None:
        """See ``Contact``."""
        return self._contact.confirmed

    async def run(self) -> None:
        """Publish until cancelled."""
        loop = asyncio.get_running_loop()
        thread = CallThreads("swarm listing")
        events = EventWatch(self._settings, lambda: _call_soon(loop, self._on_event))
        try:
            while True:
                pause = await self._step(thread)
                # What is on a network that was joined just now is in the next reading.
                if self._has_published and not self._joined:
                    self.ready.set()
                self._woken.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
        finally:
            events.stop()
            thread.stop()

    def _on_event(self) -> None:
        self._last_event = time.monotonic()
        self._woken.set()

    async def _step(self, thread: CallThreads) -> float:
        """Ask, publish and join; returns the seconds until that is due again, unless an event
        comes. However many come, listings do not take more than their share of the time."""
        try:
            view, cost = await thread.run(self._see)
        except ProviderError as error:
            return self._contact.lost(error, has_routes=self._has_published)
        self._contact.restored()
        if view is not None:
            self._view = view
            self._last_change = time.monotonic()
        if view is not None or not self._has_published or self._problems() != self._reported:
            self._tell()
        await self._join_networks(thread)
        rest = min(cost / LISTING_SHARE, self._settings.poll_interval)
        await asyncio.sleep(rest)
        return max(0.0, self._pause() - rest)

    def _see(self) -> tuple[View | None, float]:
        """What there is to see (None: the same as before), and the seconds of CPU it took to
        find out. In that thread, too: reading a large Swarm would hold up requests."""
        began = time.thread_time()
        news = self._engine.look()
        view = news or self._view
        if news is not None:
            self._reading = self._read(news)
        unread = self._reading.unread if self._reading else ()
        if view and unread and self._contents.read(view.state, view.location, unread):
            news, self._reading = view, self._read(view)
        return news, time.thread_time() - began

    def _read(self, view: View) -> Reading:
        reading = self._reader.read(view.state, view.location, self._contents.known)
        self._contents.note(reading)
        return reading

    def _tell(self) -> None:
        """Publish what was read, and what went wrong with networks."""
        if self._reading is None:
            return
        if self._contents.are_awaited and not self._has_published and not self._custodian.error:
            return  # proxies that follow would drop certificates that are missing
        self._reported = self._problems()
        self._has_published = True
        snapshot = self._reading.snapshot
        self._publish(replace(snapshot, problems=snapshot.problems + self._reported))

    def _problems(self) -> tuple[Problem, ...]:
        service = self._view.location.service if self._view else ""
        return (
            *self._planner.problems(),
            *self._connectors.problems(service),
            *self._custodian.problems(service),
            *self._contents.problems(service),
        )

    def _pause(self) -> float:
        now = time.monotonic()
        unsettled = now - self._last_event < SETTLE
        converging = self._reading is not None and self._reading.converging
        if unsettled or (converging and now - self._last_change < FAST_POLL_LIMIT):
            return min(FAST_POLL, self._settings.poll_interval)
        return self._settings.poll_interval

    async def _join_networks(self, thread: CallThreads) -> None:
        if self._view is None or self._reading is None:
            return
        view = self._view
        planned = (view.state, view.location, self._reading.wanted, time.monotonic())
        change = self._planner.plan(*planned)
        connectors = self._connectors.plan(*planned)
        custodian = self._custodian.plan(
            view.state,
            view.location,
            self._reading.secrets,
            time.monotonic(),
            unread=bool(self._reading.unread),
        )
        if self._problems() != self._reported:
            self._tell()
        self._joined = False
        if change is not None:
            log.info("swarm: %s", change)
            try:
                await thread.run(lambda: self._engine.apply(change, view.location))
                self._joined = bool(change.connect)
            except ProviderError as error:
                self._planner.failed(change, str(error), time.monotonic())
                self._tell()
        if connectors is not None:
            log.info("swarm: %s", connectors)
            refused = await thread.run(lambda: self._engine.place(connectors))
            for name, reason in refused.items():
                self._connectors.failed(name, reason)
            self._tell()
        if custodian is not None:
            log.info("swarm: %s", custodian)
            refused = await thread.run(lambda: self._engine.place(custodian))
            for reason in refused.values():
                self._custodian.failed(reason)
            self._tell()
        if change is not None or connectors is not None or custodian is not None:
            self._on_event()  # see the result at once


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(callback)
