"""Header fields that are set and removed as a service says."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

_REMEMBERED_LINES = 1024
_REMEMBERED_LINE = 128
"""Bytes of the longest line that is remembered."""


class _Staying(dict[bytes, bool]):
    """Whether a field line stays, remembered by the line: messages share most of theirs."""

    def __init__(self, gone: tuple[bytes, ...]) -> None:
        super().__init__()
        self._gone = gone

    def __missing__(self, line: bytes) -> bool:
        stays = not line.lower().startswith(self._gone)
        if len(line) <= _REMEMBERED_LINE:
            if len(self) >= _REMEMBERED_LINES:
                self.clear()
            self[line] = stays
        return stays


@lru_cache(256)
def _staying(gone: frozenset[bytes]) -> _Staying:
    """One for all who have the same fields go, and for the tables that follow."""
    return _Staying(tuple(gone))


class Edit:
    """What is done with the fields of a head."""

    __slots__ = ("_gone", "_set", "_stays", "removes", "sets")

    def __init__(self, set_: Iterable[tuple[str, str]], remove: Iterable[str] = ()) -> None:
        """``set_``: (name, value) of fields that take the place of all others of their name; of two
        of one name both are sent."""
        pairs = tuple(set_)
        self.removes = tuple(remove)
        """The names of those that go."""
        self.sets = tuple([name for name, _ in pairs])
        """And of those that are set."""
        names = (*self.removes, *self.sets)
        self._gone = frozenset([name.lower().encode() + b":" for name in names])
        self._stays = _staying(self._gone)
        self._set = [f"{name}: {value}".encode() for name, value in pairs]

    def apply(self, lines: Iterable[bytes]) -> list[bytes]:
        """The field lines, edited."""
        stays = self._stays
        kept = [line for line in lines if stays[line]]
        kept += self._set
        return kept

    def and_then(self, other: Edit) -> Edit:
        """Both, one after the other."""
        both = Edit(())
        both._gone = self._gone | other._gone
        both._stays = _staying(both._gone)
        both._set = [*other.apply(self._set)]
        return both

    @classmethod
    def of(cls, set_: Iterable[tuple[str, str]], remove: Iterable[str] = ()) -> Edit | None:
        """None: there is nothing to do."""
        edit = cls(set_, remove)
        return edit if edit._gone else None
