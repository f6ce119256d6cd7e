"""The connector: opens TCP connections on its container's network, and gives them away.

    stickyproxy connector --network NAME --directory DIR [--grace SECONDS]
    stickyproxy connector --network NAME --directory DIR --ping

It listens on ``DIR/NAME.sock``. Whoever may open that socket (mode 0600: who runs as the same user)
is a *peer*, and may ask for connections to any IP address and port. ``wire`` has the protocol.

- Nobody can make it wait: all sockets are non-blocking, and the loop over them is one ``select``.
- What a peer has asked for is bounded. One that does not take its answers is not read any further,
  and given up after STALL_SECONDS; one that sends what is no request is given up at once. Closing a
  peer closes whatever was being opened for it.
- Want of descriptors or memory here is an answer like any other.
- The newest connector of a network has the name in DIR: it puts its socket there by ``rename``,
  over a stale one or over its predecessor's. One whose name is gone, while nobody else answers
  there, takes it back.
- SIGTERM: it gives up its name, tells its peers, and ends as soon as no connection goes through its
  network namespace any more, because they would die with it; after ``--grace`` in any case.

Only the standard library, and little of it: there is a process for every network on every node.
"""

from __future__ import annotations

import errno
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from stickyproxy.connector import wire

MAX_PEERS = 256
"""Processes that are served at a time; one more is turned away."""
MAX_PENDING = 1024
"""Connections that may be under way for one peer; one more fails with ENOBUFS."""
BATCH = 32
"""Requests read from one peer before the others get their turn."""
STALL_SECONDS = 10.0
"""How long a peer may leave an answer untaken."""
SWEEP_SECONDS = 0.05
"""How often timeouts are looked at, while there is something that can time out."""
TICK_SECONDS = 2.0
"""How often it is made sure that this connector, or another one, can be found."""
GRACE_SECONDS = 30.0
"""How long connections may go on after SIGTERM."""
PING_SECONDS = 2.0

Handler = Callable[[int], None]
"""Called with the selector's events."""


class ConnectAttempt:
    """A connection on its way."""

    __slots__ = ("deadline", "number", "peer", "sock")

    def __init__(self, peer: ProxyPeer, number: int, sock: socket.socket, deadline: float) -> None:
        self.peer = peer
        self.number = number
        self.sock = sock
        self.deadline = deadline


class ProxyPeer:
    """A process that asks for connections."""

    __slots__ = ("blocked", "outbox", "pending", "sock", "stalled_since")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending: set[ConnectAttempt] = set()
        self.outbox: deque[tuple[bytes, socket.socket | None]] = deque()
        """Answers that it has no room for at present, with the connections they announce."""
        self.blocked = False
        """True while there are any: then it is not read."""
        self.stalled_since = 0.0
        """Since when it has taken none."""


class Connector:
    """Serves one network."""

    def __init__(self, path: str, grace: float = GRACE_SECONDS) -> None:
        """Listens on ``path``. Raises OSError."""
        self._path = path
        self._grace = grace
        self._selector = selectors.DefaultSelector()
        self._peers: set[ProxyPeer] = set()
        self._listener: socket.socket | None = None
        self._file = (0, 0)
        """Device and inode of the socket's file."""
        self._next_sweep = 0.0
        self._next_tick = 0.0
        self._ends_at: float | None = None
        """Once it is to end: when at the latest."""
        self._listen()

    # --- the loop ---

    def run(self) -> None:
        """Serve until told to stop, and until that can be done without harm."""
        while not self._is_over():
            for key, events in self._selector.select(self._pause()):
                handler: Handler = key.data
                handler(events)
            now = time.monotonic()
            if now >= self._next_sweep:
                self._next_sweep = now + SWEEP_SECONDS
                self._sweep(now)
            if now >= self._next_tick and self._ends_at is None:
                self._next_tick = now + TICK_SECONDS
                self._tick()

    def stop(self) -> None:
        """Take nothing new; what is under way may go on for the grace period, or, when told so
        twice, not any longer."""
        if self._ends_at is not None:
            self._grace = 0.0
        self._ends_at = time.monotonic() + self._grace
        self._withdraw()
        for peer in tuple(self._peers):
            self._answer(peer, wire.LEAVING)

    def close(self) -> None:
        """Close everything."""
        self._withdraw()
        for peer in tuple(self._peers):
            self._drop(peer)
        self._selector.close()

    def stop_by(self, sock: socket.socket) -> None:
        """Stop for every byte that comes from there."""

        def on_signal(_events: int) -> None:
            for _ in sock.recv(64):
                self.stop()

        self._selector.register(sock, selectors.EVENT_READ, on_signal)

    def _pause(self) -> float:
        busy = self._ends_at is not None or any(p.pending or p.blocked for p in self._peers)
        return SWEEP_SECONDS if busy else TICK_SECONDS

    def _is_over(self) -> bool:
        if self._ends_at is None:
            return False
        return time.monotonic() >= self._ends_at or not _connections_here()

    def _sweep(self, now: float) -> None:
        """End what has taken too long."""
        for peer in tuple(self._peers):
            for attempt in [a for a in peer.pending if now >= a.deadline]:
                self._finish(attempt, errno.ETIMEDOUT)
            if peer.blocked and now - peer.stalled_since > STALL_SECONDS:
                _say("a peer takes no answers: given up")
                self._drop(peer)

    # --- being found ---

    def _listen(self) -> None:
        """Have the name, whoever had it."""
        self._withdraw()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        temporary = f"{self._path}.{os.urandom(4).hex()}"
        try:
            before = os.umask(0o177)
            try:
                listener.bind(temporary)
            finally:
                os.umask(before)
            listener.listen(MAX_PEERS)
            listener.setblocking(False)
            self._file = _identity(temporary)
            os.rename(temporary, self._path)
        except OSError:
            listener.close()
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def _withdraw(self) -> None:
        """Be found no more; the file may be another's by now."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with suppress(KeyError):  # it is not listened to while there are no descriptors
            self._selector.unregister(listener)
        listener.close()
        with suppress(OSError):
            if _identity(self._path) == self._file:
                os.unlink(self._path)

    def _tick(self) -> None:
        """Make sure that whoever looks for a connector finds one, and resume accepting."""
        try:
            if _identity(self._path) != self._file and not _answers(self._path):
                raise FileNotFoundError
        except OSError:
            with suppress(OSError):  # the directory is away: the next tick tries again
                self._listen()
                return
        listener = self._listener
        if listener is not None and listener.fileno() not in self._selector.get_map():
            self._selector.register(listener, selectors.EVENT_READ, self._accept)

    # --- peers ---

    def _accept(self, _events: int) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no descriptors: those who wait would wake us at once again
            _say(f"no peer can be accepted: {error.strerror}")
            self._selector.unregister(listener)
            return
        if len(self._peers) >= MAX_PEERS:
            _say(f"there are {MAX_PEERS} peers: one more is turned away")
            sock.close()
            return
        sock.setblocking(False)
        peer = ProxyPeer(sock)
        self._peers.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, partial(self._on_peer, peer))
        self._answer(peer, wire.READY, value=wire.VERSION)

    def _on_peer(self, peer: ProxyPeer, events: int) -> None:
        if peer not in self._peers:  # it was dropped in this very turn
            return
        if events & selectors.EVENT_WRITE:
            self._flush(peer)
        else:
            self._read(peer)

    def _read(self, peer: ProxyPeer) -> None:
        for _ in range(BATCH):
            if peer.blocked or peer not in self._peers:  # what the last answer may have led to
                return
            try:
                data = peer.sock.recv(wire.REQUEST.size + 1)  # one byte more shows what is too long
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(peer)
                return
            if not self._obey(peer, data):
                _say("a peer sends what is no request: given up")
                self._drop(peer)
                return

    def _obey(self, peer: ProxyPeer, data: bytes) -> bool:
        """False if it makes no sense."""
        if len(data) != wire.REQUEST.size:
            return False
        kind, version, port, number, milliseconds, address = wire.REQUEST.unpack(data)
        if kind == wire.PING:
            self._answer(peer, wire.PONG, number)
            return True
        if kind != wire.CONNECT or version not in (4, 6) or not port:
            return False
        if version == 4:
            family, host = socket.AF_INET, socket.inet_ntop(socket.AF_INET, address[:4])
        else:
            family, host = socket.AF_INET6, socket.inet_ntop(socket.AF_INET6, address)
        self._connect(peer, number, family, (host, port), milliseconds / 1000)
        return True

    def _answer(
        self,
        peer: ProxyPeer,
        kind: int,
        number: int = 0,
        value: int = 0,
        sock: socket.socket | None = None,
    ) -> None:
        """Answer at once if there is room, else when there is. ``sock`` is given away."""
        peer.outbox.append((wire.ANSWER.pack(kind, 0, value, number), sock))
        if not peer.blocked:
            self._flush(peer)

    def _flush(self, peer: ProxyPeer) -> None:
        outbox = peer.outbox
        while outbox:
            message, sock = outbox[0]
            try:
                _send(peer.sock, message, sock)
            except BlockingIOError:
                break
            except OSError as error:
                if sock is None or error.errno not in (errno.ETOOMANYREFS, errno.ENOBUFS):
                    self._drop(peer)
                    return
                # Too many descriptors are in flight: that is an answer, too.
                number = wire.ANSWER.unpack(message)[3]
                outbox[0] = (wire.ANSWER.pack(wire.FAILED, 0, errno.ENOBUFS, number), None)
            else:
                outbox.popleft()
                if peer.blocked:
                    peer.stalled_since = time.monotonic()
            if sock is not None:
                sock.close()
        if peer.blocked != bool(outbox):
            peer.blocked = bool(outbox)
            peer.stalled_since = time.monotonic()
            self._watch(peer, selectors.EVENT_WRITE if peer.blocked else selectors.EVENT_READ)

    def _watch(self, peer: ProxyPeer, events: int) -> None:
        self._selector.modify(peer.sock, events, partial(self._on_peer, peer))

    def _drop(self, peer: ProxyPeer) -> None:
        """Forget a peer, and all that was to become its."""
        if peer not in self._peers:
            return
        self._peers.discard(peer)
        self._selector.unregister(peer.sock)
        peer.sock.close()
        for attempt in peer.pending:
            self._selector.unregister(attempt.sock)
            attempt.sock.close()
        peer.pending.clear()
        for _, sock in peer.outbox:
            if sock is not None:
                sock.close()
        peer.outbox.clear()

    # --- connections ---

    def _connect(
        self,
        peer: ProxyPeer,
        number: int,
        family: socket.AddressFamily,
        address: tuple[str, int],
        seconds: float,
    ) -> None:
        if len(peer.pending) >= MAX_PENDING:
            self._answer(peer, wire.FAILED, number, errno.ENOBUFS)
            return
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._answer(peer, wire.FAILED, number, error.errno or errno.ENOBUFS)
            return
        sock.setblocking(False)
        failure = sock.connect_ex(address)
        if failure == 0:
            self._answer(peer, wire.CONNECTED, number, sock=sock)
            return
        if failure != errno.EINPROGRESS:
            sock.close()
            self._answer(peer, wire.FAILED, number, failure)
            return
        attempt = ConnectAttempt(peer, number, sock, time.monotonic() + seconds)
        peer.pending.add(attempt)
        self._selector.register(sock, selectors.EVENT_WRITE, partial(self._on_connected, attempt))

    def _on_connected(self, attempt: ConnectAttempt, _events: int) -> None:
        if attempt in attempt.peer.pending:  # else its peer has gone in this very turn
            self._finish(attempt, attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _finish(self, attempt: ConnectAttempt, failure: int) -> None:
        peer, sock = attempt.peer, attempt.sock
        peer.pending.discard(attempt)
        self._selector.unregister(sock)
        if failure:
            sock.close()
            self._answer(peer, wire.FAILED, attempt.number, failure)
        else:
            self._answer(peer, wire.CONNECTED, attempt.number, sock=sock)


def _send(peer: socket.socket, message: bytes, sock: socket.socket | None) -> None:
    if sock is None:
        peer.send(message)
    else:
        rights = wire.DESCRIPTOR.pack(sock.fileno())
        peer.sendmsg((message,), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, rights),))


def _identity(path: str) -> tuple[int, int]:
    """Of a file. Raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _answers(path: str) -> bool:
    """Whether anybody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (0, errno.EAGAIN)


def _say(text: str) -> None:
    sys.stderr.write(f"connector: {text}\n")


# --- the network namespace ----------------------------------------------------------------------

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_CARRYING = frozenset(("01", "04", "08", "09", "0B"))
"""ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING: something may still be sent or taken."""


def _connections_here() -> int:
    """How many TCP connections there are in this network namespace, whoever holds them."""
    count = 0
    for table in _TABLES:
        with suppress(OSError), open(table) as lines:
            count += carrying(lines.read())
    return count


def carrying(table: str) -> int:
    """How many connections of a ``/proc/net/tcp`` (proc_net_tcp.txt) may carry bytes yet."""
    rows = (line.split(None, 4) for line in table.splitlines()[1:])
    return sum(row[3] in _CARRYING for row in rows if len(row) > 3)


# --- the command --------------------------------------------------------------------------------

USAGE = """\
usage: stickyproxy connector --network NAME --directory DIR [--grace SECONDS] [--ping]

Open TCP connections for the proxies on this node, which reach this process by DIR/NAME.sock.
With --ping: ask the connector that runs there whether it does (exit status 0).
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status: 0 done, 1 it failed, 2 wrong usage."""
    if "--help" in arguments:
        sys.stdout.write(USAGE)
        return 0
    try:
        path, grace, is_ping = _options(list(arguments))
    except (ValueError, IndexError) as error:
        sys.stderr.write(f"{USAGE}stickyproxy connector: error: {error}\n")
        return 2
    if is_ping:
        return _ping(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        connector = Connector(path, grace)
    except OSError as error:
        _say(f"{path}: {error.strerror}: it takes a directory that {_user()} may write to")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    connector.stop_by(reader)
    _say(f"opens connections for who may open {path}")
    connector.run()
    connector.close()
    return 0


def _options(arguments: list[str]) -> tuple[str, float, bool]:
    """Socket's path, grace period in seconds, and whether to ping. By hand: argparse would be a
    tenth of this process. Raises ValueError."""
    is_ping = "--ping" in arguments
    if is_ping:
        arguments.remove("--ping")
    names, values = arguments[::2], arguments[1::2]
    given = dict(zip(names, values, strict=False))
    unknown = given.keys() - {"--network", "--directory", "--grace"}
    if unknown or len(names) != len(values):
        raise ValueError(f"{min(unknown) if unknown else names[-1]} is not understood")
    for needed in ("--network", "--directory"):
        if needed not in given:
            raise ValueError(f"{needed} is missing")
    grace = given.get("--grace", str(GRACE_SECONDS))
    if not grace.replace(".", "", 1).isdecimal():
        raise ValueError(f"--grace {grace} is not a number of seconds")
    return wire.socket_path(given["--directory"], given["--network"]), float(grace), is_ping


def _user() -> str:
    return f"user {os.geteuid()}"


def _ping(path: str) -> int:
    try:
        ping(path)
    except OSError as error:
        _say(f"{path}: {error.strerror or error}")
        return 1
    return 0


def ping(path: str) -> None:
    """Raises OSError if no connector answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(PING_SECONDS)
        sock.connect(path)
        sock.send(wire.REQUEST.pack(wire.PING, 0, 0, 0, 0, b""))
        while answer := sock.recv(wire.ANSWER.size):
            if answer[0] == wire.PONG:
                return
    raise ConnectionResetError(errno.ECONNRESET, "it hangs up")
