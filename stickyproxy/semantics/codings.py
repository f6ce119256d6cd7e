"""Which content codings a client takes, and which responses may be compressed for it: pure
functions, no I/O (RFC 9110 sections 8.4 and 12.5.3).

    choose              the coding for a request
    compressible        whether a response may be compressed
    varying_lines       the fields of such a response
    compressed_lines    those of one that is compressed
    revalidated_lines   and those of the 304 that says that it is still good
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

SMALLEST = 1024
"""Bytes of the shortest body that is compressed: what is shorter fits into one packet anyway."""

_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110 section 8.4.1.3


@lru_cache(512)
def choose(accepted: bytes, offered: tuple[str, ...]) -> str | None:
    """The one of ``offered`` that a client prefers whose Accept-Encoding is this; of those that it
    likes best, the first. None: it takes none of them, or would rather have none."""
    likes = _likes(accepted)
    unnamed = likes.get("*", 0.0)
    best, chosen = 0.0, None
    for coding in offered:
        like = likes.get(coding, unnamed)
        if like > best:
            best, chosen = like, coding
    return None if best < likes.get("identity", 0.0) else chosen


def _likes(accepted: bytes) -> dict[str, float]:
    """Weight by coding. An element that is malformed says nothing."""
    likes: dict[str, float] = {}
    for element in accepted.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip(" \t") for part in element.split(";"))
        weight = 1.0
        if parameters:
            key, _, value = parameters[0].partition("=")
            if key.strip(" \t") != "q" or not _QUALITY.fullmatch(value.strip(" \t")):
                continue
            weight = float(value)
        if name:
            likes[_ALIASES.get(name, name)] = weight
    return likes


# --- responses ------------------------------------------------------------------------------

_FORBIDS, _TEXT, _ETAG, _RANGES, _VARIES = 1, 2, 4, 8, 16
"""What a line says: it must stay as it is; that there is something to compress; what it is called;
that there are parts of it to be had; that it differs by coding already."""

_TYPES = re.compile(
    rb"text/(?!event-stream)[!#$&^_.+\-0-9a-z]+"
    rb"|application/(?:[^ ;]+\+)?(?:json|xml)|[^ ;]+\+(?:json|xml)"
    rb"|application/(?:x-)?(?:javascript|ecmascript|ndjson|json-seq|wasm|yaml|sql|graphql)"
    rb"|application/(?:manifest\+json|x-httpd-php|rtf|vnd\.ms-fontobject)"
    rb"|font/(?:ttf|otf|collection)|image/(?:bmp|x-icon|vnd\.microsoft\.icon)"
)
"""Of contents that get shorter; others are compressed already, or nobody knows."""

_REMEMBERED_LINES = 1024
_REMEMBERED_LINE = 128


class _SaidByLines(dict[bytes, int]):
    """What a field line says, remembered by the line, of which an app's responses share most."""

    def __missing__(self, line: bytes) -> int:
        said = _said(line)
        if len(line) <= _REMEMBERED_LINE:
            if len(self) >= _REMEMBERED_LINES:
                self.clear()
            self[line] = said
        return said


_LINES = _SaidByLines()

_FORBIDDING = frozenset(
    # It is encoded, it is a part, or a digest of just these bytes goes with it (RFC 9530).
    (
        *(b"content-encoding", b"content-range"),
        *(b"content-md5", b"digest", b"content-digest", b"repr-digest"),
    )
)


def _said(line: bytes) -> int:
    name, _, value = line.partition(b":")
    value = value.strip(b" \t").lower()
    match name.lower():
        case b"content-type":
            return _TEXT if _TYPES.fullmatch(value.partition(b";")[0].rstrip(b" \t")) else 0
        case b"cache-control":
            return _FORBIDS if b"no-transform" in _elements(value) else 0
        case b"etag":
            return _ETAG
        case b"accept-ranges":
            return _RANGES
        case b"vary":
            return _VARIES if {b"*", b"accept-encoding"} & _elements(value) else 0
        case lower:
            return _FORBIDS if lower in _FORBIDDING else 0


def _elements(value: bytes) -> set[bytes]:
    return {element.strip(b" \t") for element in value.split(b",")}


def said_by(lines: Iterable[bytes]) -> int:
    """What these lines say together, for the functions below."""
    said, known = 0, _LINES
    for line in lines:
        said |= known[line]
    return said


def compressible(status: int, length: int, said: int) -> bool:
    """Whether a response may be compressed at all. ``length``: of its body; negative: it is not
    known."""
    if said & (_TEXT | _FORBIDS) != _TEXT or 0 <= length < SMALLEST:
        return False
    return status >= 200 and status not in (204, 205, 206, 304)


def varying_lines(lines: list[bytes], said: int) -> list[bytes]:
    """Those of a response that is another one for clients that take other codings, also if it
    stays as it is for this one (RFC 9110 section 12.5.5)."""
    return lines if said & _VARIES else [*lines, b"Vary: Accept-Encoding"]


def compressed_lines(lines: list[bytes], said: int, coding: str) -> list[bytes]:
    """Those of a response that is compressed: what is said of its bytes does not hold any more. The
    tag becomes a weak one (RFC 9110 section 8.8.1), because the bytes differ and the meaning does
    not; there are no parts to be had of what is made anew for each response."""
    gone = (b"content-length:", b"accept-ranges:")
    kept = [_weakened(line) for line in lines if not line.lower().startswith(gone)]
    return varying_lines([*kept, b"Content-Encoding: " + coding.encode()], said)


def revalidated_lines(lines: list[bytes], said: int, asked: bytes) -> list[bytes]:
    """Those of a 304. ``asked``: the If-None-Match field. A client that knows the response by a
    weak tag knows a compressed one."""
    if not said & _ETAG:
        return lines
    weak = [_weakened(line) for line in lines]
    tags = [line.partition(b": ")[2] for line in weak if line.startswith(b"ETag: W/")]
    return varying_lines(weak, said) if any(tag in asked for tag in tags) else lines


def _weakened(line: bytes) -> bytes:
    if line[:5].lower() != b"etag:":
        return line
    tag = line[5:].strip(b" \t")
    return line if tag.startswith(b"W/") else b"ETag: W/" + tag
