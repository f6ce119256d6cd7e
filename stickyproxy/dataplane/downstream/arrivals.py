"""DATA PLANE: connections that something has to be known of before they can be served: for whom
they are (the header of the PROXY protocol) and what they ask for (the ClientHello of TLS).

Both are read while they wait in the socket (MSG_PEEK). A connection takes no task and no timer
meanwhile: the kernel says when enough has come (SO_RCVLOWAT), and one timer for all of them ends
those that take too long.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress

from stickyproxy.base.errors import BadProxyHeader, NotTls
from stickyproxy.dataplane.downstream.clienthello import (
    MAX_HELLO,
    ClientHello,
    client_hello,
    missing_bytes,
)
from stickyproxy.dataplane.downstream.proxy_protocol import MAX_HEADER, Ends, proxy_header
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.semantics.forwarded import TrustedProxies

GONE = "the client was gone before its handshake was over"
LATE = "the handshake was not over in time"

_LATE_PER_TURN = 128
"""Connections whose time is up that are closed in a turn of the loop."""


class Arrival:
    """A connection that was accepted."""

    __slots__ = (
        "deadline",
        "ends",
        "headed",
        "heard",
        "hello",
        "refusal",
        "seen",
        "sock",
        "speaks_http",
        "spec",
    )

    def __init__(
        self, sock: socket.socket, spec: ListenerSpec, ends: Ends, deadline: float, *, headed: bool
    ) -> None:
        self.sock = sock
        self.spec = spec
        self.ends = ends
        self.deadline = deadline
        """When its handshake must be over, by the loop's clock."""
        self.headed = headed
        """A header of the PROXY protocol is due."""
        self.hello: ClientHello | None = None
        """None in the clear, and as long as it has not come."""
        self.refusal = ""
        """Why what came instead is no TLS."""
        self.speaks_http = False
        """It may well be a request in the clear."""
        self.seen = 0
        """Bytes that were there when it was last looked at."""
        self.heard = False
        """The loop tells when there are more."""


class Arrivals:
    """Those of one process."""

    def __init__(
        self,
        timeout: float,
        trusted_proxies: TrustedProxies,
        *,
        known: Callable[[Arrival], None],
        lost: Callable[[Arrival, str], None],
    ) -> None:
        """``timeout``: seconds from being accepted to the end of the handshake. ``known`` takes
        over a connection that all is known of; ``lost`` is told of one that was closed, and why."""
        self._timeout = timeout
        self._trusted_proxies = trusted_proxies
        self._known = known
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket.socket, Arrival] = {}
        """In the order in which they came, which is that of their deadlines."""
        self._deaf: set[Arrival] = set()
        """Those of them whose socket does not wait until enough has come, as unix sockets do not:
        they are looked at in each sweep."""
        self._timer: asyncio.TimerHandle | None = None
        self._interval = max(0.02, min(0.5, timeout / 4))

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sock: socket.socket, client: str, spec: ListenerSpec) -> None:
        """Take a connection that was accepted. ``client``: its IP address; empty on a unix
        socket."""
        sock.setblocking(False)
        tcp = sock.family != socket.AF_UNIX
        ends = Ends(client, *(sock.getsockname()[:2] if tcp else ("", 0)))
        headed = spec.proxy_protocol and self._trusted_proxies.trusts(ends.client)
        deadline = self._loop.time() + self._timeout
        arrival = Arrival(sock, spec, ends, deadline, headed=headed)
        if spec.tls is None and not headed:
            self._known(arrival)
            return
        self._waiting[sock] = arrival
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._sweep)
        self._look(arrival)

    def shed(self) -> int:
        """Close the older half of those that have sent nothing yet: what the others send may be on
        its way. Returns how many."""
        silent = self._silent()
        return self._close(silent[: len(silent) // 2])

    def dismiss(self) -> None:
        """Close all that have sent nothing yet."""
        self._close(self._silent())

    def close(self) -> None:
        """Close all."""
        self._close(list(self._waiting.values()))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _silent(self) -> list[Arrival]:
        return [each for each in self._waiting.values() if not each.seen]

    def _close(self, arrivals: list[Arrival]) -> int:
        for arrival in arrivals:
            self._forget(arrival)
            arrival.sock.close()
        return len(arrivals)

    # --- what has come ---

    def _look(self, arrival: Arrival) -> None:
        """See whether all is known; what is missing is waited for."""
        try:
            missing = self._read(arrival)
        except (OSError, BadProxyHeader) as error:
            self._lose(arrival, str(error) if isinstance(error, BadProxyHeader) else GONE)
            return
        except NotTls as error:
            arrival.refusal = str(error)
            missing = 0
        if missing:
            self._await(arrival, arrival.seen + missing)
        else:
            self._forget(arrival)
            if arrival.heard:
                _wake_at(arrival.sock, 1)
            self._known(arrival)

    def _read(self, arrival: Arrival) -> int:
        """Bytes that are missing at least. Raises OSError if the connection has ended,
        BadProxyHeader or NotTls."""
        sock = arrival.sock
        before = arrival.seen
        try:
            data = sock.recv(MAX_HEADER + MAX_HELLO, socket.MSG_PEEK)
        except BlockingIOError:
            return 1
        if not data or (len(data) == before and _hung_up(sock)):
            raise ConnectionResetError
        if arrival.headed:
            header = proxy_header(data)
            if header is None:
                arrival.seen = len(data)
                return 1
            sock.recv(header.size)
            arrival.headed = False
            arrival.ends = header.ends or arrival.ends
            arrival.seen = 0
            data = data[header.size :]
        if arrival.spec.tls is None:
            return 0
        arrival.seen = len(data)
        try:
            missing = missing_bytes(data)
            if not missing:
                arrival.hello = client_hello(data)
        except NotTls:
            arrival.speaks_http = data[:1].isupper()  # it begins with a method
            raise
        return missing

    def _await(self, arrival: Arrival, count: int) -> None:
        """Look again when so many bytes are there."""
        _wake_at(arrival.sock, count)
        if not arrival.heard:
            arrival.heard = True
            self._loop.add_reader(arrival.sock, self._woken, arrival)

    def _woken(self, arrival: Arrival) -> None:
        before, headed = arrival.seen, arrival.headed
        self._look(arrival)
        waits = arrival.sock in self._waiting
        if waits and arrival.seen == before and arrival.headed is headed:
            self._loop.remove_reader(arrival.sock)
            self._deaf.add(arrival)

    # --- the end of waiting ---

    def _lose(self, arrival: Arrival, reason: str) -> None:
        self._forget(arrival)
        arrival.sock.close()
        self._lost(arrival, reason)

    def _forget(self, arrival: Arrival) -> None:
        del self._waiting[arrival.sock]
        if arrival in self._deaf:
            self._deaf.remove(arrival)
        elif arrival.heard:
            self._loop.remove_reader(arrival.sock)

    def _sweep(self) -> None:
        now = self._loop.time()
        late = 0
        for arrival in list(self._waiting.values()):
            if arrival.deadline > now or late == _LATE_PER_TURN:
                break
            late += 1
            self._lose(arrival, LATE)
        for arrival in [each for each in self._waiting.values() if _hung_up(each.sock)]:
            # The loop does not tell of those that were reset with something unread.
            self._lose(arrival, GONE)
        for arrival in list(self._deaf):
            self._look(arrival)
        if not self._waiting:
            self._timer = None
        elif late == _LATE_PER_TURN:
            self._timer = self._loop.call_later(0, self._sweep)
        else:
            self._timer = self._loop.call_later(self._interval, self._sweep)


def _wake_at(sock: socket.socket, count: int) -> None:
    """Have the kernel wait until there are so many bytes to read (socket(7))."""
    with suppress(OSError):  # it is gone, as will be seen
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


def _hung_up(sock: socket.socket) -> bool:
    """Whether the client will send no more. Errors are told unasked."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))
