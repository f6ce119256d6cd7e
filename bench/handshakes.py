"""Clients that make a TLS connection for each request: ``python -m bench.handshakes PORT FILE
CLIENTS SECONDS full|resumed``. Prints one line of JSON, as ``load.lua`` does.

wrk cannot be told which it is to be: with TLS 1.3 it resumes its session whenever it may. That
these clients are slower does no harm, because what counts is the CPU of the server.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import trusting

_HOST = re.compile(rb"\r\nHost: ([^\r]+)")
_TIMEOUT = 20
"""Seconds for each step of a connection."""


@dataclass(slots=True)
class Found:
    """What one client saw; times in seconds."""

    times: list[float] = field(default_factory=list)
    failed: int = 0
    not_resumed: int = 0
    """Connections that made a full handshake though they offered a session."""


def client(port: int, requests: Iterable[bytes], ends: float, resume: bool) -> Found:
    """Send the requests, each on a connection of its own, until the time ``ends``."""
    found = Found()
    context = trusting()
    sessions: dict[str, ssl.SSLSession | None] = {}
    for asked in requests:
        if (began := time.monotonic()) >= ends:
            break
        host = server_name(asked)
        session = sessions.get(host)
        try:
            with (
                _connected(port) as plain,
                context.wrap_socket(plain, server_hostname=host, session=session) as secured,
            ):
                secured.sendall(asked)
                answer = secured.recv(65_536)
                while more := secured.recv(65_536):
                    answer += more
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise OSError("not served")
                if resume:
                    found.not_resumed += session is not None and not secured.session_reused
                    sessions[host] = secured.session
        except OSError:
            found.failed += 1
        else:
            found.times.append(time.monotonic() - began)
    return found


def _connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), _TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def server_name(asked: bytes) -> str:
    """The host of a request, which is the name that the client sends in its ClientHello too."""
    host = _HOST.search(asked)
    return host[1].decode() if host else ""


def result(found: Sequence[Found], seconds: float) -> dict[str, int]:
    """All of it, in the terms of ``load.lua``: microseconds."""
    times = sorted(time for one in found for time in one.times) or [0.0]

    def at(share: float) -> int:
        return int(times[min(len(times) - 1, int(len(times) * share))] * 1e6)

    return {
        "requests": sum(len(one.times) for one in found),
        "microseconds": int(seconds * 1e6),
        "p50": at(0.5),
        "p99": at(0.99),
        "p999": at(0.999),
        "max": int(times[-1] * 1e6),
        "connect": sum(one.failed for one in found),
        "read": 0,
        "write": 0,
        "status": sum(one.not_resumed for one in found),
        "timeout": 0,
    }


def main(arguments: Sequence[str]) -> None:
    port, file, clients, seconds, kind = arguments
    requests = [one for one in Path(file).read_bytes().split(b"\n%%\n") if one]
    began = time.monotonic()

    def run(number: int) -> Found:
        in_turn = itertools.islice(itertools.cycle(requests), number % len(requests), None)
        return client(int(port), in_turn, began + float(seconds), kind == "resumed")

    with ThreadPoolExecutor(int(clients)) as threads:
        found = list(threads.map(run, range(int(clients))))
    print("RESULT " + json.dumps(result(found, time.monotonic() - began)))


if __name__ == "__main__":
    main(sys.argv[1:])
