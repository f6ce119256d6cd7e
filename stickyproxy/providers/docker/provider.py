"""The Docker provider: labelled containers of one engine, for those without a Swarm.

Events wake it; what it lists is the truth, and the clock makes up for events that were missed. The
docker SDK blocks, so it never runs on the event loop: listings have one thread, the event stream
another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import DockerSettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.contact import Contact
from stickyproxy.providers.docker.engine import ContainerEngine
from stickyproxy.providers.docker.reader import PROVIDER, ContainerReader
from stickyproxy.providers.engine.client import BACKOFF
from stickyproxy.providers.engine.events import OF_CONTAINERS, EventWatch
from stickyproxy.providers.threads import CallThreads

LISTING_SHARE = 0.1
"""Part of a core that listings may take, however many events come."""


class DockerProvider:
    """Publishes the labelled containers of an engine, and keeps in step with it."""

    name = PROVIDER

    def __init__(self, settings: DockerSettings, publish: Callable[[Snapshot], None]) -> None:
        self.ready = asyncio.Event()
        """Set when something has been published."""
        self._settings = settings
        self._publish = publish
        self._engine = ContainerEngine(settings)
        self._reader = ContainerReader(settings.service_cluster)
        self._woken = asyncio.Event()
        self._contact = Contact(self.name, "the engine", Backoff(*BACKOFF, jitter=0.5))

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

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._woken.set)

        thread = CallThreads("docker listing")
        events = EventWatch(self._settings, wake, OF_CONTAINERS)
        try:
            while True:
                self._woken.clear()  # an event that comes from here on is not in the listing
                pause = await self._step(thread)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
        finally:
            events.stop()
            thread.stop()

    async def _step(self, thread: CallThreads) -> float:
        """List and publish; returns the seconds until that is due again, unless an event comes."""
        try:
            snapshot, cost = await thread.run(self._see)
        except ProviderError as error:
            return self._contact.lost(error, has_routes=self.ready.is_set())
        self._contact.restored()
        if snapshot is not None:
            self._publish(snapshot)
            self.ready.set()
        rest = min(cost / LISTING_SHARE, self._settings.poll_interval)
        await asyncio.sleep(rest)
        return max(0.0, self._settings.poll_interval - rest)

    def _see(self) -> tuple[Snapshot | None, float]:
        """What there is to publish (None: the same as before), and the seconds of CPU it took."""
        began = time.thread_time()
        state = self._engine.look()
        snapshot = None if state is None else self._reader.read(state)
        return snapshot, time.thread_time() - began
