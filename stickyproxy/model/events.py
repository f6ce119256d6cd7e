"""What happens: one vocabulary for the log and for the stream of the admin API.

    tell(EventKind.PROVIDER_LOST, "swarm: there is no engine", provider="swarm", reason=...)

logs the sentence, and hands the event to whoever listens in this process. What goes to and fro,
such as an endpoint that answers now and then, is told at most every ``REFILL`` seconds after the
first ``BURST`` times, by its last event, with the number of those that were left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

log = logging.getLogger("stickyproxy")

BURST = 6
"""Events about one thing that are told as they come."""
REFILL = 15.0
"""Seconds until one more is."""

Details = Mapping[str, Any]
"""Names and values, ready for JSON."""


class EventKind(Enum):
    """The word of an event, the level of its line in the log, and the names of its details."""

    ENDPOINT_JOINED = "endpoint-joined", logging.INFO, ("service", "endpoint", "address", "count")
    ENDPOINT_LEFT = "endpoint-left", logging.INFO, ("service", "endpoint", "address", "count")
    ENDPOINT_EJECTED = (
        "endpoint-ejected",
        logging.WARNING,
        ("service", "endpoint", "address", "reason", "until"),
    )
    ENDPOINT_BACK = "endpoint-back", logging.INFO, ("service", "endpoint", "address")
    ENDPOINT_DRAINING = (
        "endpoint-draining",
        logging.INFO,
        ("service", "endpoint", "address", "count"),
    )
    SESSIONS_MOVED = (
        "sessions-moved",
        logging.INFO,
        ("service", "reason", "from", "sessions"),
    )
    PROVIDER_LOST = "provider-lost", logging.WARNING, ("provider", "reason")
    PROVIDER_BACK = "provider-back", logging.INFO, ("provider",)
    CONFIG_REFUSED = "config-refused", logging.ERROR, ("reason",)
    CONFIG_RELOADED = "config-reloaded", logging.INFO, ("services",)
    CERTIFICATE_RENEWED = "certificate-renewed", logging.INFO, ("certificate", "expires")
    CERTIFICATE_EXPIRING = (
        "certificate-expiring",
        logging.WARNING,
        ("certificate", "reason", "expires"),
    )
    PROBLEM_FOUND = "problem-found", logging.WARNING, ("service", "certificate", "reason", "remedy")
    PROBLEM_RESOLVED = "problem-resolved", logging.INFO, ("service", "certificate", "reason")
    TABLE_SWAPPED = "table-swapped", logging.DEBUG, ("services", "endpoints")
    ORDER_GIVEN = "order-given", logging.INFO, ("target", "admin_state")
    WORKER_READY = "worker-ready", logging.INFO, ("worker",)
    WORKER_LOST = "worker-lost", logging.ERROR, ("worker", "reason")
    EVENTS_MISSED = "events-missed", logging.INFO, ()

    def __init__(self, word: str, level: int, details: tuple[str, ...]) -> None:
        self.word = word
        self.level = level
        self.details = details


LIMITED = frozenset(
    (
        EventKind.ENDPOINT_JOINED,
        EventKind.ENDPOINT_LEFT,
        EventKind.ENDPOINT_EJECTED,
        EventKind.ENDPOINT_BACK,
        EventKind.ENDPOINT_DRAINING,
        EventKind.SESSIONS_MOVED,
        EventKind.PROVIDER_LOST,
        EventKind.PROVIDER_BACK,
        EventKind.TABLE_SWAPPED,
    )
)
"""What may go to and fro. The others come from people, or once in a while."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened."""

    kind: EventKind
    text: str
    """The sentence, as the log has it."""
    details: Details = field(default_factory=dict)
    level: int = 0
    """Of the line in the log; 0: that of its kind."""
    left_out: int = 0
    """Events about the same thing before it that were not told."""

    @property
    def about(self) -> object:
        """What goes to and fro: those about the same endpoint or provider count together."""
        found = self.details
        if self.kind is EventKind.SESSIONS_MOVED:
            return self.kind, found["service"], found["reason"], found["from"]
        if self.kind is EventKind.TABLE_SWAPPED:
            return self.kind
        return found.get("provider"), found.get("service"), found.get("endpoint")

    def over(self, before: Event) -> Event:
        """This one in place of another about the same thing, which was not told."""
        details = dict(self.details)
        if self.kind is before.kind is EventKind.SESSIONS_MOVED:
            details["sessions"] += before.details["sessions"]
        return replace(self, details=details, left_out=before.left_out + 1)

    def __str__(self) -> str:
        if not self.left_out:
            return self.text
        return f"{self.text} (and {self.left_out} more like this before it)"


class Limiter:
    """Lets pass what is told, and keeps what is too much."""

    def __init__(self) -> None:
        self._told: dict[object, tuple[float, float]] = {}
        """How many more may pass, and when that was so, by what they are about."""
        self._kept: dict[object, Event] = {}

    def passes(self, event: Event, now: float) -> Event | None:
        """The event as it is told now; None: it is kept. ``now``: in seconds."""
        if event.kind not in LIMITED:
            return event
        about = event.about
        kept = self._kept.pop(about, None)
        if kept is not None:
            event = event.over(kept)
        if self._takes(about, now):
            return event
        self._kept[about] = event
        return None

    def due(self, now: float) -> list[Event]:
        """What was kept and may be told by now."""
        found = [self._kept.pop(about) for about in list(self._kept) if self._takes(about, now)]
        for about, (left, when) in list(self._told.items()):
            if left + (now - when) / REFILL >= BURST and about not in self._kept:
                del self._told[about]
        return found

    def forget(self) -> None:
        """Begin anew."""
        self._told.clear()
        self._kept.clear()

    def _takes(self, about: object, now: float) -> bool:
        left, when = self._told.get(about, (float(BURST), now))
        left = min(float(BURST), left + (now - when) / REFILL)
        takes = left >= 1.0
        self._told[about] = left - takes, now
        return takes


Listener = Callable[[Event], None]

_listeners: list[Listener] = []
_limiter = Limiter()


def tell(kind: EventKind, text: str, *, level: int = 0, **details: Any) -> None:
    """This has happened. ``level``: of the line in the log, if not that of its kind. Details that
    are None are left out; ``from_``: ``from``, which Python has taken."""
    if "from_" in details:
        details["from"] = details.pop("from_")
    found = {name: value for name, value in details.items() if value is not None}
    event = _limiter.passes(Event(kind, text, found, level or kind.level), time.monotonic())
    if event is not None:
        _pass_on(event)


def tell_what_was_kept() -> None:
    """To be called about once a second, or else the last word of what went to and fro is kept."""
    for event in _limiter.due(time.monotonic()):
        _pass_on(event)


def start_over() -> None:
    """Forget how often what was told, and who listens."""
    _listeners.clear()
    _limiter.forget()


def listen(listener: Listener) -> Callable[[], None]:
    """From now on ``listener`` is called with each event; returns what ends that."""
    _listeners.append(listener)

    def end() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return end


def _pass_on(event: Event) -> None:
    log.log(event.level or event.kind.level, "%s", event, extra={"event": event}, stacklevel=3)
    for listener in tuple(_listeners):
        listener(event)
