"""A hostile client, the proxy and a recording endpoint, played by one loop.

Client and endpoint are raw sockets in this thread, and the proxy is a process of its own. Nothing
waits for a clock: a case is over when what must come has come or the connection has ended.
``TIMEOUT`` ends a case in which neither happens, and then it has failed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.hostile.reading import Answers, RequestReader, fields, read_answers
from tests.scripted import Field, Method, Request, get, ok

TIMEOUT = float(os.environ.get("HOSTILE_TIMEOUT", "10"))
"""Seconds that a case may take; far more than any of them needs."""
QUIET = 0.03
"""Seconds of silence after which a mutation is taken for stuck, which is no fault by itself."""


class Fault(AssertionError):
    """A case that did not go as it must."""


class Connection:
    """A connection that the endpoint accepted: every byte of it is kept."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.number = number
        self.received = bytearray()
        self.reader = RequestReader()
        self.mark = 0
        """Bytes that belong to earlier cases, all of them whole requests."""
        self.seen = 0
        """Requests that belong to earlier cases."""
        self.answered = 0
        """Requests that were answered, whole or not."""
        self.continued = 0
        """Requests whose 100 Continue has been sent."""
        self.ended = False
        self.switched_at: int | None = None
        """Where HTTP/1.1 ends in what was received."""

    def __repr__(self) -> str:
        state = "ended" if self.ended else "idle" if self.reader.idle else "busy"
        return f"<connection {self.number} {state} {bytes(self.received[self.mark :])!r}>"

    @property
    def requests(self) -> list[Request]:
        """The whole requests of this case."""
        return self.reader.requests[self.seen :]

    def send(self, data: bytes) -> None:
        """Send all of it; what a peer that has gone does not take is lost."""
        with contextlib.suppress(OSError):
            self.sock.setblocking(True)
            self.sock.settimeout(TIMEOUT)
            self.sock.sendall(data)
        with contextlib.suppress(OSError):
            self.sock.setblocking(False)

    def end(self) -> None:
        """Close, and announce it where TLS is spoken."""
        if isinstance(self.sock, ssl.SSLSocket) and not self.ended:
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()
        self.ended = True
        self.sock.close()

    def take(self) -> bytes | None:
        """What has come; empty at the end, None: nothing has."""
        data = b""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            while piece := self.sock.recv(262_144):
                data += piece
                if not (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()):
                    return data
            return data
        return data or None

    def reset(self) -> None:
        """Reset the connection."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.ended = True
        self.sock.close()

    def switch(self) -> bytes:
        """From now on bytes are bytes. Returns those that have come."""
        reader = self.reader
        reader.switched = True
        rest, reader.rest = reader.rest, b""
        self.switched_at = len(self.received) - len(rest)
        return rest


Behaviour = Callable[[Connection], None]
"""What the endpoint does each time that bytes have come."""


def echo_of(request: Request) -> bytes:
    """The endpoint's usual answer: it names what it answers."""
    answer = ok(b"echo " + request.method + b" " + request.target)
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.method == b"HEAD" else answer


def in_time(connection: Connection) -> None:
    """Answer every request when it is whole."""
    reader = connection.reader
    for request in reader.requests[connection.answered :]:
        connection.answered += 1
        connection.send(echo_of(request))
    waiting = reader.heads[len(reader.requests) :]
    if waiting and connection.continued < len(reader.heads) and waiting[0].values("expect"):
        connection.continued = len(reader.heads)
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")


def early(connection: Connection) -> None:
    """Answer every request when its head is there, and go on reading."""
    for request in connection.reader.heads[connection.answered :]:
        connection.answered += 1
        connection.send(echo_of(request))


def switching(connection: Connection) -> None:
    """Switch protocols if asked to, and send back what comes then."""
    reader = connection.reader
    if reader.switched:
        connection.send(reader.rest)
        reader.rest = b""
        return
    asked = reader.requests[connection.answered :]
    if asked and asked[0].values("upgrade"):
        connection.answered += 1
        protocol = asked[0].values("upgrade")[0]
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n%b"
            % (protocol, connection.switch())
        )
    else:
        in_time(connection)


class Client:
    """A client on one connection."""

    def __init__(self, port: int, methods: Sequence[Method], local: str | None = None) -> None:
        self.sock = socket.socket()
        if local is not None:
            self.sock.bind((local, 0))
        self.sock.connect(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.methods = methods
        self.received = bytearray()
        self.ended = False
        self.reset = False

    @property
    def answers(self) -> Answers:
        """What has come, read strictly."""
        return read_answers(bytes(self.received), self.methods, ended=self.ended and not self.reset)

    def take(self) -> None:
        """Receive what is there."""
        while not self.ended:
            try:
                data = self.sock.recv(262_144)
            except BlockingIOError:
                return
            except OSError:
                self.reset = self.ended = True
                return
            self.received += data
            self.ended = not data

    def close(self) -> None:
        """Close; a reset if something is unread."""
        self.sock.close()


@dataclass
class Record:
    """What came of a case."""

    answers: Answers
    ended: bool
    """The proxy closed the client's connection."""
    reset: bool
    requests: list[Request] = field(default_factory=list)
    """What reached the endpoint whole, in the order of arrival, without canaries."""
    streams: list[bytes] = field(default_factory=list)
    """What reached the endpoint on each connection, canaries included."""
    received: bytes = b""
    """What reached the client, raw."""


class Arena:
    """The endpoint, and whoever plays against the proxy in front of it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: the endpoint speaks it."""
        self._tls = tls
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self._listener.setblocking(False)
        self.endpoint_port: int = self._listener.getsockname()[1]
        self.proxy_port = 0
        """Set it when the proxy listens."""
        self.behaviour: Behaviour = in_time
        self._connections: list[Connection] = []
        self._arrivals: list[Request] = []
        """The requests of this case in the order in which they came, on whatever connection."""
        self._numbers = itertools.count(1)
        self._tokens = itertools.count(1)
        self._canary_fields: list[Field] | None = None

    def close(self) -> None:
        """Close everything."""
        for connection in self._connections:
            connection.end()
        self._listener.close()

    # --- the loop ---

    def _turn(self, client: Client | None, outgoing: bytes, seconds: float) -> tuple[int, bool]:
        """Wait for something to happen and do it. Returns how much of ``outgoing`` was sent, and
        whether anything happened."""
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        by_number = {each.sock.fileno(): each for each in self._connections if not each.ended}
        for number in by_number:
            poller.register(number, select.POLLIN)
        if client is not None and not client.ended:
            poller.register(client.sock, select.POLLIN | (select.POLLOUT if outgoing else 0))
        sent = 0
        events = poller.poll(max(0, seconds * 1000))
        for number, event in events:
            if number in by_number:
                self._receive(by_number[number])
            elif client is not None and number == client.sock.fileno():
                if event & ~select.POLLOUT:
                    client.take()
                if outgoing and event & select.POLLOUT:
                    sent = self._send(client, outgoing)
            else:
                self._accept()
        return sent, bool(events)

    def _send(self, client: Client, outgoing: bytes) -> int:
        try:
            return client.sock.send(outgoing)
        except BlockingIOError:
            return 0
        except OSError:
            return len(outgoing)  # refused already: the answer is what counts

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            if self._tls is not None:
                sock.settimeout(TIMEOUT)
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._connections.append(Connection(sock, next(self._numbers)))

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.take()
        except OSError:
            data = b""
        if data is None:
            return
        if not data:
            connection.end()
            return
        connection.received += data
        before = len(connection.reader.requests)
        connection.reader.feed(data)
        self._arrivals += connection.reader.requests[before:]
        self.behaviour(connection)

    def _until(
        self,
        client: Client | None,
        pieces: Iterable[bytes],
        over: Callable[[], bool],
        *,
        quiet: float | None = None,
    ) -> bool:
        """Play until it is over. Returns False if it was not, within the time allowed."""
        deadline = time.monotonic() + TIMEOUT
        for piece in pieces:
            while piece and not (client is None or client.ended):
                sent, _ = self._turn(client, piece, 1.0)
                piece = piece[sent:]  # noqa: PLW2901
                if time.monotonic() > deadline:
                    return False
            self._turn(client, b"", 0)
        while not over():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            _, happened = self._turn(client, b"", min(left, quiet or left))
            if quiet is not None and not happened:
                return False
        return True

    # --- a case and what follows it ---

    def play(
        self,
        pieces: Sequence[bytes],
        *,
        methods: Sequence[Method] = ("GET",),
        enough: Callable[[Client], bool],
        behaviour: Behaviour = in_time,
        local: str | None = None,
        patient: bool = True,
    ) -> Record:
        """Send the pieces, wait until ``enough`` holds or the connection has ended, send canaries
        before and after the client leaves. ``patient``: otherwise a case is over, too, when nothing
        happens any more. Raises Fault."""
        self.behaviour = behaviour
        client = Client(self.proxy_port, methods, local)
        try:
            came = self._until(
                client,
                pieces,
                lambda: client.ended or enough(client),
                quiet=None if patient else QUIET,
            )
            self.behaviour = in_time
            self._canary()
            client.take()  # what came behind the last answer
        finally:
            client.close()
        record = Record(client.answers, client.ended, client.reset, received=bytes(client.received))
        if patient and not came:
            raise Fault(f"no answer: {self.seen()}; the client has {record.received[:500]!r}")
        self._settle()
        self._canary()
        self._collect(record)
        return record

    def seen(self) -> str:
        """What the endpoint received in this case."""
        of_case = [each for each in self._connections if len(each.received) > each.mark]
        return f"the endpoint received {of_case!r}"

    def _canary(self) -> None:
        """A request of somebody else: it arrives as sent, is answered, and stays secret."""
        token = b"%d" % next(self._tokens)
        target, secret = b"/canary-" + token, b"secret-%b." % token
        answer = b"echo GET " + target
        client = Client(self.proxy_port, ("GET",))
        request = get(target, "hostile.test", Cookie=f"canary={secret.decode()}")
        try:
            came = self._until(
                client,
                [request],
                lambda: client.ended or bool(client.answers.final) or self._stolen(target, secret),
            )
        finally:
            client.close()
        if self._stolen(target, secret):
            raise Fault(f"the canary went into another request: {self.seen()}")
        if not came or client.answers.statuses != (200,) or client.answers.final[0].body != answer:
            raise Fault(f"the canary was answered {bytes(client.received)!r}: {self.seen()}")
        [arrived] = [
            request
            for connection in self._connections
            for request in connection.requests
            if request.target == target
        ]
        found = [each for each in fields(arrived) if each[0] not in (b"x-request-id", b"cookie")]
        if self._canary_fields is None:
            self._canary_fields = found
        if found != self._canary_fields or arrived.header("cookie") != b"canary=" + secret:
            raise Fault(f"the canary arrived as {arrived.head!r}")

    def _stolen(self, target: bytes, secret: bytes) -> bool:
        """Whether the secret is anywhere but in the canary's own head."""
        for connection in self._connections:
            if secret not in connection.received[connection.mark :]:
                continue
            reader = connection.reader
            for request in connection.requests:
                if secret in request.body or (secret in request.head and request.target != target):
                    return True
            in_a_body = len(reader.heads) > len(reader.requests)
            if secret in reader.rest and (in_a_body or reader.switched or reader.fault):
                return True
        return False

    def _settle(self) -> None:
        """The client has gone: wait until no connection is in the middle of a request."""

        def settled() -> bool:
            return all(each.ended or each.reader.idle for each in self._connections)

        for each in self._connections:
            if each.reader.switched or each.reader.fault:
                each.end()  # nobody reuses those
        if not self._until(None, (), settled):
            raise Fault(f"a connection was left in doubt: {self.seen()}")

    def _collect(self, record: Record) -> None:
        """Into the record, and get ready for the next case."""
        for connection in self._connections:
            if connection.reader.fault:
                raise Fault(f"not well-formed: {connection.reader.fault}")
            if len(connection.received) > connection.mark:
                http = connection.received[connection.mark : connection.switched_at]
                record.streams.append(bytes(http))
        for request in self._arrivals:
            if not request.target.startswith(b"/canary-"):
                record.requests.append(request)
        self.turn_over()

    def warm_up(self) -> None:
        """Until a request goes through."""
        self.behaviour = in_time
        for _ in range(20):
            with contextlib.suppress(Fault):
                self._canary()
                self.turn_over()
                return
            self.turn_over(afresh=True)

    def replay(self, stream: bytes) -> list[Request]:
        """Send a stream to whatever listens on ``proxy_port``, and a last request behind it.
        Returns what reached the endpoint before that one arrived or the connection ended."""
        self.behaviour = in_time
        last = b"/last-%d" % next(self._tokens)
        client = Client(self.proxy_port, ("GET",))

        def over() -> bool:
            return client.ended or any(
                request.target == last for each in self._connections for request in each.requests
            )

        try:
            if not self._until(client, (stream + get(last, "last.test"),), over):
                raise Fault(f"stuck behind {stream!r}")
        finally:
            client.close()
        arrived = [request for request in self._arrivals if request.target != last]
        self.turn_over(afresh=True)
        return arrived

    def turn_over(self, *, afresh: bool = False) -> None:
        """Forget the case; ``afresh``: with every connection, for it went wrong."""
        if afresh:
            for connection in self._connections:
                connection.end()
        self._connections = [each for each in self._connections if not each.ended]
        self._arrivals = []
        for connection in self._connections:
            connection.mark = len(connection.received)
            connection.seen = len(connection.reader.requests)
            connection.answered = len(connection.reader.heads)
