"""Which coding a client gets, and what a response must be like (RFC 9110 sections 8.4, 12.5.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.model.service import CODINGS
from stickyproxy.semantics.codings import (
    SMALLEST,
    choose,
    compressed_lines,
    compressible,
    revalidated_lines,
    said_by,
    varying_lines,
)

HTML = b"Content-Type: text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("gzip, deflate", "gzip"),
        ("deflate, identity", None),
        ("", None),
        ("*", "zstd"),
        ("*;q=0.1, gzip;q=0", "zstd"),
        ("*;q=0", None),
        ("gzip, *;q=0", "gzip"),
        ("zstd;q=0, br;q=0.5, gzip;q=0.9", "gzip"),
        ("zstd;q=0, br ; q=0.50 ,gzip;q=0.5", "br"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("br;q=0.3, identity;q=0.5", None),
        ("br;q=0.5, identity;q=0.5", "br"),
        ("identity;q=0", None),
        ("identity;q=0, *;q=0.5", "zstd"),
        ("gzip;q=2", None),
        ("gzip;q=-1, br;q=x", None),
        ("gzip;level=9", None),
        (";;;,,gzip;q=1.000", "gzip"),
        ("gzip;q=0.0001", None),
    ],
)
def test_what_the_client_takes(accepted: str, coding: str | None) -> None:
    assert choose(accepted.encode(), CODINGS) == coding


def test_only_what_is_offered() -> None:
    assert choose(b"gzip, br, zstd", ("gzip",)) == "gzip"
    assert choose(b"gzip, br, zstd", ("br", "gzip")) == "br"


@given(st.binary(max_size=40))
def test_whatever_the_client_says(accepted: bytes) -> None:
    assert choose(accepted, CODINGS) in (None, *CODINGS)


@pytest.mark.parametrize(
    "kind",
    [
        *("text/html", "text/css", "TEXT/Plain; x=y", "application/json", "image/svg+xml"),
        *("application/vnd.api+json", "application/javascript", "application/wasm", "font/ttf"),
        *("text/javascript", "application/xhtml+xml", "application/x-ndjson"),
    ],
)
def test_what_gets_shorter(kind: str) -> None:
    said = said_by([b"content-TYPE:" + kind.encode()])
    assert compressible(200, -1, said)
    assert compressible(404, SMALLEST, said)
    assert not compressible(200, SMALLEST - 1, said)


@pytest.mark.parametrize(
    "kind",
    [
        *("text/event-stream", "Text/Event-Stream; charset=utf-8", "image/png", "video/mp4"),
        *("application/zip", "font/woff2", "application/octet-stream", "text", ""),
        *("application/grpc", "application/pdf", "multipart/byteranges"),
    ],
)
def test_what_does_not(kind: str) -> None:
    assert not compressible(200, -1, said_by([b"Content-Type: " + kind.encode()]))


@pytest.mark.parametrize("status", [101, 103, 204, 205, 206, 304])
def test_what_has_no_body_of_its_own(status: int) -> None:
    assert not compressible(status, -1, said_by([HTML]))


@pytest.mark.parametrize(
    "line",
    [
        *(b"Content-Encoding: br", b"content-encoding:identity", b"Content-Range: bytes 0-9/10"),
        *(b"Cache-Control: no-transform", b"cache-control: max-age=1 , No-Transform"),
        *(b"Content-Digest: sha-256=:x:", b"Repr-Digest: sha-256=:x:", b"Content-MD5: x"),
        b"Digest: x",
    ],
)
def test_what_must_stay_as_it_is(line: bytes) -> None:
    assert not compressible(200, -1, said_by([HTML, line]))


def test_what_is_said_of_the_bytes_changes_with_them() -> None:
    lines = [HTML, b"content-length: 5000", b'etag:"a"', b"Accept-Ranges: bytes", b"X: y"]
    assert compressed_lines(lines, said_by(lines), "br") == [
        *(HTML, b'ETag: W/"a"', b"X: y"),
        *(b"Content-Encoding: br", b"Vary: Accept-Encoding"),
    ]


@pytest.mark.parametrize("line", [b"Vary: *", b"vary:Cookie,ACCEPT-ENCODING"])
def test_what_varies_already(line: bytes) -> None:
    lines = [HTML, line, b'ETag: W/"a"']
    assert varying_lines(lines, said_by(lines)) == lines
    compressed = compressed_lines(lines, said_by(lines), "gzip")
    assert compressed == [*lines, b"Content-Encoding: gzip"]


@pytest.mark.parametrize(
    ("asked", "tag"),
    [
        (b'W/"a"', b'ETag: W/"a"'),
        (b'"b", W/"a"', b'ETag: W/"a"'),
        (b'"a"', b'ETag: "a"'),
        (b'W/"b"', b'ETag: "a"'),
        (b"*", b'ETag: "a"'),
        (b"", b'ETag: "a"'),
    ],
)
def test_what_is_still_good_has_the_tag_that_the_client_knows(asked: bytes, tag: bytes) -> None:
    lines = [b'ETag: "a"', b"Server: x"]
    assert revalidated_lines(lines, said_by(lines), asked)[:2] == [tag, b"Server: x"]


def test_what_has_no_tag() -> None:
    assert revalidated_lines([HTML], said_by([HTML]), b'W/"a"') == [HTML]


def test_lines_are_remembered_in_bounds() -> None:
    for number in range(5000):
        said_by([b"X-%d: y" % number])
    assert compressible(200, -1, said_by([HTML]))
