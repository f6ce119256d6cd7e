"""The keys of ``stickyproxy top``, and what each of them does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

ORDERS = ("name", "requests", "errors", "latency", "sessions")
"""By which services may be listed."""

_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1bOH": "home",
    b"\x1bOF": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
}
"""What a terminal sends for keys that are no characters (xterm's control sequences)."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What of it is to be shown, and how."""

    order: str = "name"
    search: str = ""
    typing: bool = False
    """The words to be searched for are being typed."""
    folded: bool = False
    """Without endpoints."""
    trouble: bool = False
    """Only services that are in trouble."""
    top: int = 0
    """The first row of the list that is shown."""

    def moved(self, by: int) -> Wish:
        """So many rows down."""
        return replace(self, top=max(0, self.top + by))


def keys_in(typed: bytes) -> Iterator[str]:
    """Names of keys, or the characters themselves."""
    while typed:
        sequence = next((each for each in _SEQUENCES if typed.startswith(each)), None)
        if sequence is not None:
            yield _SEQUENCES[sequence]
            typed = typed[len(sequence) :]
        elif typed.startswith((b"\x1b[", b"\x1bO")):
            return  # a key that means nothing here
        else:
            # Up to the next sequence, so that characters of several bytes stay whole.
            end = typed.find(b"\x1b", 1)
            text, typed = (typed, b"") if end < 0 else (typed[:end], typed[end:])
            yield from text.decode("utf-8", "ignore")


def wished(wish: Wish, key: str, height: int) -> Wish | None:
    """The wish after this key; None: to end."""
    if wish.typing:
        if key == "\x1b":
            return replace(wish, typing=False, search="")
        if key in ("\n", "\r"):
            return replace(wish, typing=False)
        if key in ("\x7f", "\b"):
            return replace(wish, search=wish.search[:-1])
        return replace(wish, search=wish.search + key, top=0) if key.isprintable() else wish
    page = max(1, height // 2)
    match key:
        case "q" | "Q":
            return None
        case "\x1b":
            return replace(wish, search="", trouble=False)
        case "/":
            return replace(wish, typing=True)
        case "s":
            at = ORDERS.index(wish.order) + 1
            return replace(wish, order=ORDERS[at % len(ORDERS)], top=0)
        case "e":
            return replace(wish, folded=not wish.folded, top=0)
        case "t":
            return replace(wish, trouble=not wish.trouble, top=0)
        case "up" | "k":
            return wish.moved(-1)
        case "down" | "j":
            return wish.moved(1)
        case "page up":
            return wish.moved(-page)
        case "page down" | " ":
            return wish.moved(page)
        case "home" | "g":
            return replace(wish, top=0)
        case "end" | "G":
            return wish.moved(1_000_000)
    return wish
