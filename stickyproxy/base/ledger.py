"""Rows of counters in memory that outlives the process that counts.

A worker adds in place, and whoever maps the same memory reads what it has counted, also after it
was killed: nothing has to be said, so nothing can be lost on the way, and its successor goes on
from there. One process writes at a time. Each cell is aligned and copied in one piece, so a reader
sees it as it was before or after, and never half of it.

A row begins with its name and is never moved. Names that there is no row left for share the last
one, and those that are the same in the first ``NAME`` bytes one of theirs: the memory is bounded
whatever is counted. It is only taken as rows are begun. A row that was released may be another's
later; who reads meanwhile sees the one or the other.
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

_MARK = struct.Struct("=Q")
"""The length of the name plus one, or ``_FREE``, and above it how often that has changed; zero
where no row has begun."""
_BITS = 16
_LENGTH = _FREE = (1 << _BITS) - 1
_HEAD = _MARK.size + NAME

Cells = memoryview
"""Of unsigned integers with 64 bits."""


class Ledger:
    """Rows by name, all of the same width."""

    def __init__(
        self, width: int, descriptor: int | None = None, *, rows: int = ROWS, extra: int = 0
    ) -> None:
        """``width``: cells of a row. ``descriptor``: of the memory of a ledger of the same shape,
        which is gone on with; None: it begins empty. ``rows``: the most that there can be.
        ``extra``: bytes of a row besides, a multiple of eight. Raises OSError."""
        self.width = width
        self._most = rows
        self._extra = _HEAD + 8 * width
        self._stride = self._extra + extra
        size = self._stride * rows
        if descriptor is None:
            descriptor = anonymous("stickyproxy counters", size)
        self.descriptor = descriptor
        """To be inherited by the process that counts."""
        self._bytes = memoryview(mmap.mmap(self.descriptor, size))
        self._rows: dict[str, Cells] = {}
        """Those that were found so far."""
        self._places: dict[str, int] = {}
        """Where they are."""
        self._marks: dict[int, int] = {}
        """By place, as they were found."""
        self._vacant: set[int] = set()
        """Places of rows that were released."""
        self._look_on()

    def __repr__(self) -> str:
        return f"<Ledger {len(self._rows)} rows of {self.width}>"

    def row(self, name: str) -> Cells:
        """The cells of a row, which begins with zeros."""
        return self._rows[self._begun(name)]

    def rest(self, name: str) -> memoryview:
        """The bytes of a row besides, which begin with zeros."""
        start = self._places[self._begun(name)] * self._stride
        return self._bytes[start + self._extra : start + self._stride]

    def release(self, name: str) -> None:
        """A row is not needed any more: another may have its place. For the process that counts."""
        name = _short(name)
        if (place := self._places.pop(name, None)) is not None:
            del self._rows[name]
            self._mark(place, _FREE)
            self._vacant.add(place)

    def counts(self) -> Iterator[tuple[str, list[int], bytes]]:
        """The name, the cells and the bytes besides of all rows, those included that another
        process has begun, and none that it has released."""
        self._look_back()
        self._look_on()
        for name, cells in self._rows.items():
            place = self._places[name]
            start = place * self._stride
            found = cells.tolist(), bytes(self._bytes[start + self._extra : start + self._stride])
            if self._mark_of(place) == self._marks[place]:
                yield name, *found

    def close(self) -> None:
        """Close the descriptor; what is mapped stays."""
        os.close(self.descriptor)

    def _begun(self, name: str) -> str:
        """The name of the row for this name, which is there."""
        name = _short(name)
        if name not in self._rows:
            self._look_on()
        if name in self._rows:
            return name
        last = self._most - 1
        if name == OTHERS:
            place = last
        elif self._vacant:
            place = self._vacant.pop()
        elif (place := len(self._marks) - (last in self._marks)) == last:
            return self._begun(OTHERS)
        self._begin(place, name.encode())
        self._find(place)
        return name

    def _begin(self, place: int, name: bytes) -> None:
        start = place * self._stride
        if self._mark_of(place):  # it was another's
            size = self._stride - _MARK.size
            self._bytes[start + _MARK.size : start + self._stride] = bytes(size)
        text = start + _MARK.size
        self._bytes[text : text + len(name)] = name
        self._mark(place, len(name) + 1)  # last: now it can be found

    def _mark(self, place: int, length: int) -> None:
        """Each time it is another mark: who looks away meanwhile sees that things have changed."""
        mark = ((self._mark_of(place) >> _BITS) + 1) << _BITS | length
        _MARK.pack_into(self._bytes, place * self._stride, mark)
        self._marks[place] = mark

    def _mark_of(self, place: int) -> int:
        mark: int = _MARK.unpack_from(self._bytes, place * self._stride)[0]
        return mark

    def _look_on(self) -> None:
        """Find rows in places where there was none."""
        last = self._most - 1
        place = len(self._marks) - (last in self._marks)
        while place < last and self._mark_of(place):
            self._find(place)
            place += 1
        if last not in self._marks and self._mark_of(last):
            self._find(last)

    def _look_back(self) -> None:
        """Find what has changed in places that are known."""
        changed = {place for place, mark in self._marks.items() if self._mark_of(place) != mark}
        if changed:
            for name in [name for name, place in self._places.items() if place in changed]:
                del self._places[name], self._rows[name]
            for place in changed:
                self._find(place)

    def _find(self, place: int) -> None:
        mark, start = self._mark_of(place), place * self._stride
        self._marks[place] = mark
        if mark & _LENGTH == _FREE:
            self._vacant.add(place)
            return
        text = start + _MARK.size
        name = bytes(self._bytes[text : text + (mark & _LENGTH) - 1]).decode()
        self._rows[name] = self._bytes[start + _HEAD : start + self._extra].cast("Q")
        self._places[name] = place


def _short(name: str) -> str:
    return name.encode()[:NAME].decode(errors="ignore")


def added_up(ledgers: Iterable[Ledger]) -> dict[str, list[int]]:
    """The rows of all of them by name, added up."""
    totals: dict[str, list[int]] = {}
    for ledger in ledgers:
        for name, counts, _ in ledger.counts():
            before = totals.get(name)
            totals[name] = counts if before is None else list(map(add, before, counts))
    return totals
