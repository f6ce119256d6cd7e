"""Lines to a descriptor whose other end may have stopped reading.

Who writes to a pipe waits until its reader has made room, and an event loop must not wait. So what
is written is kept in a bounded buffer, and a thread per descriptor waits inside write(2), where it
holds neither a lock nor the interpreter. When the buffer is full, the newest lines are dropped and
counted, and once there is room again the count is logged.

Why a thread, and not O_NONBLOCK: that flag belongs to the open file, not to our descriptor of it.
Standard output is shared with other workers, with whoever started us and with everything on the
same terminal, and all of them would get EAGAIN (where somebody has done that to us, the thread
waits). Nor would it help with a file, which counts as ready however slow its disk. Nor does asking
poll(2) first, as another process may fill the pipe in between.

The thread is a daemon: the end of the process waits for ``close`` at most, never for a reader. A
forked child starts with an empty buffer and a thread of its own.
"""

from __future__ import annotations

import logging
import math
import os
import select
import stat
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger("stickyproxy")

LIMIT = 1 << 20
"""Bytes that wait to be written, at most."""

CLOSE_SECONDS = 1.0
"""How long ``close`` waits for what is left to be written."""

TELL_SECONDS = 10.0
"""Lost lines are told of at most once in so many seconds, and on ``close``."""

RETRY_SECONDS = 1.0
"""After an error: a full disk may get room again, and a named pipe a new reader."""


class _Sink(NamedTuple):
    """What the lines after it are written to."""

    fd: int
    at_once: int
    """How many bytes the kernel takes in one piece, whoever else writes."""


class LineWriter:
    """Writes lines to a descriptor without ever waiting for it. For use by any thread."""

    def __init__(
        self,
        fd: int,
        name: str,
        *,
        owned: bool,
        limit: int = LIMIT,
        on_full: Callable[[], object] = lambda: None,
    ) -> None:
        """``name`` is what messages call it; ``owned``: close the descriptor at the end.
        ``on_full`` is called by ``write`` when lines begin to be lost."""
        self._name = name
        self._owned = owned
        self._limit = limit
        self._on_full = on_full
        self._sink = _sink(fd)
        self._told = -math.inf
        self._failing = False
        self._closing = False
        self._changed = threading.Condition()
        self._waiting: deque[bytes | _Sink] = deque()
        """In order; of lines of which a part has been written, the rest."""
        self._held = 0
        """Bytes in ``_waiting``."""
        self._lost = 0
        """Lines that were lost and not told of."""
        self._inside = False
        """Whether the last write ended inside a line."""
        self._ended = False
        """Nothing is written any more."""
        self._thread: threading.Thread | None = None
        _writers.add(self)

    def __repr__(self) -> str:
        return f"<LineWriter {self._name}, {self._held} bytes wait, {self._lost} lines lost>"

    def write(self, lines: bytes) -> None:
        """Have these lines written, each of which ends in LF; what does not fit is lost."""
        with self._changed:
            if self._ended:
                return
            fitting = lines
            if self._held + len(lines) > self._limit:
                fitting = lines[: lines.rfind(b"\n", 0, self._limit - self._held) + 1]
            if fitting:
                self._waiting.append(fitting)
                self._held += len(fitting)
                self._wake()
            losing = self._lost == 0 and len(fitting) < len(lines)
            self._lost += lines.count(b"\n", len(fitting))
        if losing:
            self._on_full()

    def reopen(self, fd: int) -> None:
        """Write all lines from here on to ``fd``, which is owned."""
        with self._changed:
            for number, entry in enumerate(self._waiting):
                if isinstance(entry, _Sink):  # one that was never reached
                    os.close(entry.fd)
                    del self._waiting[number]
                    break
            self._waiting.append(_sink(fd))
            self._wake()

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Write what is left, for so long; returns whether all of it was written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._thread is not None:
                self._changed.wait_for(lambda: self._ended, seconds)
            elif self._owned:
                os.close(self._sink.fd)
            self._ended = True
            unwritten, self._waiting = self._waiting, deque()
            self._held = 0
            for entry in unwritten:
                if isinstance(entry, _Sink):
                    os.close(entry.fd)
                else:
                    self._lost += entry.count(b"\n")
            lost, self._lost = self._lost, 0
        self._tell(lost)
        return not unwritten

    def forget(self) -> None:
        """Begin anew in a forked child, which has our memory but not our thread; what waits here is
        the parent's to write."""
        self._changed = threading.Condition()
        self._waiting.clear()
        self._held = self._lost = 0
        self._inside = False
        self._thread = None

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    # --- in the thread ---

    def _work(self) -> None:
        try:
            while (lines := self._next()) is not None:
                fd, at_once = self._sink
                try:
                    written = os.write(fd, lines[: whole_lines(lines, at_once)])
                except BlockingIOError:
                    _wait_for_room(fd)
                except OSError as error:
                    self._on_error(error)
                else:
                    self._on_written(written)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            if self._owned:
                os.close(self._sink.fd)

    def _next(self) -> bytes | None:
        """Wait for lines to be written; None at the end."""
        while True:
            lost = 0
            old = None
            with self._changed:
                if self._ended:
                    return None
                tell_in = self._told + TELL_SECONDS - time.monotonic()
                has_room = self._held <= self._limit // 2
                if self._lost and has_room and (tell_in <= 0 or self._closing):
                    lost, self._lost = self._lost, 0
                    self._told = time.monotonic()
                elif self._waiting:
                    first = self._waiting[0]
                    if isinstance(first, bytes):
                        return first
                    old, self._sink = self._sink, first
                    self._waiting.popleft()
                elif self._closing:
                    return None
                else:
                    self._changed.wait(tell_in if self._lost else None)
            if old is not None:
                if self._owned:
                    os.close(old.fd)
                self._owned = True
            self._tell(lost)

    def _on_written(self, written: int) -> None:
        with self._changed:
            self._failing = False
            if not self._ended:
                self._drop(written)

    def _on_error(self, error: OSError) -> None:
        """Try again later; or at once, if there is a newer descriptor to write to."""
        if self._ended:
            return
        if not self._failing:
            log.error("%s cannot be written: %s", self._name, error.strerror)
        with self._changed:
            self._failing = True
            if self._closing:
                self._ended = True
                return
            self._changed.wait_for(lambda: self._closing or self._newer(), RETRY_SECONDS)
            newer = self._newer()
            if newer is not None and not self._ended:
                if self._inside:  # the beginning of this line stays where it is
                    first = self._waiting[0]
                    assert isinstance(first, bytes)
                    self._drop(first.index(b"\n") + 1)
                    self._lost += 1
                self._waiting.remove(newer)
                self._waiting.appendleft(newer)

    def _newer(self) -> _Sink | None:
        return next((entry for entry in self._waiting if isinstance(entry, _Sink)), None)

    def _drop(self, size: int) -> None:
        """Forget so many bytes of the first lines that wait."""
        first = self._waiting.popleft()
        assert isinstance(first, bytes)
        self._inside = first[size - 1] != _LF
        self._held -= size
        if size < len(first):
            self._waiting.appendleft(first[size:])

    def _tell(self, lost: int) -> None:
        if lost:
            why = "it cannot be written" if self._failing else "nobody reads it, or not fast enough"
            lines = "1 line" if lost == 1 else f"{lost} lines"
            log.warning("%s of %s lost: %s", lines, self._name, why)


_LF = ord("\n")


def whole_lines(data: bytes, limit: int) -> int:
    """Length of the lines at the beginning that fit into ``limit`` bytes; at least of one."""
    if len(data) <= limit:
        return len(data)
    return (data.rfind(b"\n", 0, limit) + 1) or (data.index(b"\n") + 1)


def _sink(fd: int) -> _Sink:
    is_file = stat.S_ISREG(os.fstat(fd).st_mode)
    return _Sink(fd, sys.maxsize if is_file else select.PIPE_BUF)


def _wait_for_room(fd: int) -> None:
    """Wait where ``write`` does not, because others have made the open file non-blocking."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


def _forget_all() -> None:
    for writer in _writers:
        writer.forget()


os.register_at_fork(after_in_child=_forget_all)
