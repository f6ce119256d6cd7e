"""Cookies on the wire: pure functions on bytes that read, strip and render them (RFC 6265).

Nothing here raises, whatever the bytes: what cannot be understood is skipped, as user agents
and servers do.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from stickyproxy.base.hashing import PIN_PREFIX, looks_like_pin

_OWS: Final = b" \t"

# --- the Cookie field: what a client sends (RFC 6265 section 4.2) ---------------------------


# A session sends the same header with each of its requests.
_REMEMBERED: Final = 1024


@lru_cache(_REMEMBERED)
def values(cookie_header: bytes, name: bytes) -> tuple[bytes, ...]:
    """Values of all cookies called exactly ``name``, in the order sent, quotes kept."""
    found: list[bytes] = []
    # Looks only at the cookies in which the name occurs: headers of 2 kB are common.
    at = cookie_header.find(name)
    while at >= 0:
        start, end = _cookie_around(cookie_header, at)
        key, equals, value = cookie_header[start:end].partition(b"=")
        if equals and key.strip(_OWS) == name:
            found.append(value.strip(_OWS))
        at = cookie_header.find(name, end + 1)
    return tuple(found)


@lru_cache(_REMEMBERED)
def without_pins(cookie_header: bytes, names: frozenset[bytes]) -> bytes | None:
    """The header without the cookies called one of ``names`` that hold pins; None if nothing
    remains. The other cookies keep their bytes."""
    kept: list[bytes] = []
    done = 0
    at = cookie_header.find(PIN_PREFIX)
    while at >= 0:
        start, end = _cookie_around(cookie_header, at)
        name, _, value = cookie_header[start:end].partition(b"=")
        if name.strip(_OWS) in names and looks_like_pin(value.strip(_OWS)):
            kept.append(cookie_header[done:start])
            done = end + 1
        at = cookie_header.find(PIN_PREFIX, end + 1)
    if not done:
        return cookie_header
    kept.append(cookie_header[done:])
    return b"".join(kept).strip(b"; \t") or None


def _cookie_around(cookie_header: bytes, at: int) -> tuple[int, int]:
    """Where the cookie that covers position ``at`` starts and ends."""
    end = cookie_header.find(b";", at)
    return cookie_header.rfind(b";", 0, at) + 1, end if end >= 0 else len(cookie_header)


# --- the Set-Cookie field: what an endpoint sends (RFC 6265 section 5.2) --------------------


def set_cookie_name(value: bytes) -> bytes:
    """Name of the cookie that a Set-Cookie value sets; empty if it sets none."""
    name, equals, _ = value.partition(b";")[0].partition(b"=")
    return name.strip(_OWS) if equals else b""


def attributes(value: bytes) -> bytes:
    """Everything from the first semicolon of a Set-Cookie value on; empty if there is none."""
    _, semicolon, tail = value.partition(b";")
    return semicolon + tail


def expires_now(value: bytes, now: float) -> bool:
    """True if a Set-Cookie value deletes its cookie. ``now``: seconds since the epoch."""
    max_age = _attribute(value, b"max-age")
    if max_age is not None and _MAX_AGE.fullmatch(max_age):
        # Not int(): it refuses thousands of digits.
        return max_age.startswith(b"-") or not max_age.strip(b"0")
    expires = _attribute(value, b"expires")
    if expires is None:
        return False
    moment = _cookie_date(expires)
    return moment is not None and moment <= now


def has_lifetime(value: bytes) -> bool:
    """True if a Set-Cookie value says how long its cookie lives, so that it outlasts the
    browser's session."""
    return _attribute(value, b"max-age") is not None or _attribute(value, b"expires") is not None


def set_cookie_value(value: bytes) -> bytes:
    """The value of the cookie that a Set-Cookie value sets, as it will come back."""
    return value.partition(b";")[0].partition(b"=")[2].strip(_OWS)


def scope(value: bytes) -> tuple[bytes | None, bytes | None]:
    """Domain and path of a Set-Cookie value: with the name, they identify a cookie."""
    return _attribute(value, b"domain"), _attribute(value, b"path")


_MAX_AGE: Final = re.compile(rb"-?[0-9]+")


def _attribute(value: bytes, name: bytes) -> bytes | None:
    """The attribute's value (empty if it has none); the last one counts (section 5.3)."""
    found = None
    for attribute in value.split(b";")[1:]:
        key, _, text = attribute.partition(b"=")
        if key.strip(_OWS).lower() == name:
            found = text.strip(_OWS)
    return found


_DATE_DELIMITERS: Final = re.compile(rb"[\t\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
_TIME: Final = re.compile(rb"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])")
_DAY: Final = re.compile(rb"([0-9]{1,2})(?![0-9])")
_YEAR: Final = re.compile(rb"([0-9]{2,4})(?![0-9])")
_MONTHS: Final = (
    *(b"jan", b"feb", b"mar", b"apr", b"may", b"jun"),
    *(b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"),
)


def _cookie_date(text: bytes) -> float | None:
    """Seconds since the epoch of a cookie date, None if it is none: the algorithm of RFC 6265
    section 5.1.1, which takes many more forms than HTTP's dates have."""
    time = day = month = year = None
    for token in _DATE_DELIMITERS.split(text):
        if time is None and (match := _TIME.match(token)):
            time = match
        elif day is None and (match := _DAY.match(token)):
            day = int(match[1])
        elif month is None and token[:3].lower() in _MONTHS:
            month = _MONTHS.index(token[:3].lower()) + 1
        elif year is None and (match := _YEAR.match(token)):
            year = _full_year(int(match[1]))
    if time is None or day is None or month is None or year is None or year < 1601:
        return None
    try:
        hour, minute, second = map(int, time.groups())
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:  # the 31st of February, 25 o'clock
        return None


def _full_year(year: int) -> int:
    if year >= 100:
        return year
    return year + 1900 if year >= 70 else year + 2000


# --- the cookies that we set ----------------------------------------------------------------


def pin_cookie(name: bytes, pin: bytes, path: bytes, secure: bool) -> bytes:
    """A pin that lives as long as the browser's session."""
    # User agents refuse a __Host- cookie with any other path (RFC 6265bis section 4.1.3.2).
    path = b"/" if name.lower().startswith(b"__host-") else path
    cookie = b"%b=%b; Path=%b; HttpOnly; SameSite=Lax" % (name, pin, path)
    return cookie + b"; Secure" if secure else cookie


def companion_cookie(name: bytes, pin: bytes, of: bytes) -> bytes:
    """A pin that lives and dies with the app's cookie: it takes over the attributes of the
    Set-Cookie value ``of``."""
    cookie = name + b"=" + pin + attributes(of)
    return cookie if _attribute(of, b"httponly") is not None else cookie + b"; HttpOnly"


def companion_deletion(name: bytes, of: bytes) -> bytes:
    """Deletes the companion together with the app's cookie, which ``of`` deletes."""
    return name + b"=" + attributes(of)


def generated_cookie(name: bytes, value: bytes, ttl: float, path: bytes | None) -> bytes:
    """The cookie of a consistent hash, as Envoy writes it. ``ttl`` in seconds; 0: no Max-Age."""
    cookie = b'%b="%b"' % (name, value)
    if ttl > 0:
        # Rounded up: a Max-Age of 0 would delete it.
        cookie += b"; Max-Age=%d" % math.ceil(ttl)
    if path is not None:
        cookie += b"; Path=" + path
    return cookie + b"; HttpOnly"
