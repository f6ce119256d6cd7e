"""What happens to header fields on their way through: pure functions and tables, no I/O.

Names are classified once and remembered by their exact bytes, so that the loop over a message's
fields costs one dict look-up each. Sources: RFC 9110 section 7.6.1 (hop-by-hop fields), RFC 9112
section 3.2 (target and Host).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

RawHeaders = Sequence[tuple[bytes, bytes]]


class Kind:
    """What is done with a field. ``PASS`` is falsy: the common case tests cheapest. Not an enum:
    looking up a member of one takes longer than all that is done with the field."""

    PASS = 0
    DROP = 1
    CONNECTION = 2  # dropped, and so are the fields it names
    COOKIE = 3
    FORWARDED = 4  # dropped from untrusted clients, extended from trusted proxies
    UPGRADE = 5
    TRANSFER_ENCODING = 6
    CONTENT_LENGTH = 7
    SET_COOKIE = 8
    HOST = 9
    INFO = 10  # our own response fields: an endpoint's are replaced by ours
    EVENT_STREAM = 11  # the Content-Type of server-sent events
    HANDOVER = 12  # for us: an endpoint hands a session over


_HOP_BY_HOP = {
    b"connection": Kind.CONNECTION,
    b"keep-alive": Kind.DROP,
    b"proxy-connection": Kind.DROP,
    b"te": Kind.DROP,
    b"trailer": Kind.DROP,
    b"transfer-encoding": Kind.TRANSFER_ENCODING,
    b"upgrade": Kind.UPGRADE,
}

_FORWARDED = (
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-real-ip",
    b"x-request-id",
)

_REQUEST = {
    **_HOP_BY_HOP,
    **dict.fromkeys(_FORWARDED, Kind.FORWARDED),
    b"host": Kind.HOST,
    b"cookie": Kind.COOKIE,
    b"content-length": Kind.CONTENT_LENGTH,
    b"http2-settings": Kind.DROP,  # belongs to an h2c upgrade, which is never forwarded
    b"proxy": Kind.DROP,  # CGI-style apps read it as HTTP_PROXY (CVE-2016-5385)
    # What endpoints believe of a client's certificate is said by nobody but us
    # (``client_certificates``), whether it is asked for one or not.
    b"client-cert": Kind.DROP,
    b"client-cert-chain": Kind.DROP,
    b"x-client-cert-subject": Kind.DROP,
    b"x-client-cert-fingerprint": Kind.DROP,
}

_RESPONSE = {
    **_HOP_BY_HOP,
    b"content-length": Kind.CONTENT_LENGTH,
    b"set-cookie": Kind.SET_COOKIE,
    b"x-request-id": Kind.INFO,
    b"x-proxy-id": Kind.INFO,
    b"x-server-info": Kind.INFO,
    b"x-upstream-addr": Kind.INFO,
    b"x-upstream-response-time": Kind.INFO,
    b"x-sticky-handover": Kind.HANDOVER,
}

# A Connection field that names one of these is wrong or an attack: they frame the message.
_NEVER_HOP_BY_HOP = frozenset((b"host", b"content-length", b"transfer-encoding", b"cookie"))

_REMEMBERED_NAMES = 1024
_REMEMBERED_LINES = 1024
_REMEMBERED_LINE = 128
"""Bytes of the longest line that is remembered."""


class Classifier(dict[bytes, int]):
    """Field name as received -> Kind. The number of cached spellings is bounded, so that a client
    that invents names cannot grow the cache."""

    def __init__(self, kinds: dict[bytes, int]) -> None:
        super().__init__(kinds)
        self._kinds = kinds

    def __missing__(self, name: bytes) -> int:
        lower = name.lower()
        kind = self._kinds.get(lower, Kind.PASS)
        # CGI-style apps cannot tell "_" from "-": X_Forwarded_For would pass for the real one, and
        # Content_Length for what frames the message.
        if kind == Kind.PASS and b"_" in lower and lower.replace(b"_", b"-") in self._kinds:
            kind = Kind.DROP
        if len(self) < _REMEMBERED_NAMES:
            self[name] = kind
        return kind


REQUEST_KINDS = Classifier(_REQUEST)
RESPONSE_KINDS = Classifier(_RESPONSE)


# RFC 9110 section 5.5, RFC 9112 section 5: no white space before the colon, no folded lines, and no
# control character but the tabulator.
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t\x20-\x7e\x80-\xff]*")


_EVENT_STREAM = re.compile(rb"content-type:[\t ]*text/event-stream[\t ]*(?:;|$)", re.IGNORECASE)


class LineClassifier(dict[bytes, int]):
    """Field line as received -> Kind. An app's responses share most of their lines: those
    are not even parsed. A line is checked when it is first seen."""

    def __init__(self, names: Classifier) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, line: bytes) -> int:
        """Raises ValueError if it is not a field line."""
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{ascii(line[:80])[1:]} is no header field")
        kind = self._names[match[1]]
        if kind == Kind.PASS and _EVENT_STREAM.match(line):
            kind = Kind.EVENT_STREAM
        if len(line) <= _REMEMBERED_LINE:
            if len(self) >= _REMEMBERED_LINES:
                self.clear()
            self[line] = kind
        return kind


RESPONSE_LINES = LineClassifier(RESPONSE_KINDS)


class ConnectionOptions:
    """What a Connection field says (RFC 9110 section 7.6.1)."""

    __slots__ = ("_keep_alive", "closes", "named", "plain", "upgrade")

    def __init__(self, value: bytes) -> None:
        tokens = {token.strip(b" \t").lower() for token in value.split(b",")}
        self.closes = b"close" in tokens
        self._keep_alive = b"keep-alive" in tokens
        self.upgrade = b"upgrade" in tokens
        self.named = frozenset(
            tokens - _NEVER_HOP_BY_HOP - {b"", b"close", b"keep-alive", b"upgrade"}
        )
        """Lower-case names of the fields that it marks as hop-by-hop."""
        self.plain = tokens == {b"keep-alive"}
        """It says what is the default in HTTP/1.1."""

    def persists(self, default: bool) -> bool:
        """Whether the connection goes on (RFC 9112 section 9.3); ``default`` if it does not
        say."""
        return not self.closes and (default or self._keep_alive)


connection_options = lru_cache(256)(ConnectionOptions)


@lru_cache(256)
def options_of_line(line: bytes) -> ConnectionOptions:
    """The same for a whole field line."""
    return ConnectionOptions(line.partition(b":")[2])


_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?::[0-9]{0,5})?", re.ASCII)


def normalise_host(host: bytes) -> bytes | None:
    """Host without case, port or trailing dot; None if it cannot be a host."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    return match[1].lower().removesuffix(b".")


_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def split_absolute(target: bytes) -> tuple[bytes, bytes] | None:
    """(authority, origin-form target) of an absolute-form request target (RFC 9112 section
    3.2.2); None if it is not one for http(s) or carries user information."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None or b"@" in match[1]:
        return None
    authority, rest = match[1], match[2]
    return authority, rest if rest.startswith(b"/") else b"/" + rest


def printable(value: bytes, limit: int = 200) -> str:
    """``value`` fit to be shown in an error text: escaped, and cut at ``limit`` characters."""
    text = value.decode("latin-1").encode("unicode_escape").decode("ascii")
    return text if len(text) <= limit else text[:limit] + "..."


# --- small values that are rendered often ----------------------------------------------------

_MILLISECONDS = tuple(f"{ms / 1000:.3f}".encode() for ms in range(1000))


def seconds(elapsed: float) -> bytes:
    """Seconds with milliseconds, e.g. ``0.004``."""
    ms = int(elapsed * 1000)
    return _MILLISECONDS[ms] if 0 <= ms < 1000 else b"%.3f" % elapsed
