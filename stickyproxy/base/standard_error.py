"""Standard error that nobody waits for, whoever has stopped reading it.

Messages of the log, tracebacks and warnings all go to ``sys.stderr``, which this replaces by one
that hands whole lines to a ``LineWriter``: they stay in order, and a pipe that is full costs lines
and not the process. What is left when the process ends is written then, by ``atexit``: behind the
traceback of what ended it, if something did.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading

from stickyproxy.base.line_writer import LineWriter


def never_wait() -> None:
    """Replace ``sys.stderr``. To be called before anything is logged."""
    real = sys.stderr
    if real is None:  # it was closed when we were started
        return
    real.flush()
    lines = _Lines(real.fileno())
    sys.stderr = text = io.TextIOWrapper(
        lines, encoding=real.encoding, errors="backslashreplace", line_buffering=True
    )
    atexit.register(_finish, text, lines)


def _finish(text: io.TextIOWrapper, lines: _Lines) -> None:
    text.flush()
    lines.finish()


class _Lines(io.BufferedIOBase):
    """The bytes below the text."""

    name = "<stderr>"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._writer: LineWriter | None = LineWriter(fd, "this log", owned=False)
        self._lock = threading.RLock()
        self._begun = b""
        """The beginning of a line."""

    def fileno(self) -> int:
        """The descriptor: for ``os.isatty`` and the like, and for children."""
        return self._fd

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Take all of it, at once."""
        with self._lock:
            text = self._begun + bytes(data)
            if self._writer is None:
                os.write(self._fd, text)
                return len(data)
            end = text.rfind(b"\n") + 1
            self._begun = text[end:]
            if end:
                self._writer.write(text[:end])
        return len(data)

    def finish(self) -> None:
        """Write what is left, if somebody takes it. If so, what comes later, from the depths of
        the interpreter, is written at once."""
        with self._lock:
            if self._begun:
                self.write(b"\n")
        if self._writer is not None and self._writer.close():
            self._writer = None
