"""How the endpoints of a service are watched, as it is configured. Each function takes a TOML value
or the text of a label, and raises ValueError with a sentence that names value and remedy."""

from __future__ import annotations

import re

from stickyproxy.base.text import Misspelt, shown
from stickyproxy.base.values import duration, refuse_characters, rooted, text

LEAST_INTERVAL = 0.1
"""Seconds from one check to the next, at least."""

_PERCENT = re.compile("([0-9]{1,3}) *(%?)")
_RANGE = re.compile("([0-9]{3})(?: *- *([0-9]{3}))?")


def check_path(value: object) -> str:
    """The target of a check's request. Raises ValueError."""
    target = rooted(value)
    refuse_characters(target, "#", "the path of a request")
    return target


def check_interval(value: object) -> float:
    """Seconds. Raises ValueError."""
    seconds = duration(value)
    if seconds < LEAST_INTERVAL:
        raise ValueError(f'{shown(value)} is too often: write at least "100ms"')
    return seconds


def statuses(value: object) -> str:
    """Statuses and ranges of them, as ``ranges`` reads them. Raises ValueError."""
    written = str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value)
    found = [_range(item.strip()) for item in written.split(",") if item.strip()]
    if not found:
        raise ValueError('is empty: write statuses, like "200-399" or "200,204"')
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def ranges(written: str) -> tuple[tuple[int, int], ...]:
    """(first, last) of each range."""
    return tuple([_range(item) for item in written.split(",")])


def _range(item: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(item)
    if found is None:
        raise ValueError(f'{shown(item)} is not a status: write it like "200", or "200-399"')
    first, last = int(found[1]), int(found[2] or found[1])
    if not 200 <= first <= last <= 599:
        raise ValueError(
            f"{shown(item)} is not a status that a check can end with: write from 200 to 599, the "
            "lower one first"
        )
    return first, last


def count(least: int, most: int, value: object) -> int:
    """A whole number. Raises ValueError."""
    number = value
    if isinstance(number, str) and re.fullmatch("[0-9]{1,9}", number.strip()):
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise ValueError(
            f"{shown(value)} is not possible: write a whole number from {least} to {most}"
        )
    return number


def percentage(value: object) -> str:
    """From "0%" to "100%". Raises ValueError."""
    written = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = _PERCENT.fullmatch(written.strip()) if isinstance(written, str) else None
    if found is None or int(found[1]) > 100:
        raise ValueError(f'{shown(value)} is not a percentage: write it like "50%"')
    if not found[2]:
        meant = f"{int(found[1])}%"
        raise Misspelt(f'{shown(value)} has no unit: write "{meant}"', meant)
    return f"{int(found[1])}%"


def share(percentage: str) -> float:
    """The part, from 0 to 1."""
    return int(percentage.removesuffix("%")) / 100
