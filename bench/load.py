"""Load: wrk for requests, and small clients that make TLS connections or only hold them open."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

LUA = Path(__file__).with_name("load.lua")
OPENSSL = Path(__file__).with_name("openssl.cnf")
HOST = "bench.test"
_TIMEOUT = 20
"""Seconds until wrk counts a request as failed: more than any response may take."""


class LoadError(Exception):
    """The load generator failed; the message has what it said."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw; times are in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    p999: float
    slowest: float
    failures: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def parse_wrk(output: str) -> Load:
    """Read what ``load.lua`` or ``handshakes.py`` printed. Raises LoadError."""
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise LoadError(f"the load gave no result: {output[-800:]}")
    found = json.loads(lines[-1].removeprefix("RESULT "))
    return Load(
        requests=found["requests"],
        seconds=found["microseconds"] / 1e6,
        p50=found["p50"] / 1e3,
        p99=found["p99"] / 1e3,
        p999=found["p999"] / 1e3,
        slowest=found["max"] / 1e3,
        failures=sum(found[kind] for kind in ("connect", "read", "write", "status", "timeout")),
    )


def wrk(
    port: int,
    requests: Path,
    *,
    connections: int,
    seconds: int,
    core: int | None = None,
    tls: bool = False,
) -> Load:
    """Send the requests of a file in turn. Raises LoadError."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_TIMEOUT}s"]
    url = f"{'https' if tls else 'http'}://{HOST}:{port}/"
    return _run(["wrk", *options, "-s", str(LUA), url, "--", str(requests)], seconds, core)


def handshakes(
    port: int,
    requests: Path,
    *,
    connections: int,
    seconds: int,
    core: int | None = None,
    resumed: bool = False,
) -> Load:
    """Send each request on a new TLS connection, which resumes the client's last session with the
    host or knows of none. Raises LoadError."""
    kind = "resumed" if resumed else "full"
    arguments = [str(port), str(requests), str(connections), str(seconds), kind]
    return _run([sys.executable, "-m", "bench.handshakes", *arguments], seconds, core)


def _run(command: Sequence[str], seconds: int, core: int | None) -> Load:
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    done = subprocess.run(
        [*pinned, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 3 * _TIMEOUT,
        env={**os.environ, "OPENSSL_CONF": str(OPENSSL)},
    )
    return parse_wrk(done.stdout + done.stderr)


def request(
    path: str,
    *,
    host: str = HOST,
    cookie: str = "",
    user: str = "",
    upload: int = 0,
    close: bool = False,
) -> bytes:
    """One request as bytes, with the head of a small browser."""
    lines = [
        f"{'POST' if upload else 'GET'} {path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: stickyproxy-bench",
        "Accept: */*",
    ]
    lines += [f"Cookie: {cookie}"] if cookie else []
    lines += [f"X-User: {user}"] if user else []
    lines += ["Connection: close"] if close else []
    lines += ["Content-Type: application/octet-stream"] if upload else []
    lines += [f"Content-Length: {upload}"] if upload else []
    return "\r\n".join([*lines, "", ""]).encode() + b"x" * upload


def write_requests(path: Path, requests: Sequence[bytes]) -> Path:
    """The file that ``load.lua`` reads."""
    path.write_bytes(b"".join(one + b"\n%%\n" for one in requests))
    return path


# --- idle clients ---------------------------------------------------------------------------


@dataclass(slots=True)
class Crowd:
    """Clients that have had one response and now keep their connections."""

    connected: int = 0
    failed: int = 0


@asynccontextmanager
async def crowd(port: int, count: int, asked: bytes, at_once: int = 50) -> AsyncIterator[Crowd]:
    """``count`` idle keep-alive clients while the block runs."""
    writers: list[asyncio.StreamWriter] = []
    gate = asyncio.Semaphore(at_once)
    found = Crowd()

    async def join() -> None:
        async with gate:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
                    writers.append(writer)
                    writer.write(asked)
                    head = await reader.readuntil(b"\r\n\r\n")
            except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
                found.failed += 1
                return
            if head.startswith(b"HTTP/1.1 200"):
                found.connected += 1
            else:
                found.failed += 1

    try:
        await asyncio.gather(*(join() for _ in range(count)))
        yield found
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def trusting() -> ssl.SSLContext:
    """A client's context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def tls_crowd(port: int, count: int, asked: bytes) -> Iterator[Crowd]:
    """As ``crowd``, over TLS. With plain sockets, because asyncio's TLS takes more memory for a
    client than there is for thousands of them."""
    context = trusting()
    found = Crowd()
    with ExitStack() as stack:
        for _ in range(count):
            try:
                plain = stack.enter_context(socket.create_connection(("127.0.0.1", port), _TIMEOUT))
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                secured = stack.enter_context(context.wrap_socket(plain, server_hostname=HOST))
                secured.sendall(asked)
                served = secured.recv(4096).startswith(b"HTTP/1.1 200")
            except OSError:
                served = False
            found.connected += served
            found.failed += not served
        yield found
