"""What a supervisor and its workers say to each other: pickled messages on a pair of sockets.

    supervisor to worker   Begin; then, as things change: Publish, Unhealthy, Accept, ReopenLog; at
                           last Drain
    worker to supervisor   Applied after each of these, Accepting and Leaving; Down; Left; Moved;
                           Happened; Alive

Each message to a worker states how things are now, not what changed: repeating one does no
harm, and a new worker is told what the old ones know.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from stickyproxy.dataplane.counters import Moves
from stickyproxy.model.events import Event
from stickyproxy.model.health import Outage
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointKey
from stickyproxy.model.settings import AccessLogSettings, ProcessLogFormat, ProxySettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.sessions import Remains

BEATS = 6
"""Signs of life that a worker shows within its timeout."""

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class InheritedListener:
    """A listener as a worker gets it."""

    spec: ListenerSpec
    descriptor: int
    """Of its socket, which the supervisor opened and the worker inherits."""


@dataclass(frozen=True, slots=True)
class Begin:
    """What a worker has to know first."""

    number: int
    """Its name, from 1 on."""
    log_level: int
    proxy: ProxySettings
    access_log: AccessLogSettings
    info: bytes | None
    """Header lines that are the same in all responses."""
    providers: tuple[str, ...]
    """Names of those that will publish."""
    shares: tuple[tuple[InheritedListener, ...], ...]
    """All shares of the listeners, since a worker may have to accept in place of another."""
    memory: tuple[int, int] | None = None
    """The descriptors of the memory in which it counts; None: it does not, and nobody asks
    for events either."""
    log_format: ProcessLogFormat = "text"
    commons: int | None = None
    """The descriptor of the memory that all workers share; None: it is alone."""
    workers: int = 1
    """How many there are to be."""


@dataclass(frozen=True, slots=True)
class Publish:
    """The state of a provider."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """These endpoints, and no others, fail their checks."""

    endpoints: frozenset[EndpointKey]


@dataclass(frozen=True, slots=True)
class Accept:
    """Accept connections on these shares of the listeners, and on no others."""

    shares: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReopenLog:
    """The access log was rotated away: the count tells one time from another."""

    times: int


@dataclass(frozen=True, slots=True)
class AddUp:
    """What was counted is asked for: the count tells one time from another."""

    times: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let requests under way finish for up to ``grace`` seconds, and end."""

    grace: float
    patience: float = 0.0
    """Seconds for which idle connections are not closed: see ``ClientServer.drain``."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The next of your messages has taken effect."""


@dataclass(frozen=True, slots=True)
class Accepting:
    """I accept connections."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """I accept no more connections, and exit when those I have are done."""


@dataclass(frozen=True, slots=True)
class Down:
    """These endpoints, and no others, are ejected."""

    endpoints: Mapping[EndpointKey, Outage]
    """And why."""
    silent: frozenset[EndpointKey] = frozenset()
    """These have never been reached, but are used for want of others."""


@dataclass(frozen=True, slots=True)
class Left:
    """These endpoints, and no others, are to become empty, and still have that."""

    endpoints: Mapping[EndpointKey, Remains]


@dataclass(frozen=True, slots=True)
class Moved:
    """So many sessions have moved since I last said so."""

    moves: Moves


@dataclass(frozen=True, slots=True)
class Happened:
    """These events have happened here."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Alive:
    """My event loop is running."""


Message = (
    Begin
    | Publish
    | Unhealthy
    | Accept
    | ReopenLog
    | AddUp
    | Drain
    | Applied
    | Accepting
    | Leaving
    | Down
    | Left
    | Moved
    | Happened
    | Alive
)


def encoded(message: Message) -> bytes:
    """The message as ``Channel.write`` takes it; worth keeping if it goes to many."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Channel:
    """One end. When the other end is gone, nothing more comes and what is sent is lost."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """On one of a pair of connected sockets, which now belongs to the channel."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    def write(self, data: bytes) -> None:
        """Send an encoded message."""
        if not self._writer.is_closing():
            self._writer.write(data)

    def send(self, message: Message) -> None:
        """Send a message."""
        self.write(encoded(message))

    async def flush(self) -> None:
        """Wait until the other end has taken most of what was sent."""
        with suppress(ConnectionError):
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            head = await self._reader.readexactly(_LENGTH.size)
            data = await self._reader.readexactly(_LENGTH.unpack(head)[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        # Only our own parent or child has the other end.
        message: Message = pickle.loads(data)  # noqa: S301
        return message

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
