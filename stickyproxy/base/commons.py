"""Memory that all workers of a proxy share, for what has to be limited in all of them together.

Who is counted is known by a keyed hash and has a place in a set of ``WAYS`` words: a look-up reads
these, whatever else there is, and nobody can choose to be in the place of another. A word is
aligned and copied in one piece. Two workers that look at the same word at the same time may both
count from what was there before: a limit is exceeded by a few then, and nobody is locked out.

    Buckets     when what each client may have is whole again (``routing.admit``)
    Headcount   connections by client (``dataplane.downstream.limits``) and requests by endpoint
                (``routing.slots``); each worker writes its own
"""

from __future__ import annotations

import mmap
import os
from functools import lru_cache
from hashlib import blake2b

from stickyproxy.base.memory import anonymous

WAYS = 8
BUCKET_SETS = 1 << 14
"""Room for 131,072 clients of all services with a limit."""
HEADCOUNT_SETS = 1 << 12
"""Room for 32,768 clients and endpoints that have something in a worker."""

_KEY = 16
"""Bytes."""
_COUNT = 16
"""Bits of the number in a word of a headcount; the others say who it is about."""

Cells = memoryview
"""Of unsigned integers with 64 bits."""


class Commons:
    """The memory, as one worker sees it."""

    def __init__(self, workers: int, descriptor: int | None = None, number: int = 1) -> None:
        """``descriptor``: of the memory, if another process has begun it; ``number``: the worker's,
        from 1 on; 0: who looks on. Raises OSError."""
        buckets, headcount = 16 * WAYS * BUCKET_SETS, 8 * (1 + WAYS * HEADCOUNT_SETS)
        size = _KEY + buckets + workers * headcount
        begins = descriptor is None
        if descriptor is None:
            descriptor = anonymous("stickyproxy commons", size)
        self.descriptor = descriptor
        """To be inherited by the workers."""
        memory = memoryview(mmap.mmap(self.descriptor, size))
        if begins:
            memory[:_KEY] = os.urandom(_KEY)
        key = bytes(memory[:_KEY])
        self.buckets = Buckets(memory[_KEY : _KEY + buckets].cast("Q"), key)
        starts = [_KEY + buckets + headcount * worker for worker in range(workers)]
        headcounts = [memory[start : start + headcount].cast("Q") for start in starts]
        self.headcount = Headcount(headcounts, number - 1, key)

    def worker_ended(self, number: int) -> None:
        """What this worker counted has died with it. Its successor would not say so before it has
        something to count itself, and until then the others would keep room for nobody."""
        self.headcount.clear(number - 1)

    def close(self) -> None:
        """Close the descriptor; what is mapped stays."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _hash(what: bytes, key: bytes) -> int:
    return int.from_bytes(blake2b(what, digest_size=8, key=key).digest(), "little")


class Buckets:
    """A moment for everybody who has one, in microseconds. It takes two words: whose it is, and
    when."""

    def __init__(self, cells: Cells, key: bytes) -> None:
        self._cells = cells
        self._hash = lru_cache(4096)(lambda who: _hash(who, key))

    def get(self, who: bytes) -> tuple[int, int]:
        """(where it is to be noted, the moment; 0 if there is none). Who has to make room is whose
        moment is the earliest."""
        hashed = self._hash(who)
        start = hashed % BUCKET_SETS * 2 * WAYS
        words = self._cells[start : start + 2 * WAYS].tolist()
        owners, moments = words[::2], words[1::2]
        if hashed in owners:
            way = owners.index(hashed)
            return start + 2 * way, moments[way]
        return start + 2 * moments.index(min(moments)), 0

    def put(self, place: int, who: bytes, moment: int) -> None:
        """``place``: where ``get`` says that it is to be noted."""
        self._cells[place + 1] = moment
        self._cells[place] = self._hash(who)


class Headcount:
    """How many there are in all workers: those of this one are told by it."""

    def __init__(self, workers: list[Cells], own: int, key: bytes) -> None:
        """``own``: -1: none of them."""
        self._workers = workers
        self._own = workers[own] if own >= 0 else None
        self._others = [cells for worker, cells in enumerate(workers) if worker != own]
        self._hash = lru_cache(4096)(lambda who: _hash(who, key))
        self._begun = False

    def begin(self) -> None:
        """There is none in this worker: those of its predecessor died with it. Done at the latest
        when there is one."""
        if self._own is not None and not self._begun:
            _clear(self._own)
        self._begun = True

    def clear(self, worker: int) -> None:
        """There is none in this one, by its place in the list."""
        _clear(self._workers[worker])

    def elsewhere(self) -> int:
        """How many connections the other workers have."""
        return sum(cells[0] for cells in self._others)

    def note(self, total: int) -> None:
        """So many has this one."""
        self.begin()
        if self._own is not None:
            self._own[0] = total

    def elsewhere_of(self, whose: bytes) -> int:
        """How many the other workers have of this client, or endpoint."""
        hashed = self._hash(whose)
        start, tag = 1 + hashed % HEADCOUNT_SETS * WAYS, hashed >> _COUNT
        return sum(
            word & (1 << _COUNT) - 1
            for cells in self._others
            for word in cells[start : start + WAYS].tolist()
            if word >> _COUNT == tag
        )

    def note_of(self, whose: bytes, count: int) -> None:
        """So many has this one. If others have taken all places where it could be told, it is
        not."""
        self.begin()
        if self._own is None:
            return
        hashed = self._hash(whose)
        start, tag = 1 + hashed % HEADCOUNT_SETS * WAYS, hashed >> _COUNT
        words = self._own[start : start + WAYS].tolist()
        mine = [way for way, word in enumerate(words) if word and word >> _COUNT == tag]
        free = [way for way, word in enumerate(words) if not word]
        if found := mine or free:
            most = (1 << _COUNT) - 1
            self._own[start + found[0]] = tag << _COUNT | min(count, most) if count else 0


def _clear(cells: Cells) -> None:
    cells[:] = memoryview(bytes(8 * len(cells))).cast("Q")
