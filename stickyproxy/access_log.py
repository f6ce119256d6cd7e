"""One line per request, as text (combined, and what a sticky proxy adds) or as JSON.

Text, in this order: client - - [time] "request" status bytes "referer" "user agent", then the
service, endpoints contacted, seconds until their response heads, seconds in all, how affinity was
decided and the request id; ``-`` for what there is none of.

Lines of one turn of the event loop are written together; no write ends inside a line, so that the
lines of several processes do not mix. An access log that cannot be written
says so once and does not stop the proxy.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from stickyproxy.errors import ListenError
from stickyproxy.headers import seconds

if TYPE_CHECKING:
    from stickyproxy.proxy import Exchange

log = logging.getLogger("stickyproxy")

CLIENT_GONE = 499
"""Logged as the status when the client left before there was an answer, as nginx does."""

_ESCAPES = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 256))} | {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


class AccessLog:
    """Writes to a file, or to standard output if ``path`` is ``-``. Raises ListenError if the
    file cannot be opened."""

    def __init__(self, log_format: Literal["text", "json"], path: str) -> None:
        self._render: Callable[[Record], str] = _as_text if log_format == "text" else _as_json
        self._path = path
        self._lines: list[str] = []
        self._broken = False
        self._fd = self._open()
        is_pipe = stat.S_ISFIFO(os.fstat(self._fd).st_mode)
        self._at_once = select.PIPE_BUF if is_pipe else sys.maxsize
        """How many bytes the kernel takes in one piece, whoever else writes."""

    def write(self, exchange: Exchange) -> None:
        """Note one request that has been answered."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(self._render(Record(exchange)))

    def flush(self) -> None:
        """Write the lines that have come together."""
        if not self._lines:
            return
        data = "".join(self._lines).encode("ascii", "backslashreplace")
        self._lines.clear()
        try:
            while data:
                data = data[os.write(self._fd, data[: whole_lines(data, self._at_once)]) :]
            self._broken = False
        except OSError as error:
            if not self._broken:
                log.error("access log %s cannot be written: %s", self._path, error.strerror)
            self._broken = True

    def reopen(self) -> None:
        """Open the file anew, after it was rotated away."""
        if self._path != "-":
            self.flush()
            old, self._fd = self._fd, self._open()
            os.close(old)

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        if self._path != "-":
            os.close(self._fd)

    def _open(self) -> int:
        if self._path == "-":
            return sys.stdout.fileno()
        try:
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ListenError(
                f"access log {self._path} cannot be opened: {error.strerror}"
            ) from error


def whole_lines(data: bytes, limit: int) -> int:
    """Length of the lines at the beginning that fit into ``limit`` bytes; at least of one."""
    if len(data) <= limit:
        return len(data)
    return (data.rfind(b"\n", 0, limit) + 1) or (data.index(b"\n") + 1)


class Record:
    """What is logged of a request, by name."""

    __slots__ = (
        "affinity",
        "bytes",
        "client",
        "host",
        "method",
        "referer",
        "request_id",
        "seconds",
        "service",
        "status",
        "target",
        "upstream_addr",
        "upstream_seconds",
        "user_agent",
        "version",
    )

    def __init__(self, exchange: Exchange) -> None:
        request = exchange.request
        self.client = exchange.client.peer.address if request is None else request.client_address
        self.request_id = (exchange.id if request is None else request.id).decode()
        self.seconds = time.monotonic() - exchange.started
        self._note_answer(exchange)
        self._note_request(exchange)

    def _note_answer(self, exchange: Exchange) -> None:
        relay = exchange.relay
        pick = exchange.pick
        self.service = exchange.service if pick is None else pick.endpoint.service
        self.affinity = "none" if pick is None else pick.affinity.value
        addresses = [attempt.address for attempt in exchange.attempts]
        times = [attempt.seconds for attempt in exchange.attempts]
        if exchange.status:
            self.status, self.bytes = exchange.status, exchange.sent
        elif relay is not None and pick is not None:
            addresses.append(pick.endpoint.address)
            times.append(relay.head_seconds or time.monotonic() - relay.started)
            self.status = relay.status or CLIENT_GONE
            self.bytes = relay.sent + (relay.tunnel.bytes_down if relay.tunnel else 0)
        else:
            self.status, self.bytes = CLIENT_GONE, 0
        self.upstream_addr = ", ".join(addresses)
        self.upstream_seconds = b", ".join(map(seconds, times)).decode()

    def _note_request(self, exchange: Exchange) -> None:
        request = exchange.request
        message = exchange.message
        self.method = self.target = self.version = self.host = ""
        self.referer = self.user_agent = ""
        if message is not None:
            major, minor = message.version
            self.method = message.method
            self.target = message.path.encode("utf-8", "surrogateescape").decode("latin-1")
            self.version = f"HTTP/{major}.{minor}"
        if request is not None:
            self.host = request.host.decode("latin-1")
            self.referer = _latin(request.header("Referer"))
            self.user_agent = _latin(request.header("User-Agent"))


def _latin(value: bytes | None) -> str:
    return "" if value is None else value.decode("latin-1")


def _as_text(r: Record) -> str:
    client = r.client.translate(_ESCAPES) or "unix:"
    request = f"{r.method} {r.target} {r.version}".translate(_ESCAPES) if r.method else "-"
    return (
        f'{client} - - [{_clock("%d/%b/%Y:%H:%M:%S +0000")}] "{request}" '
        f"{r.status} {r.bytes} "
        f'"{r.referer.translate(_ESCAPES) or "-"}" "{r.user_agent.translate(_ESCAPES) or "-"}" '
        f'{r.service or "-"} "{r.upstream_addr or "-"}" "{r.upstream_seconds or "-"}" '
        f"{r.seconds:.3f} {r.affinity} {r.request_id}\n"
    )


def _as_json(r: Record) -> str:
    record = {"time": _clock("%Y-%m-%dT%H:%M:%SZ")}
    record |= {name: getattr(r, name) for name in Record.__slots__}
    record["seconds"] = round(r.seconds, 4)  # type: ignore[assignment]
    return json.dumps(record) + "\n"


_last_clock: dict[str, tuple[int, str]] = {}


def _clock(pattern: str) -> str:
    """The time in UTC, rendered once a second."""
    now = int(time.time())
    second, text = _last_clock.get(pattern, (0, ""))
    if second != now:
        text = time.strftime(pattern, time.gmtime(now))
        _last_clock[pattern] = (now, text)
    return text
