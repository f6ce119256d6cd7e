"""Rows of counters in memory that outlives the process that counts.

A worker adds in place, and whoever maps the same memory reads what it has counted, also after it
was killed: nothing has to be said, so nothing can be lost on the way, and its successor goes on
from there. One process writes at a time. Each cell is aligned and copied in one piece, so a reader
sees it as it was before or after, and never half of it.

A row begins with its name and is never moved or removed. Names beyond ``ROWS``, and what is longer
than ``NAME`` bytes, share rows: the memory is bounded whatever is counted. It is only taken as rows
are begun.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from operator import add

from stickyproxy.base.memory import anonymous

ROWS = 8192
NAME = 248
"""Bytes of a name, in UTF-8."""
OTHERS = "(others)"
"""The row for all that no row is left for."""

_LENGTH = struct.Struct("=Q")
"""Of the name, plus one: zero where no row has begun."""
_HEAD = _LENGTH.size + NAME

Cells = memoryview
"""Of unsigned integers with 64 bits."""


class Ledger:
    """Rows by name, all of the same width."""

    def __init__(self, width: int, descriptor: int | None = None) -> None:
        """``width``: cells of a row. ``descriptor``: of the memory of a ledger of this width, which
        is gone on with; None: it begins empty. Raises OSError."""
        self.width = width
        self._stride = _HEAD + 8 * width
        size = self._stride * ROWS
        if descriptor is None:
            descriptor = anonymous("stickyproxy counters", size)
        self.descriptor = descriptor
        """To be inherited by the process that counts."""
        self._bytes = memoryview(mmap.mmap(self.descriptor, size))
        self._rows: dict[str, Cells] = {}
        """Those that were found so far."""
        self._found = 0
        """How many these are."""
        self._look()

    def __repr__(self) -> str:
        return f"<Ledger {len(self._rows)} rows of {self.width}>"

    def row(self, name: str) -> Cells:
        """The cells of a row, which begins with zeros."""
        name = name.encode()[:NAME].decode(errors="ignore")
        if name not in self._rows:
            self._look()
        found = self._rows.get(name)
        if found is None:
            if self._found >= ROWS - 1 and name != OTHERS:
                return self.row(OTHERS)
            self._begin(name.encode())
            self._look()
            found = self._rows[name]
        return found

    def rows(self) -> Iterator[tuple[str, Cells]]:
        """All rows, those included that another process has begun."""
        self._look()
        yield from self._rows.items()

    def close(self) -> None:
        """Close the descriptor; what is mapped stays."""
        os.close(self.descriptor)

    def _begin(self, name: bytes) -> None:
        start = self._found * self._stride
        text = start + _LENGTH.size
        self._bytes[text : text + len(name)] = name
        _LENGTH.pack_into(self._bytes, start, len(name) + 1)  # last: now it can be found

    def _look(self) -> None:
        """Find rows that are new."""
        while (start := self._found * self._stride) < len(self._bytes):
            length: int = _LENGTH.unpack_from(self._bytes, start)[0]
            if not length:
                return
            text = start + _LENGTH.size
            name = bytes(self._bytes[text : text + length - 1]).decode()
            cells = self._bytes[start + _HEAD : start + self._stride].cast("Q")
            self._rows[name] = cells
            self._found += 1


def added_up(ledgers: Iterable[Ledger]) -> dict[str, list[int]]:
    """The rows of all of them by name, added up."""
    totals: dict[str, list[int]] = {}
    for ledger in ledgers:
        for name, cells in ledger.rows():
            before = totals.get(name)
            counts = cells.tolist()
            totals[name] = counts if before is None else list(map(add, before, counts))
    return totals
