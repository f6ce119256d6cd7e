"""Raw-socket peers: an endpoint and a client that follow a script, to test a proxy from both sides.

Nothing here is HTTP software that could be lenient by accident: bytes are sent as given, and what
arrives must be well-formed HTTP/1.1 (RFC 9112), else an AssertionError shows the offending bytes.
Nothing is read ahead of the script: a peer that does not ask for bytes does not take them.

    async def script(conn: EndpointConnection) -> None:
        request = await conn.request()
        await conn.send(ok(b"hello"))

    async with ScriptedEndpoint(script) as endpoint:
        async with await RawClient.connect(endpoint.port) as client:
            await client.send(get("/"))
            response = await client.response()

An endpoint with a ``tls`` context speaks TLS, which its scripts can break at any point: what they
``send`` and read is plain text, ``send_raw`` goes below it, and ``close`` does not announce the end
unless ``end_tls`` did.

Every wait is bounded by ``TIMEOUT`` and then fails telling what has been received so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

TIMEOUT = 10.0
"""Seconds that any wait may take; far more than any of them needs."""

Field = tuple[bytes, bytes]
"""A header field as it came over the wire: name in its own case, value without outer blanks."""

End = Literal["eof", "reset"]
"""How a peer ended the connection: with a FIN, or with a RST."""

Method = Literal["GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT"]

# --- RFC 9112, sections 2.2, 3, 4 and 5; RFC 9110, section 5 ------------------------------------

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/(1\.[01])")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_FIELD_LINE = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_STRAY = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_LONGEST_LINE = 65536
RECORD = 16384
"""The most bytes of plain text in a record of TLS."""


class Truncated(AssertionError):
    """The peer ended the connection inside a message."""

    def __init__(self, message: str, how: End, *, head: bytes = b"", body: bytes = b"") -> None:
        super().__init__(message)
        self.how: End = how
        self.head = head
        self.body = body
        """What had arrived of the body, de-chunked."""


def _parse_fields(block: bytes) -> list[Field]:
    """Parse field lines, each ended by CRLF; ``block`` has nothing after the last one."""
    fields = []
    for line in block.split(b"\r\n")[:-1]:
        match = _FIELD_LINE.fullmatch(line)
        assert match, f"not a field line: {line!r} in {block!r}"
        fields.append((match[1], match[2].rstrip(b" \t")))
    return fields


@dataclass
class Message:
    """What requests and responses have in common."""

    version: bytes
    """``1.1`` or ``1.0``."""
    headers: list[Field]
    """In the order received, names in the case received."""
    head: bytes
    """The raw head with the empty line that ends it."""
    body: bytes = b""
    """De-chunked; empty if the body was left to be read piece by piece."""
    chunks: list[bytes] | None = None
    """The chunks as they were framed; None if the body was not chunked."""
    trailers: list[Field] = field(default_factory=list)

    def values(self, name: str) -> list[bytes]:
        """All values of the fields of that name (in whatever case), in the order received."""
        wanted = name.lower().encode()
        return [value for key, value in self.headers if key.lower() == wanted]

    def header(self, name: str) -> bytes | None:
        """The value of the only field of that name, None if absent; several are an error."""
        values = self.values(name)
        assert len(values) < 2, f"{len(values)} fields named {name}: {self.head!r}"
        return values[0] if values else None

    @property
    def names(self) -> list[bytes]:
        """The field names, lower case, in the order received."""
        return [name.lower() for name, _ in self.headers]

    def _declared(self) -> int | Literal["chunked"] | None:
        """The length that the head declares (RFC 9112, 6.1 and 6.2); ambiguity is an error."""
        codings = self.values("transfer-encoding")
        lengths = self.values("content-length")
        if codings:
            assert codings == [b"chunked"], f"transfer coding that nobody speaks: {self.head!r}"
            assert not lengths, f"Content-Length beside Transfer-Encoding: {self.head!r}"
            assert self.version == b"1.1", f"Transfer-Encoding in HTTP/1.0: {self.head!r}"
            return "chunked"
        if lengths:
            assert len(lengths) == 1, f"several Content-Length fields: {self.head!r}"
            assert re.fullmatch(rb"[0-9]{1,18}", lengths[0]), f"bad Content-Length: {self.head!r}"
            return int(lengths[0])
        return None


@dataclass
class Request(Message):
    """A request as an endpoint received it."""

    method: bytes = b""
    target: bytes = b""

    @classmethod
    def parse(cls, head: bytes) -> Self:
        """Parse a request head, strictly."""
        assert not _STRAY.search(head), f"bare CR or LF in a request head: {head!r}"
        line, _, rest = head[:-2].partition(b"\r\n")
        match = _REQUEST_LINE.fullmatch(line)
        assert match, f"not a request line: {line!r} in {head!r}"
        request = cls(
            version=match[3],
            headers=_parse_fields(rest),
            head=head,
            method=match[1],
            target=match[2],
        )
        if request.version == b"1.1":
            hosts = request.values("host")
            assert len(hosts) == 1, f"{len(hosts)} Host fields, one is due: {head!r}"
        return request

    def framing(self) -> int | Literal["chunked"]:
        """How the body ends: after so many bytes, or with the last chunk."""
        declared = self._declared()
        return 0 if declared is None else declared


@dataclass
class Response(Message):
    """A response as a client received it."""

    status: int = 0
    reason: bytes = b""

    @classmethod
    def parse(cls, head: bytes) -> Self:
        """Parse a response head, strictly."""
        assert not _STRAY.search(head), f"bare CR or LF in a response head: {head!r}"
        line, _, rest = head[:-2].partition(b"\r\n")
        match = _STATUS_LINE.fullmatch(line)
        assert match, f"not a status line: {line!r} in {head!r}"
        return cls(
            version=match[1],
            headers=_parse_fields(rest),
            head=head,
            status=int(match[2]),
            reason=match[3],
        )

    def framing(self, to: Method) -> int | Literal["chunked", "close"]:
        """How the body ends (RFC 9112, 6.3), given the method it answers."""
        declared = self._declared()
        if self.status < 200 or self.status == 204:
            assert declared is None, f"a {self.status} declares a body: {self.head!r}"
            return 0
        if to == "HEAD" or self.status == 304 or (to == "CONNECT" and self.status < 300):
            return 0
        if declared is None:
            if self.version == b"1.1":
                assert self.closes, f"no end of body without Connection: close: {self.head!r}"
            return "close"
        return declared

    @property
    def closes(self) -> bool:
        """Whether the head says that the connection ends with this response (RFC 9112, 9.3)."""
        options = b",".join(self.values("connection")).lower().replace(b" ", b"").split(b",")
        if self.version == b"1.0":
            return b"keep-alive" not in options
        return b"close" in options


# --- the wire ------------------------------------------------------------------------------------


class Wire:
    """One connection: sends bytes as given, reads only what it is asked for."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.ended: End | None = None
        """How the peer ended the connection, once that has been read."""
        self._name = name
        self._buffer = bytearray()
        self._log = bytearray()
        self._body: Body | None = None
        self.tls: ssl.SSLObject | None = None
        """What is sent and read goes through it; None: in the clear."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    def __repr__(self) -> str:
        state = "closed" if self.sock.fileno() < 0 else self.ended or "open"
        return f"<{self._name} {state}, {len(self._buffer)} unread>"

    # sending and ending

    async def send(self, data: bytes) -> None:
        """Send all of ``data``; ConnectionError if the peer has gone."""
        async with self._bounded(f"sending {len(data)} bytes"):
            if self.tls is None:
                await asyncio.get_running_loop().sock_sendall(self.sock, data)
                return
            rest = memoryview(data)
            while rest:
                rest = rest[self.tls.write(rest[:RECORD]) :]
                await self.send_raw(self._outgoing.read())

    async def send_raw(self, data: bytes) -> None:
        """Send these very bytes, below TLS."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def accept_tls(self, context: ssl.SSLContext) -> None:
        """Do the server's part of a handshake. Raises ssl.SSLError, after its alert was sent;
        ConnectionError if the peer leaves."""
        tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        async with self._bounded("a handshake"):
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self.send_raw(self._outgoing.read())
                    await self._receive_raw()
                except ssl.SSLError:
                    await self.send_raw(self._outgoing.read())
                    raise
            await self.send_raw(self._outgoing.read())
        self.tls = tls

    async def end_tls(self) -> None:
        """Announce the end of what is sent (close_notify)."""
        assert self.tls is not None
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        await self.send_raw(self._outgoing.read())

    async def _receive_raw(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        if not data:
            raise ConnectionResetError("no end of TLS was announced")
        self._incoming.write(data)

    async def _receive_some(self) -> bytes:
        """Empty at the end."""
        if self.tls is None:
            return await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self._receive_raw()

    def finish(self) -> None:
        """Send no more: a FIN, while reading goes on."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close: a FIN, unless the kernel holds unread bytes, for then it sends a RST."""
        self.sock.close()

    def abort(self) -> None:
        """Reset the connection."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    # reading

    async def eof(self) -> End:
        """Wait until the peer ends the connection, swallowing what comes before; tells how."""
        async with self._bounded("the end of the connection"):
            while await self._receive():
                self._buffer.clear()
            self._buffer.clear()
        assert self.ended
        return self.ended

    async def closed(self) -> End:
        """Wait until the peer ends the connection; any byte that comes before is an error."""
        async with self._bounded("the end of the connection, and nothing else"):
            while not self._buffer and await self._receive():
                pass
        assert not self._buffer, f"{self!r}: bytes before the end: {bytes(self._buffer)!r}"
        assert self.ended
        return self.ended

    async def read_until_eof(self) -> bytes:
        """Everything until the peer closes cleanly, unparsed; Truncated if it resets."""
        async with self._bounded("the end of the stream"):
            while await self._receive():
                pass
        data = bytes(self._buffer)
        self._buffer.clear()
        if self.ended == "reset":
            raise Truncated(f"{self!r}: reset after {data!r}", "reset", body=data)
        return data

    async def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes, unparsed."""
        async with self._bounded(f"{count} bytes"):
            while len(self._buffer) < count:
                if not await self._receive():
                    raise self._truncated(f"wanted {count} bytes")
        return self._take(count)

    async def body_some(self) -> bytes:
        """The next piece of the body whose head was read, as it comes; empty at its end."""
        assert self._body is not None, f"{self!r}: no head was read"
        async with self._bounded("more of the body"):
            return await self._body.some()

    def unread(self) -> bytes:
        """What has been received and not been asked for."""
        return bytes(self._buffer)

    async def _read_head(self) -> bytes | None:
        """A message head; None if the peer ended the connection before its first byte."""
        assert self._body is None or self._body.done, f"{self!r}: the last body is unread"
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self._receive():
                if self._buffer:
                    raise self._truncated("inside a message head", head=bytes(self._buffer))
                return None
        return self._take(end + 4)

    async def _read_body(
        self, message: Message, framing: int | Literal["chunked", "close"]
    ) -> None:
        """Read the whole body into ``message``."""
        self._body = Body(self, framing, keep_chunks=True)
        body = bytearray()
        try:
            while piece := await self._body.some():
                body += piece
        except Truncated as cut:
            cut.head, cut.body = message.head, bytes(body)
            raise
        message.body = bytes(body)
        message.chunks = self._body.chunks if framing == "chunked" else None
        message.trailers = self._body.trailers

    async def _read_line(self) -> bytes:
        """A line of the chunked coding, without its CRLF."""
        while (end := self._buffer.find(b"\n")) < 0:
            assert len(self._buffer) < _LONGEST_LINE, f"endless line: {self._buffer[:200]!r}"
            if not await self._receive():
                raise self._truncated("inside the chunked coding")
        line = self._take(end + 1)
        assert line.endswith(b"\r\n"), f"bare LF in the chunked coding: {line!r}"
        assert b"\r" not in line[:-2], f"bare CR in the chunked coding: {line!r}"
        return line[:-2]

    async def _read_some(self, limit: int | None) -> bytes:
        """At least one byte and at most ``limit``; empty if the peer has ended."""
        if not self._buffer:
            await self._receive()
        return self._take(len(self._buffer) if limit is None else limit)

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _receive(self) -> bool:
        """Get more into the buffer; False if the peer has ended."""
        if self.ended:
            return False
        try:
            data = await self._receive_some()
        except ConnectionError:
            self.ended = "reset"
            return False
        if not data:
            self.ended = "eof"
            return False
        self._buffer += data
        self._log += data
        del self._log[:-4096]
        return True

    def _truncated(self, where: str, *, head: bytes = b"") -> Truncated:
        how: End = self.ended or "eof"
        return Truncated(f"{self!r}: {how} {where}; last received {self._last()}", how, head=head)

    def _last(self) -> str:
        return repr(bytes(self._log)) if self._log else "nothing"

    @contextlib.asynccontextmanager
    async def _bounded(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TIMEOUT):
                yield
        except TimeoutError:
            raise AssertionError(
                f"{self!r}: waited {TIMEOUT:g} s for {what}; last received {self._last()}"
            ) from None


class Body:
    """A body being read: de-framed strictly, piece by piece as it comes."""

    def __init__(
        self,
        wire: Wire,
        framing: int | Literal["chunked", "close"],
        *,
        keep_chunks: bool = False,
    ) -> None:
        self.done = framing == 0
        self.chunks: list[bytes] = []
        """Empty unless they are to be kept."""
        self.trailers: list[Field] = []
        self._wire = wire
        self._framing = framing
        self._left = framing if isinstance(framing, int) else 0
        self._chunk = bytearray()
        self._inside_chunk = False
        self._keep_chunks = keep_chunks

    async def some(self) -> bytes:
        """The next piece; empty at the end."""
        if self.done:
            return b""
        if self._framing == "chunked":
            return await self._some_chunked()
        if self._framing == "close":
            piece = await self._wire._read_some(None)
            if not piece:
                if self._wire.ended == "reset":
                    raise self._wire._truncated("inside a body that a close should end")
                self.done = True
            return piece
        piece = await self._wire._read_some(self._left)
        if not piece:
            raise self._wire._truncated(f"{self._left} bytes before the end of the body")
        self._left -= len(piece)
        self.done = self._left == 0
        return piece

    async def _some_chunked(self) -> bytes:
        if self._left == 0:
            if self._inside_chunk:
                await self._end_chunk()
            line = await self._wire._read_line()
            match = _CHUNK_LINE.fullmatch(line)
            assert match, f"not a chunk size: {line!r}"
            self._left = int(match[1], 16)
            if self._left == 0:
                await self._read_trailers()
                self.done = True
                return b""
        piece = await self._wire._read_some(self._left)
        if not piece:
            raise self._wire._truncated(f"{self._left} bytes before the end of a chunk")
        self._left -= len(piece)
        self._inside_chunk = True
        if self._keep_chunks:
            self._chunk += piece
        return piece

    async def _end_chunk(self) -> None:
        """The CRLF after a chunk's data: read when more is asked for, not when the data is whole,
        for it may come later."""
        line = await self._wire._read_line()
        assert not line, f"chunk data longer than its size: {line!r}"
        self._inside_chunk = False
        if self._keep_chunks:
            self.chunks.append(bytes(self._chunk))
            self._chunk.clear()

    async def _read_trailers(self) -> None:
        block = b""
        while line := await self._wire._read_line():
            block += line + b"\r\n"
        self.trailers = _parse_fields(block)


# --- the endpoint's side -------------------------------------------------------------------------


class EndpointConnection(Wire):
    """What a script gets: one accepted connection."""

    def __init__(self, sock: socket.socket, endpoint: ScriptedEndpoint, number: int) -> None:
        super().__init__(sock, f"connection {number} of {endpoint.address}")
        self.endpoint = endpoint
        self.number = number
        """1 for the endpoint's first connection."""
        self._request: Request | None = None

    async def request(self) -> Request | None:
        """The next request with its whole body; None if the peer left before its first byte."""
        async with self._bounded("a request"):
            request = await self._next_request()
            if request is None:
                return None
            await self._read_body(request, request.framing())
        self.endpoint._received(request)
        return request

    async def head(self) -> Request | None:
        """The head of the next request, its body left for ``body_some``."""
        async with self._bounded("a request head"):
            request = await self._next_request()
        if request is not None:
            self._body = Body(self, request.framing())
        return request

    async def _next_request(self) -> Request | None:
        head = await self._read_head()
        if head is None:
            return None
        request = Request.parse(head)
        self.endpoint._began(request)
        return request

    def tell(self, event: object) -> None:
        """Hand something to the test, which gets it from ``endpoint.told()``."""
        self.endpoint._tell(event)


Script = Callable[[EndpointConnection], Awaitable[None]]


class ScriptedEndpoint:
    """A server on 127.0.0.1 that runs its script once per accepted connection.

    It owns its port from the moment it is made: before ``start`` and after ``stop`` connections
    are refused, and nobody else can take the port. When a script returns, its connection is
    closed. A script may fail by any exception but ConnectionError (the peer is free to leave);
    the failure is raised by whatever waits for the endpoint, and at the latest by ``close``.
    """

    def __init__(self, script: Script, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        """Replace it and the next connection runs the new one."""
        self.tls = tls
        """None: it speaks in the clear."""
        self.refusals: list[ssl.SSLError] = []
        """What failed handshakes failed with; the script is not run then."""
        self.host = "127.0.0.1"
        self.connections = 0
        """How many have been accepted, ever."""
        self.open: set[EndpointConnection] = set()
        """Those whose script is running."""
        self.heads: list[Request] = []
        """Requests whose head was read, without bodies."""
        self.requests: list[Request] = []
        """Requests that were read whole."""
        self._events: deque[object] = deque()
        self._listener = self._bind(port)
        self.port: int = self._listener.getsockname()[1]
        self._accepting: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return (
            f"<ScriptedEndpoint {self.address} {len(self.open)} open of {self.connections}, "
            f"{len(self.requests)} requests>"
        )

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port each time."""
        assert self._accepting is None, f"{self!r} is listening"
        self._listener.listen(128)
        self._accepting = asyncio.create_task(self._accept(), name=f"accept on {self.address}")

    async def stop(self) -> None:
        """Close everything, as a process that exits; connections are refused from now on."""
        await self._shut()
        self._listener = self._bind(self.port)

    async def close(self) -> None:
        """Stop for good, and raise what failed in a script."""
        await self._shut()
        self._raise_failure()

    async def wait_connections(self, count: int) -> None:
        """Until that many connections have been accepted, ever."""
        await self._until(lambda: self.connections >= count, f"{count} connections")

    async def wait_heads(self, count: int) -> None:
        """Until that many request heads have been read, ever."""
        await self._until(lambda: len(self.heads) >= count, f"{count} request heads")

    async def wait_requests(self, count: int) -> None:
        """Until that many requests have been read whole, ever."""
        await self._until(lambda: len(self.requests) >= count, f"{count} requests")

    async def wait_open(self, at_most: int) -> None:
        """Until only so many scripts are running, or fewer; 0: all connections are over."""
        await self._until(lambda: len(self.open) <= at_most, f"at most {at_most} connections")

    async def told(self) -> object:
        """The next thing that a script told."""
        await self._until(lambda: bool(self._events), "word from a script")
        return self._events.popleft()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _bind(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((self.host, port))
        return listener

    async def _shut(self) -> None:
        tasks = [*self._running, *([self._accepting] if self._accepting else [])]
        self._accepting = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            self.connections += 1
            connection = EndpointConnection(sock, self, self.connections)
            self.open.add(connection)
            task = loop.create_task(self._run(connection), name=repr(connection))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            self._news.set()

    async def _run(self, connection: EndpointConnection) -> None:
        try:
            if self.tls is not None:
                await connection.accept_tls(self.tls)
            await self.script(connection)
        except ssl.SSLError as error:
            self.refusals.append(error)
        except ConnectionError:
            pass  # the peer left while we were sending
        except Exception as failure:
            self._failures.append(failure)
            connection.abort()
        finally:
            connection.close()
            self.open.discard(connection)
            self._news.set()

    def _tell(self, event: object) -> None:
        self._events.append(event)
        self._news.set()

    def _began(self, request: Request) -> None:
        self.heads.append(request)
        self._news.set()

    def _received(self, request: Request) -> None:
        self.requests.append(request)
        self._news.set()

    async def _until(self, ready: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                while not ready():
                    self._raise_failure()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{self!r}: waited {TIMEOUT:g} s for {what}") from None

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures.pop(0)


# --- the client's side ---------------------------------------------------------------------------


class RawClient(Wire):
    """A client on one connection."""

    @classmethod
    async def connect(cls, port: int, host: str = "127.0.0.1", *, local: str | None = None) -> Self:
        """Connect, from the local address ``local`` if given (127.0.0.5, say)."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            sock.setblocking(False)
            if local is not None:
                sock.bind((local, 0))
            async with asyncio.timeout(TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return cls(sock, f"client on {host}:{port}")

    @property
    def address(self) -> str:
        """Our own ``host:port``, as the server sees it."""
        host, port = self.sock.getsockname()[:2]
        return f"{host}:{port}"

    async def response(
        self, to: Method = "GET", *, interims: list[Response] | None = None
    ) -> Response:
        """The next final response with its whole body; ``to`` is the method that it answers.
        Interim responses before it are an error unless there is a list to put them in."""
        async with self._bounded(f"the response to a {to}"):
            response = await self._next_response()
            while interims is not None and response.status < 200 and response.status != 101:
                interims.append(response)
                response = await self._next_response()
            self._must_be_final(response)
            await self._read_body(response, response.framing(to))
        return response

    async def response_head(self, to: Method = "GET") -> Response:
        """The head of the next final response, its body left for ``body_some``."""
        async with self._bounded(f"the head of the response to a {to}"):
            response = await self._next_response()
        self._must_be_final(response)
        self._body = Body(self, response.framing(to))
        return response

    async def interim(self) -> Response:
        """The next response, which must be an interim one (1xx)."""
        async with self._bounded("an interim response"):
            response = await self._next_response()
        assert response.status < 200, f"{self!r}: final, not interim: {response.head!r}"
        response.framing("GET")
        return response

    async def _next_response(self) -> Response:
        head = await self._read_head()
        if head is None:
            raise self._truncated("instead of a response")
        return Response.parse(head)

    def _must_be_final(self, response: Response) -> None:
        final = response.status >= 200 or response.status == 101
        assert final, f"{self!r}: interim, not final: {response.head!r}"


# --- scripts and bytes ---------------------------------------------------------------------------


def answering(response: bytes) -> Script:
    """A script that answers every request on a kept-alive connection with the same bytes."""

    async def script(conn: EndpointConnection) -> None:
        while await conn.request() is not None:
            await conn.send(response)

    return script


def playing(*responses: bytes) -> Script:
    """A script that answers a connection's requests with these bytes in turn, then closes it."""

    async def script(conn: EndpointConnection) -> None:
        for response in responses:
            if await conn.request() is None:
                return
            await conn.send(response)

    return script


def ok(body: bytes = b"", **headers: str) -> bytes:
    """A 200 with Content-Length; underscores in names stand for hyphens."""
    return respond("200 OK", ("Content-Length", str(len(body))), *_named(headers), body=body)


def respond(status: str, *fields: tuple[str, str], body: bytes = b"") -> bytes:
    """A response of exactly these fields, e.g. ``respond("204 No Content", ("X-A", "b"))``."""
    return _message(f"HTTP/1.1 {status}", fields, body)


def get(path: str | bytes = "/", host: str = "demo.local", **headers: str) -> bytes:
    """A GET request; underscores in header names stand for hyphens."""
    return request("GET", path, ("Host", host), *_named(headers))


def post(body: bytes, path: str = "/", host: str = "demo.local", **headers: str) -> bytes:
    """A POST request with Content-Length; underscores in header names stand for hyphens."""
    length = ("Content-Length", str(len(body)))
    return request("POST", path, ("Host", host), length, *_named(headers), body=body)


def request(
    method: str,
    target: str | bytes,
    *fields: tuple[str, str],
    body: bytes = b"",
    version: str = "HTTP/1.1",
) -> bytes:
    """A request of exactly these fields, well-formed or not: no Host is added."""
    raw = target if isinstance(target, bytes) else target.encode("latin-1")
    start = method.encode("latin-1") + b" " + raw + b" " + version.encode("latin-1")
    return _message(start, fields, body)


def chunked(*pieces: bytes, trailers: Sequence[tuple[str, str]] = ()) -> bytes:
    """These pieces as a whole chunked body."""
    data = b"".join(chunk(piece) for piece in pieces)
    return data + b"0\r\n" + _lines(trailers) + b"\r\n"


def chunk(piece: bytes) -> bytes:
    """One chunk."""
    assert piece, "an empty chunk would end the body"
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def _message(start: str | bytes, fields: Sequence[tuple[str, str]], body: bytes) -> bytes:
    first = start if isinstance(start, bytes) else start.encode("latin-1")
    return first + b"\r\n" + _lines(fields) + b"\r\n" + body


def _lines(fields: Sequence[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


def _named(headers: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-"), value) for name, value in headers.items()]
