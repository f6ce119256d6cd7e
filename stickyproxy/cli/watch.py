"""What ``stickyproxy top`` sees: a running proxy is asked once a second, its events are read."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import StickyproxyError
from stickyproxy.cli.diagnosis import asked, refused
from stickyproxy.control.report import Json

PERIOD = 1.0
"""Seconds from one look to the next."""
SILENCE = 60.0
"""Seconds after which a stream of events that says nothing is opened anew."""
EVENTS = 200
"""So many are remembered."""
BEFORE = 20
"""Of those that were before."""
TREND = 60
"""So many looks the same."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What a proxy says at one moment."""

    services: list[Json]
    status: Json
    problems: list[Json]


@dataclass(slots=True)
class Seen:
    """All that is known by now. Its fields are replaced, or appended to, and never changed, so that
    one thread may read what another one writes."""

    look: Glance | None = None
    lost: str = ""
    """Why nobody answers; empty: somebody does."""
    trend: deque[float] = field(default_factory=lambda: deque(maxlen=TREND))
    """Requests per second, from look to look."""
    events: deque[Json] = field(default_factory=lambda: deque(maxlen=EVENTS))
    """The last one is the newest."""


class Watcher:
    """Asks, in threads that end with the program."""

    def __init__(
        self, admin: Address, token: str, tls: ssl.SSLContext | None, news: Callable[[], None]
    ) -> None:
        """``tls``: that of a controller, see ``tls_of``; None: in the clear. ``news`` is called, by
        any thread, when there is something new in ``seen``."""
        self.seen = Seen()
        self._admin = admin
        self._token = token
        self._tls = tls
        self._news = news
        self._soon = threading.Event()

    def start(self) -> None:
        """Begin."""
        # A controller has no events.
        works = (self._looking, self._listening) if self._tls is None else (self._looking,)
        for work in works:
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def look(self) -> Glance:
        """Ask once. Raises StickyproxyError."""
        services = self._asked("/v1/services").get("services")
        if not isinstance(services, list):
            raise StickyproxyError(f"what listens on {self._admin} tells of no services")
        status: Json = {}
        problems = None
        if self._tls is None:  # a controller has the services alone
            status = self._asked("/v1/status")
            problems = self._asked("/v1/problems").get("problems")
        if not isinstance(problems, list):
            problems = [
                {"service": row["name"], **each} for row in services for each in row["problems"]
            ]
        return Glance(services, status, problems)

    def _asked(self, path: str) -> Json:
        """Raises StickyproxyError."""
        status, document = asked(self._admin, "GET", path, token=self._token, tls=self._tls)
        if status != 200:
            raise refused(status, document.get("error") or f"{self._admin} answers {status}")
        return document

    def _looking(self) -> None:
        seen = self.seen
        while True:
            began = monotonic()
            try:
                look = self.look()
            except StickyproxyError as error:
                seen.lost = str(error)
            else:
                seen.trend.append(total(look.services, "requests_per_second"))
                seen.look, seen.lost = look, ""
            self._news()
            self._soon.wait(max(0.1, PERIOD - (monotonic() - began)))
            self._soon.clear()

    def _listening(self) -> None:
        last = ""
        pause = threading.Event()
        while True:
            try:
                for event in self._stream(last):
                    last = str(event.pop("stream id", "") or last)
                    self.seen.events.append(event)
                    self._soon.set()  # what it tells shows in the rest, too
            except (OSError, http.client.HTTPException, ValueError):
                pass  # the looks tell whether anybody is there
            pause.wait(PERIOD)

    def _stream(self, last: str) -> Iterator[Json]:
        """The events after this one, as they come. Raises OSError, HTTPException, ValueError."""
        admin = self._admin
        connection = http.client.HTTPConnection(admin.host or "127.0.0.1", admin.port, SILENCE)
        if admin.path is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(SILENCE)
        headers = {"Accept": "text/event-stream"}
        headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
        headers |= {"Last-Event-ID": last} if last else {}
        try:
            if admin.path is not None:
                connection.sock.connect(admin.path)
            path = "/v1/events" if last else f"/v1/events?last={BEFORE}"
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            if response.status == 200:
                yield from events_in(response)
        finally:
            connection.close()


def events_in(lines: Iterable[bytes]) -> Iterator[Json]:
    """The events of a stream (HTML standard, section 9.2.6) whose data is an object of JSON, with
    ``stream id`` if it has one. Raises ValueError if its data is no JSON."""
    data: list[str] = []
    identity = ""
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            identity = value
        elif name == "data":
            data.append(value)
        elif not line and data:
            event = json.loads("\n".join(data))
            data.clear()
            if isinstance(event, dict):
                yield event | {"stream id": identity}


def total(rows: Iterable[Json], figure: str) -> float:
    """The sum of a figure; what is not known counts as nothing."""
    return sum((row["figures"] or {}).get(figure) or 0 for row in rows)
