"""The engine's stream of events: it tells when to list, not what there is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

from stickyproxy.base.backoff import Backoff
from stickyproxy.config.settings import EngineSettings
from stickyproxy.providers.engine.client import BACKOFF, ERRORS, connect

log = logging.getLogger("stickyproxy")

Events = Mapping[str, list[str]]

# Container events come from the local engine only, but at once: that is where tasks begin and end.
OF_SWARM: Events = {
    "type": ["service", "node", "network", "secret", "config", "container"],
    "event": ["create", "update", "remove", "destroy", "start", "die", "kill", "health_status"],
}
OF_CONTAINERS: Events = {
    "type": ["network", "container"],
    "event": [
        *("start", "die", "kill", "destroy", "pause", "unpause", "rename", "health_status"),
        *("connect", "disconnect"),  # of a network
    ],
}


class EventWatch:
    """Calls ``wake`` from its own thread for each event, and whenever it could connect."""

    def __init__(
        self, settings: EngineSettings, wake: Callable[[], None], events: Events = OF_SWARM
    ) -> None:
        self._settings = settings
        self._wake = wake
        self._events = events
        self._stopping = threading.Event()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run, name="engine events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the stream and the thread."""
        self._stopping.set()
        self._end_stream()

    def _end_stream(self) -> None:
        with suppress(Exception):  # the SDK reaches for the socket, whatever state it is in
            self._stream.close()

    def _run(self) -> None:
        backoff = Backoff(*BACKOFF, jitter=0.5)
        while not self._stopping.is_set():
            try:
                with closing(connect(self._settings)) as client:
                    self._stream = client.events(filters=self._events)
                    backoff.reset()
                    self._wake()
                    while not self._stopping.is_set() and next(self._stream, None) is not None:
                        self._wake()
                    self._end_stream()  # stop() could not, if it was called before there was one
            except ERRORS as error:
                log.debug("event stream: %s", error)
            self._stopping.wait(backoff.next())
