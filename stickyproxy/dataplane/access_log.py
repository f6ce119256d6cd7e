"""One line per request, as text (combined, and what a sticky proxy adds) or as JSON; and one for
each connection that was passed through, of which less is known.

Text, in this order: client - - [time] "request" status bytes "referer" "user agent", then the
service, endpoints contacted, seconds until their response heads, seconds in all, how affinity was
decided, the request id, when it ended in seconds since 1970, and how: a word of ``Outcome``;
``-`` where a value is missing.

All of them tell when the request ended. [time] has whole seconds, because parsers of the combined
format read it by ``%d/%b/%Y:%H:%M:%S %z`` and refuse a fraction (GoAccess, Fluentd, Fluent Bit,
Logstash's date filter); milliseconds are in the last field but one, like nginx's ``$msec``, and
in JSON's time.

Requests are kept for at most ``DELAY`` and logged together, by a ``LineWriter``: an access log that
is not read, or cannot be written, loses lines and says so, and never stops the proxy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _json
from typing import Literal

from stickyproxy.base.errors import ListenError
from stickyproxy.base.line_writer import LineWriter
from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.dataplane.passthrough import Passage
from stickyproxy.routing.endpoint import Affinity
from stickyproxy.semantics.headers import seconds

log = logging.getLogger("stickyproxy")
monotonic = time.monotonic

CLIENT_GONE = 499
"""Logged as the status when the client left before there was a response, as nginx does."""

DELAY = 0.02
"""Seconds until a line is written, at most: writing each by itself would cost a system call."""

AT_ONCE = 64
"""How many lines are formatted in one go. Formatting them together takes half the time of
formatting each when its request ends: the code and its data stay in the CPU's caches."""

_ESCAPES = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 256))} | {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


class AccessLog:
    """Writes to a file, or to standard output if ``path`` is ``-``. Raises ListenError if the
    file cannot be opened."""

    def __init__(self, log_format: Literal["text", "json"], path: str) -> None:
        self._render: Callable[[Record, int], str] = _as_text if log_format == "text" else _as_json
        self._path = path
        self._waiting: list[tuple[Exchange | Passage, float]] = []
        """What is to be logged, and when it ended."""
        self._timer: asyncio.TimerHandle | None = None
        is_stdout = path == "-"
        self._writer = LineWriter(
            sys.stdout.fileno() if is_stdout else self._open(),
            "the access log on standard output" if is_stdout else f"access log {path}",
            owned=not is_stdout,
            on_full=self._on_full,
        )

    def write(self, exchange: Exchange | Passage) -> None:
        """Note one request, or connection passed through, that has ended."""
        waiting = self._waiting
        if not waiting:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self.flush)
        waiting.append((exchange, monotonic()))
        if len(waiting) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Have the lines of all requests noted written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        render = self._render
        since_1970 = time.time() - monotonic()
        lines = [
            render(
                Record(exchange, ended)
                if isinstance(exchange, Exchange)
                else PassageRecord(exchange, ended),
                int((ended + since_1970) * 1000),
            )
            for exchange, ended in self._waiting
        ]
        self._waiting.clear()
        self._writer.write("".join(lines).encode("ascii", "backslashreplace"))

    def reopen(self) -> None:
        """Reopen the file, after it was rotated away. Raises ListenError."""
        if self._path != "-":
            self.flush()
            self._writer.reopen(self._open())

    def close(self) -> None:
        """Write what is left, if that is possible within a second, and close the file."""
        self.flush()
        self._writer.close()

    def _open(self) -> int:
        flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            # Opening a named pipe without a reader would block, if it were opened for
            # writing only; see fifo(7).
            flags |= os.O_RDWR if _is_fifo(self._path) else os.O_WRONLY
            return os.open(self._path, flags, 0o640)
        except OSError as error:
            raise ListenError(
                f"access log {self._path} cannot be opened: {error.strerror}"
            ) from error

    def _on_full(self) -> None:
        log.warning("the access log is not written as fast as it grows: lines are lost")


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


class Record:
    """What is logged of a request, by name."""

    __slots__ = (
        "affinity",
        "bytes",
        "client",
        "host",
        "method",
        "outcome",
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
        outcome = exchange.outcome
        assert outcome is not None, "it has not ended yet"
        self.outcome: str = outcome.value
        self._note_answer(exchange, ended)
        request, stream = exchange.request, exchange.stream
        self.method = stream.method
        self.target = stream.target.decode("latin-1")
        self.version = stream.version
        if request is None:
            self.client = stream.peer.address
            self.request_id = exchange.id.decode()
            self.host = self.referer = self.user_agent = ""
        else:
            self.client = request.client_address
            self.request_id = request.id.decode()
            self.host = request.host.decode("latin-1")
            self.referer = (stream.header("Referer") or b"").decode("latin-1")
            self.user_agent = (stream.header("User-Agent") or b"").decode("latin-1")

    def _note_answer(self, exchange: Exchange, ended: float) -> None:
        relay = exchange.relay
        pick = exchange.pick
        attempts = () if exchange.failures is None else exchange.failures.attempts
        addresses = [attempt.address for attempt in attempts]
        times = [attempt.seconds for attempt in attempts]
        self.service = exchange.service if pick is None else pick.endpoint.service
        self.affinity = _NO_AFFINITY if pick is None else pick.affinity.value
        if (reply := exchange.reply) is not None:
            self.status = reply.status
            self.bytes = 0 if exchange.stream.method == "HEAD" else len(reply.body())
        elif relay is not None and pick is not None:
            addresses.append(pick.endpoint.address)
            times.append(relay.head_seconds or ended - relay.started)
            self.status = relay.status or CLIENT_GONE
            self.bytes = relay.sent + (exchange.tunnel.bytes_down if exchange.tunnel else 0)
        else:
            self.status, self.bytes = CLIENT_GONE, 0
        self.upstream_addr = ", ".join(addresses)
        self.upstream_seconds = b", ".join(map(seconds, times)).decode()


class PassageRecord(Record):
    """What is logged of a connection that was passed through. There is no request that could be
    named; the status is what a request would have got."""

    __slots__ = ()

    def __init__(self, passage: Passage, ended: float) -> None:
        assert passage.outcome is not None, "it has not ended yet"
        self.outcome = passage.outcome.value
        self.seconds = ended - passage.started
        self.client = passage.client_address
        self.host = passage.server_name
        self.method = self.target = self.version = self.referer = self.user_agent = ""
        self.request_id = "-"
        self.bytes = passage.bytes_down
        self.service = passage.service
        self.affinity = _NO_AFFINITY
        attempts = passage.attempts
        addresses = [attempt.address for attempt in attempts]
        times = [attempt.seconds for attempt in attempts]
        pick = passage.pick
        if pick is not None:
            self.service = pick.endpoint.service
            self.affinity = pick.affinity.value
        if pick is not None and passage.connect_seconds is not None:
            addresses.append(pick.endpoint.address)
            times.append(passage.connect_seconds)
            self.status = 200
        else:
            self.status = _STATUS_OF.get(passage.outcome, 502)
        self.upstream_addr = ", ".join(addresses)
        self.upstream_seconds = b", ".join(map(seconds, times)).decode()


_STATUS_OF = {
    Outcome.CLIENT_GONE: CLIENT_GONE,
    Outcome.NO_ENDPOINT: 503,
    Outcome.NO_RESOURCES: 503,
    Outcome.NO_NETWORK: 503,
    Outcome.BUG: 500,
}
"""Of connections for which there was no endpoint; any other: 502."""

_NO_AFFINITY = Affinity.NONE.value


def _quoted(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.translate(_ESCAPES)


def _as_text(r: Record, ended: int) -> str:
    """``ended``: in milliseconds since 1970."""
    clock, since_1970 = _text_times(ended)
    request = _quoted(f"{r.method} {r.target} {r.version}") if r.method else "-"
    return (
        f'{_quoted(r.client) or "unix:"} - - [{clock}] "{request}" '
        f'{r.status} {r.bytes} "{_quoted(r.referer) or "-"}" "{_quoted(r.user_agent) or "-"}" '
        f'{r.service or "-"} "{r.upstream_addr or "-"}" "{r.upstream_seconds or "-"}" '
        f"{seconds(r.seconds).decode()} {r.affinity} {r.request_id} {since_1970} "
        f"{r.outcome}\n"
    )


def _as_json(r: Record, ended: int) -> str:
    """``ended``: in milliseconds since 1970."""
    # json.dumps of a dict takes three times as long; only some fields can hold odd characters.
    return (
        f'{{"time": "{_json_time(ended)}", '
        f'"affinity": "{r.affinity}", "bytes": {r.bytes}, '
        f'"client": {_json(r.client)}, "host": {_json(r.host)}, '
        f'"method": {_json(r.method)}, "outcome": "{r.outcome}", "referer": {_json(r.referer)}, '
        f'"request_id": "{r.request_id}", "seconds": {r.seconds:.4f}, '
        f'"service": {_json(r.service)}, "status": {r.status}, "target": {_json(r.target)}, '
        f'"upstream_addr": {_json(r.upstream_addr)}, "upstream_seconds": "{r.upstream_seconds}", '
        f'"user_agent": {_json(r.user_agent)}, "version": "{r.version}"}}\n'
    )


# A busy proxy ends many requests in the same millisecond.


@lru_cache(maxsize=8)
def _text_times(milliseconds: int) -> tuple[str, str]:
    """The time in UTC as the combined format has it, and in seconds since 1970."""
    second, rest = divmod(milliseconds, 1000)
    return _clock("%d/%b/%Y:%H:%M:%S +0000", second), f"{second}.{rest:03d}"


@lru_cache(maxsize=8)
def _json_time(milliseconds: int) -> str:
    """The time in UTC, by ISO 8601."""
    second, rest = divmod(milliseconds, 1000)
    return f"{_clock('%Y-%m-%dT%H:%M:%S', second)}.{rest:03d}Z"


@lru_cache(maxsize=8)
def _clock(pattern: str, second: int) -> str:
    return time.strftime(pattern, time.gmtime(second))
