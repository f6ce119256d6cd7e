"""How values are written: in the configuration and, as text, in labels.

Each parser is a pure function that raises ValueError with a sentence naming the value and the
remedy. What ends up in a header or a cookie is printable ASCII without separators by then: nothing
downstream has to escape it.
"""

from __future__ import annotations

import math
import re
from urllib.parse import quote as percent_encode

from stickyproxy.base.text import Misspelt, shown

# --- durations ------------------------------------------------------------------------------

_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(f"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
_UNITS = (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
"""Milliseconds of each."""
_LONGEST = 10 * 365 * 24 * 3600
"""Ten years: a typing error exceeds it, a real cookie lifetime or timeout does not."""


def duration(value: object) -> float:
    """Seconds of ``"250ms"``, ``"3s"``, ``"5m"``, ``"2h"``, ``"1m30s"``. A bare number is refused:
    its unit would be a guess. Raises ValueError."""
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        parts = zip(match.groups(), _UNITS, strict=True)
        # In whole numbers until the last step, so that 1.1s is exactly what 1.1 is.
        picoseconds = sum(_billionths(number) * unit for number, (_, unit) in parts if number)
        seconds = picoseconds / 10**12
        if seconds > _LONGEST:
            raise ValueError(f"{shown(value)} is more than ten years: write a shorter duration")
        return seconds
    number = value if isinstance(value, str) else shown(value)
    if re.fullmatch(_NUMBER, number):
        raise Misspelt(f'{shown(value)} has no unit: write "{number}s"', f"{number}s")
    raise ValueError(
        f'{shown(value)} is not a duration: write it like "250ms", "3s", "1m30s" or "2h"'
    )


def _billionths(number: str) -> int:
    """A decimal number times 10**9."""
    whole, _, decimals = number.partition(".")
    return int(whole) * 10**9 + int(decimals.ljust(9, "0"))


def duration_text(seconds: float) -> str:
    """The text of a duration, to the millisecond: the inverse of ``duration``."""
    rest = round(seconds * 1000)
    written = ""
    for unit, milliseconds in _UNITS:
        count, rest = divmod(rest, milliseconds)
        if count:
            written += f"{count}{unit}"
    return written or "0s"


def timeout(value: object) -> float:
    """A duration in seconds that is more than zero. Raises ValueError."""
    seconds = duration(value)
    if not seconds:
        raise ValueError(f'{shown(value)} would time out at once: write more than zero, e.g. "3s"')
    return seconds


def cookie_lifetime(value: object) -> float:
    """A duration in whole seconds, which is all that Max-Age can say. Raises ValueError."""
    seconds = duration(value)
    if seconds % 1:
        whole = math.ceil(seconds)
        raise Misspelt(
            f'{shown(value)} is not in whole seconds: write e.g. "{whole}s"', f"{whole}s"
        )
    return seconds


# --- scalars from labels --------------------------------------------------------------------

# What Go's strconv.ParseBool accepts, since that is what Interlock read its labels with.
_BOOLEANS = dict.fromkeys(("true", "t", "1"), True) | dict.fromkeys(("false", "f", "0"), False)

_MEANT = dict.fromkeys(("yes", "y", "on", "enable", "enabled"), "true") | dict.fromkeys(
    ("no", "n", "off", "disable", "disabled"), "false"
)
"""What is not taken for one of these, but is not hard to guess."""


def boolean(value: object) -> bool:
    """True or false, native or as label text. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (word := value.strip().lower()) in _BOOLEANS:
        return _BOOLEANS[word]
    message = f"{shown(value)} is neither true nor false: write one of them"
    if isinstance(value, str) and (meant := _MEANT.get(value.strip().lower())):
        raise Misspelt(message, meant)
    raise ValueError(message)


def port_number(value: object) -> int:
    """A TCP port, native or as label text. Raises ValueError."""
    number = value
    if isinstance(number, str) and re.fullmatch("[0-9]{1,9}", number.strip()):
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
        message = f"{shown(value)} is not a port: write a number from 1 to 65535"
        if isinstance(number, str) and (found := re.fullmatch(":?([0-9]{1,5})(/tcp)?", number)):
            raise Misspelt(message, found[1])
        raise ValueError(message)
    return number


# --- text -----------------------------------------------------------------------------------

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 5.6.2, the same as in RFC 6265


def text(value: object) -> str:
    """Text that can be encoded. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not text: write it in quotes")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise ValueError(f"{shown(value)} is not valid Unicode: write it in ASCII") from None
    return value


def token(value: object) -> str:
    """A cookie's or header field's name. Raises ValueError."""
    name = text(value)
    if not name:
        raise ValueError("is empty: write a name, or remove the key")
    if not _TOKEN.fullmatch(name):
        raise ValueError(
            f"{shown(name)} is not a name HTTP allows: use letters, digits and any of "
            "!#$%&'*+-.^_`|~"
        )
    return name


def query_name(value: object) -> str:
    """A query parameter's name as it is written in a URL. Raises ValueError."""
    name = text(value)
    if not name:
        raise ValueError("is empty: write a parameter's name, or remove the key")
    refuse_characters(name, "&=#", "a query parameter's name")
    return name


def refuse_characters(written: str, refused: str, what: str) -> None:
    """Raises ValueError if the text holds one of ``refused`` or anything but visible ASCII."""
    for character in written:
        if character in refused or not "!" <= character <= "~":
            encoded = percent_encode(character, safe="", errors="replace")
            raise ValueError(
                f"{shown(written)} holds {shown(character)}, which {what} cannot: "
                f'remove it or write it as "{encoded}"'
            )


def rooted(value: object) -> str:
    """Text that starts with a slash. Raises ValueError."""
    path = text(value)
    if not path.startswith("/"):
        message = f'{shown(path)} does not start with "/": write {shown("/" + path)}'
        raise Misspelt(message, "/" + path)
    return path


def url_path(value: object) -> str:
    """The path of a URL. Raises ValueError."""
    path = rooted(value)
    refuse_characters(path, "?#", "a path")
    return path


def cookie_path(value: object) -> str:
    """A path that is valid in a cookie's Path attribute. Raises ValueError."""
    path = url_path(value)
    refuse_characters(path, ";", "a cookie's path")
    return path
