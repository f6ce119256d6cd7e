"""One line per request, as text (combined, and what a sticky proxy adds) or as JSON.

Text, in this order: client - - [time] "request" status bytes "referer" "user agent", then the
service, endpoints contacted, seconds until their response heads, seconds in all, how affinity was
decided and the request id; ``-`` for what there is none of.

Requests are kept for at most ``DELAY`` and logged together; no write ends inside a line, so that
the lines of several processes do not mix. An access log that cannot be written says so once and
does not stop the proxy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as _json
from typing import TYPE_CHECKING, Literal

from stickyproxy.base.errors import ListenError
from stickyproxy.routing.endpoint import Affinity
from stickyproxy.semantics.headers import seconds

if TYPE_CHECKING:
    from stickyproxy.dataplane.exchange import Exchange

log = logging.getLogger("stickyproxy")
monotonic = time.monotonic

CLIENT_GONE = 499
"""Logged as the status when the client left before there was an answer, as nginx does."""

DELAY = 0.02
"""Seconds until a line is written, at most: writing each by itself would cost a system call."""

AT_ONCE = 64
"""How many lines are made without waiting. Making them one after the other takes half the time of
making each when its request ends: the code and its data stay in the CPU's caches."""

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
        self._waiting: list[tuple[Exchange, float]] = []
        """Requests to be logged, and when each ended."""
        self._timer: asyncio.TimerHandle | None = None
        self._broken = False
        self._fd = self._open()
        is_pipe = stat.S_ISFIFO(os.fstat(self._fd).st_mode)
        self._at_once = select.PIPE_BUF if is_pipe else sys.maxsize
        """How many bytes the kernel takes in one piece, whoever else writes."""

    def write(self, exchange: Exchange) -> None:
        """Note one request that has been answered."""
        waiting = self._waiting
        if not waiting:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self.flush)
        waiting.append((exchange, monotonic()))
        if len(waiting) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the lines of all requests noted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        render = self._render
        lines = [render(Record(exchange, ended)) for exchange, ended in self._waiting]
        self._waiting.clear()
        data = "".join(lines).encode("ascii", "backslashreplace")
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

    def __init__(self, exchange: Exchange, ended: float) -> None:
        self.seconds = ended - exchange.started
        self._note_answer(exchange, ended)
        request, message = exchange.request, exchange.message
        self.method = self.target = self.version = ""
        if message is not None:
            self.method = message.method
            self.target = _latin(message.path)
            self.version = _VERSIONS.get(message.version) or "HTTP/{}.{}".format(*message.version)
        if request is None:
            self.client = exchange.client.peer.address
            self.request_id = exchange.id.decode()
            self.host = self.referer = self.user_agent = ""
        else:
            headers = request.message.headers
            self.client = request.client_address
            self.request_id = request.id.decode()
            self.host = request.host.decode("latin-1")
            self.referer = _latin(headers.get("Referer", ""))
            self.user_agent = _latin(headers.get("User-Agent", ""))

    def _note_answer(self, exchange: Exchange, ended: float) -> None:
        relay = exchange.relay
        pick = exchange.pick
        addresses = [attempt.address for attempt in exchange.attempts]
        times = [attempt.seconds for attempt in exchange.attempts]
        self.service = exchange.service if pick is None else pick.endpoint.service
        self.affinity = _NO_AFFINITY if pick is None else pick.affinity.value
        if exchange.status:
            self.status, self.bytes = exchange.status, exchange.sent
        elif relay is not None and pick is not None:
            addresses.append(pick.endpoint.address)
            times.append(relay.head_seconds or ended - relay.started)
            self.status = relay.status or CLIENT_GONE
            self.bytes = relay.sent + (relay.tunnel.bytes_down if relay.tunnel else 0)
        else:
            self.status, self.bytes = CLIENT_GONE, 0
        self.upstream_addr = ", ".join(addresses)
        self.upstream_seconds = b", ".join(map(seconds, times)).decode()


_NO_AFFINITY = Affinity.NONE.value
_VERSIONS = {(1, 0): "HTTP/1.0", (1, 1): "HTTP/1.1"}


def _latin(text: str) -> str:
    """What aiohttp decoded, byte for byte."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def _quoted(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.translate(_ESCAPES)


def _as_text(r: Record) -> str:
    request = _quoted(f"{r.method} {r.target} {r.version}") if r.method else "-"
    return (
        f'{_quoted(r.client) or "unix:"} - - [{_clock("%d/%b/%Y:%H:%M:%S +0000")}] "{request}" '
        f'{r.status} {r.bytes} "{_quoted(r.referer) or "-"}" "{_quoted(r.user_agent) or "-"}" '
        f'{r.service or "-"} "{r.upstream_addr or "-"}" "{r.upstream_seconds or "-"}" '
        f"{seconds(r.seconds).decode()} {r.affinity} {r.request_id}\n"
    )


def _as_json(r: Record) -> str:
    # json.dumps of a dict takes three times as long; only some fields can hold odd characters.
    return (
        f'{{"time": "{_clock("%Y-%m-%dT%H:%M:%SZ")}", "affinity": "{r.affinity}", '
        f'"bytes": {r.bytes}, "client": {_json(r.client)}, "host": {_json(r.host)}, '
        f'"method": {_json(r.method)}, "referer": {_json(r.referer)}, '
        f'"request_id": "{r.request_id}", "seconds": {r.seconds:.4f}, '
        f'"service": {_json(r.service)}, "status": {r.status}, "target": {_json(r.target)}, '
        f'"upstream_addr": {_json(r.upstream_addr)}, "upstream_seconds": "{r.upstream_seconds}", '
        f'"user_agent": {_json(r.user_agent)}, "version": "{r.version}"}}\n'
    )


_last_clock: dict[str, tuple[int, str]] = {}


def _clock(pattern: str) -> str:
    """The time in UTC, rendered once a second."""
    now = int(time.time())
    second, text = _last_clock.get(pattern, (0, ""))
    if second != now:
        text = time.strftime(pattern, time.gmtime(now))
        _last_clock[pattern] = (now, text)
    return text
