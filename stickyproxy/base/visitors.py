"""How many clients have shown up within a sliding window: an estimate in a fixed amount of memory.

Linear counting (Whang, Vander-Zanden and Taylor, "A linear-time probabilistic counting algorithm",
1990), with a page number in each cell instead of a bit: the window is sixty pages of time, a cell
holds the latest page on which a client of it was seen, and those that are too old are blank. So
what several processes have seen is put together by looking at all of their cells.

The standard error is 1.2 % for 2,000 clients, 1.6 % for 8,000 and 3.6 % for 20,000; 36,900 are the
most that can be told. Up to 60 are told with an error of less than one. The window is longer
than it says by up to a sixtieth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from stickyproxy.base.hashing import spread

CELLS = 4096
"""One byte each."""
PAGES = 60
"""Of a window."""
_NUMBERS = 255
"""Pages have numbers from 1 to this, and then from 1 again."""

Cells = memoryview
"""``CELLS`` bytes; zero: blank."""


def cell_of(key: bytes) -> int:
    """Which cell the client with this key has."""
    return spread(key) % CELLS


def page_at(now: float, window: float) -> int:
    """The number of the page at this time of the monotonic clock, which is the same in all
    processes of a machine. ``window``: in seconds."""
    return int(now / window * PAGES) % _NUMBERS + 1


def turn(cells: Cells, page: int) -> None:
    """Blank what is too old. To be called on each page, or at least once a window, by the one
    process that writes: numbers come again."""
    before = bytes(cells)
    after = before.translate(_kept(page))
    if after != before:
        cells[:] = after


def estimate(several: Iterable[bytes | bytearray], page: int) -> int:
    """How many clients those are that any of these cells has seen; ``page``: that of now."""
    seen = 0
    for cells in several:
        seen |= int.from_bytes(cells.translate(_marks(page)), "little")
    blank = CELLS - seen.bit_count()
    # With no cell left, as if there were half of one.
    return round(CELLS * math.log(CELLS / max(blank, 0.5)))


def _fresh(page: int) -> set[int]:
    """The numbers of the pages of the window."""
    return {(page - 1 - ago) % _NUMBERS + 1 for ago in range(PAGES + 1)}


@lru_cache(maxsize=4)
def _marks(page: int) -> bytes:
    """Fresh cells to one, others to zero."""
    fresh = _fresh(page)
    return bytes([number in fresh for number in range(256)])


@lru_cache(maxsize=4)
def _kept(page: int) -> bytes:
    """Fresh cells as they are, others to zero."""
    fresh = _fresh(page)
    return bytes([number if number in fresh else 0 for number in range(256)])
