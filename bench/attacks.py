"""What ``bench.hostile`` does to a proxy: hostile clients and a hostile endpoint, each in a process
of its own, and an observer that measures what other clients notice."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import re
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from bench.load import trusting

OBSERVERS = 20
PAUSE_SECONDS = 0.01
"""An observer's pause between a response and its next request, so that it is no load itself."""
NEWCOMER_PAUSE_SECONDS = 0.1
"""The same for those that make a TLS connection for each request."""
GREETED_SECONDS = 5.0
"""A client of a flood of handshakes waits no longer for the server's part."""
GIVE_UP_SECONDS = 20.0
_T = TypeVar("_T")


def _request(host: str, path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


# --- endpoints ----------------------------------------------------------------------------------

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 116\r\n\r\n" + b"x" * 116
_STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_ENDLESS = {
    b"/103": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000),
    b"/chunks-1": (_STREAM, b"1\r\nx\r\n" * 10_000),
    b"/chunks-64": (_STREAM, (b"40\r\n" + b"x" * 64 + b"\r\n") * 1000),
}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Responds by path: endlessly, never, or at the end of the request."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            if path in _ENDLESS:
                first, again = _ENDLESS[path]
                writer.write(first)
                while True:
                    writer.write(again)
                    await writer.drain()
            if path == b"/hang" or b"chunked" in head.lower():
                while await reader.read(262_144):
                    pass
                break
            writer.write(_OK)
    writer.transport.abort()


def endpoint(port: int) -> None:
    """Serve until killed."""

    async def serve() -> None:
        server = await asyncio.start_server(_serve, "127.0.0.1", port, limit=1 << 20, backlog=4096)
        await server.serve_forever()

    asyncio.run(serve())


# --- clients ------------------------------------------------------------------------------------


async def _flood(port: int, first: bytes, again: bytes, answers: int) -> None:
    """Send without pause, and read what comes; reconnect when cut off. ``answers``: this many
    come before more is sent; 0: whatever comes."""
    while True:
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while answers:
                writer.write(again)
                for _ in range(answers):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = re.search(rb"(?i)content-length: *(\d+)", head)
                    await reader.readexactly(int(length[1]) if length else 0)
            reading = asyncio.create_task(_discard(reader))
            try:
                writer.write(first)
                while again and not reading.done():
                    writer.write(again)
                    await writer.drain()
                await reading
            finally:
                reading.cancel()
                writer.transport.abort()
        await asyncio.sleep(0.05)


async def _discard(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(262_144):
            pass


def flood(port: int, clients: int, first: bytes, again: bytes, answers: int) -> None:
    """This many clients, until killed."""

    async def run() -> None:
        await asyncio.gather(*[_flood(port, first, again, answers) for _ in range(clients)])

    asyncio.run(run())


async def _greet(port: int, hello: bytes) -> None:
    """Let the server do its part of a handshake, and go; again and again."""
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(hello)
                async with asyncio.timeout(GREETED_SECONDS):
                    await reader.read(1)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0)


def greet(port: int, clients: int, hello: bytes) -> None:
    """This many clients, until killed."""

    async def run() -> None:
        await asyncio.gather(*[_greet(port, hello) for _ in range(clients)])

    asyncio.run(run())


def hello(host: str) -> bytes:
    """The ClientHello of a client of today."""
    sent = ssl.MemoryBIO()
    client = trusting().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=host)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def hoard(port: int, clients: int, pieces: Sequence[bytes], ready: object) -> None:
    """Each client sends the pieces, as far as they are taken, and holds its connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def one(data: bytes) -> socket.socket:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(3.0):
                await loop.sock_sendall(sock, data)
        return sock

    async def run() -> None:
        data = b"".join(pieces)
        held = []
        for begin in range(0, clients, 50):
            some = range(begin, min(begin + 50, clients))
            held += await asyncio.gather(*[one(data) for _ in some], return_exceptions=True)
        ready.set()  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    asyncio.run(run())


# --- attacks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the table."""

    row: str
    """In the table of attacks that it is measured for."""
    name: str
    clients: int
    first: bytes
    again: bytes = b""
    """Sent again and again."""
    answers: int = 0
    """Responses awaited before more is sent; 0: none."""
    hoards: bool = False
    """It is about memory: connections are held, and nothing is sent again."""
    greets: bool = False
    """What is sent is a ClientHello, and the client goes with the first byte of what comes."""
    tls: bool = False
    """The listener speaks TLS, and other clients come anew for each request."""


_HELLO = hello("good.test")
_FIELD = "X-Hoard: " + "x" * 7990
_HEAD = _request("good.test", "/", *[_FIELD] * 120)
_LOCAL = _request("nobody.test", "/")
_UPLOAD = _request("bad.test", "/upload", "Transfer-Encoding: chunked", method="POST")
_HANGING = _request("bad.test", "/hang") + _request("good.test", "/", *[_FIELD] * 3) * 40
ATTACKS = (
    Attack("2", "60 clients pipeline 100 requests answered 404, again", 60, b"", _LOCAL * 100, 100),
    Attack("2", "60 clients send requests answered 404 without pause", 60, b"", _LOCAL * 500),
    Attack("3", "unfinished heads of 120 fields of 8 kB", 1000, _HEAD[:-2], hoards=True),
    Attack("3", "heads pipelined behind a hanging request", 1000, _HANGING, hoards=True),
    Attack("5", "2 downloads of endless 103", 2, _request("bad.test", "/103")),
    Attack("5", "2 downloads in chunks of 1 byte", 2, _request("bad.test", "/chunks-1")),
    Attack("5", "2 downloads in chunks of 64 bytes", 2, _request("bad.test", "/chunks-64")),
    Attack("6", "20 uploads in chunks of 1 byte", 20, _UPLOAD, b"1\r\nx\r\n" * 10_000),
    Attack("tls", "stalled handshakes: nothing sent", 2000, b"", hoards=True, tls=True),
    Attack("tls", "stalled handshakes: half a hello", 2000, _HELLO[:99], hoards=True, tls=True),
    Attack("tls", "stalled handshakes: a hello alone", 2000, _HELLO, hoards=True, tls=True),
    Attack("tls", "20 clients begin handshakes without pause", 20, _HELLO, greets=True, tls=True),
)

_SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def running(
    target: Callable[..., None], *arguments: object, cores: set[int] | None = None
) -> Iterator[None]:
    """A process of its own for the time of the block."""
    process = _SPAWN.Process(target=_pinned, args=(cores, target, arguments), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _pinned(
    cores: set[int] | None, target: Callable[..., None], arguments: Sequence[object]
) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
    target(*arguments)


@contextmanager
def hoarding(port: int, attack: Attack, cores: set[int] | None) -> Iterator[None]:
    """Connections are held for the time of the block, which begins when all are there."""
    ready = _SPAWN.Event()
    arguments = (port, attack.clients, [attack.first], ready)
    with running(hoard, *arguments, cores=cores):
        ready.wait(GIVE_UP_SECONDS * 5)
        yield


# --- what other clients notice ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Felt:
    """Milliseconds."""

    p50: float
    p99: float
    answers: int
    failures: int


def observe(port: int, seconds: float, *, tls: bool = False) -> Felt:
    """Send moderate load for that long: over TLS each request on a connection of its own."""
    return asyncio.run(_observe(port, seconds, trusting() if tls else None))


@dataclass(slots=True)
class _Seen:
    times: list[float] = field(default_factory=list)
    """Seconds."""
    failures: int = 0


async def _observe(port: int, seconds: float, tls: ssl.SSLContext | None) -> Felt:
    seen = _Seen()
    ends = time.monotonic() + seconds
    asked = _request("good.test", "/")
    await asyncio.gather(*[_ask(port, asked, ends, seen, tls) for _ in range(OBSERVERS)])
    times = sorted(seen.times)
    if not times:
        return Felt(float("inf"), float("inf"), 0, seen.failures)
    at = [times[min(len(times) - 1, int(len(times) * share))] * 1000 for share in (0.5, 0.99)]
    return Felt(at[0], at[1], len(times), seen.failures)


async def _ask(
    port: int, asked: bytes, ends: float, seen: _Seen, tls: ssl.SSLContext | None
) -> None:
    """One client on one connection, or over TLS on one after the other; what takes too long counts
    as long as it took."""
    name = "good.test" if tls else None
    pause = NEWCOMER_PAUSE_SECONDS if tls else PAUSE_SECONDS
    while time.monotonic() < ends:
        began = time.monotonic()
        with ExitStack() as stack:
            try:
                opening = asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
                reader, writer = await _within(opening)
                stack.callback(writer.transport.abort)
                while time.monotonic() < ends:
                    began = began if tls else time.monotonic()
                    writer.write(asked)
                    head = await _within(reader.readuntil(b"\r\n\r\n"))
                    if b" 200 " not in head[:20]:
                        raise OSError("not served")
                    await _within(reader.readexactly(116))
                    seen.times.append(time.monotonic() - began)
                    await asyncio.sleep(pause)
                    if tls:
                        break
            except (OSError, EOFError, TimeoutError):
                seen.failures += 1
                seen.times.append(time.monotonic() - began)
                await asyncio.sleep(pause)


async def _within(what: Awaitable[_T]) -> _T:
    return await asyncio.wait_for(what, GIVE_UP_SECONDS)
