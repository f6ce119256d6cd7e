"""dataplane/downstream/heads.py: request heads, however they come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane.downstream.heads import (
    TARGET_LIMIT_IS_LOWER_BY,
    HeadReader,
    Limits,
)
from tests.scripted import get, post, request

MAX_HEAD, MAX_LINE, MAX_FIELDS = 2000, 500, 10

LIMITS = Limits(
    max_head=MAX_HEAD,
    max_head_line=MAX_LINE,
    max_headers=MAX_FIELDS,
    head_timeout=1,
    keepalive_timeout=1,
    client_timeout=1,
)


class Reading:
    """A reader, and the parsers that were made for it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.parsers = 0
        self.reader = HeadReader(self._parser(), self._parser, LIMITS)

    def _parser(self) -> HttpRequestParser:
        self.parsers += 1
        return HttpRequestParser(
            BaseProtocol(self.loop),
            self.loop,
            2**16,
            max_line_size=MAX_LINE - TARGET_LIMIT_IS_LOWER_BY,
            max_field_size=MAX_LINE,
            max_headers=MAX_FIELDS,
        )

    def close(self) -> None:
        self.loop.close()

    def feed(self, *pieces: bytes) -> list[tuple[str, str, bool, bytes]]:
        """Method and path of the heads in what is read, whether bodies follow, and what was behind
        each in its read, which goes on being read if there is no body. Raises BadRequest."""
        found = []
        for piece in pieces:
            at = 0
            while at < len(piece):
                head = self.reader.read(piece, at)
                if head is None:
                    break
                message, has_body, at = head
                found.append((message.method, message.path, has_body, piece[at:]))
                if has_body:
                    break
        return found


@pytest.fixture
def reading() -> Iterator[Reading]:
    """One connection's reader."""
    made = Reading()
    yield made
    made.close()


def read(*pieces: bytes) -> list[tuple[str, str, bool, bytes]]:
    """What a new connection's reader finds in these. Raises BadRequest."""
    reading = Reading()
    try:
        return reading.feed(*pieces)
    finally:
        reading.close()


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The data cut in two at every byte, and into single bytes."""
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]
    yield [data[at : at + 1] for at in range(len(data))]


def refused(*pieces: bytes) -> BadRequest:
    """What is said of these."""
    with pytest.raises(BadRequest) as refusal:
        read(*pieces)
    return refusal.value


HEADS = {
    "get": get("/a"),
    "empty lines before": b"\r\n\r\n" + get("/a"),
    "bare line feeds before": b"\n\n" + get("/a"),
    "http/1.0": request("GET", "/a", version="HTTP/1.0"),
    "no fields": b"GET /a HTTP/1.0\r\n\r\n",
    "options": request("OPTIONS", "*", ("Host", "x")),
    "length": post(b""),
    "absolute": request("GET", "http://x/a", ("Host", "x")),
    "extension method": request("PROPFIND", "/a", ("Host", "x")),
}


@pytest.mark.parametrize("name", HEADS)
def test_any_cut_gives_the_same(name: str) -> None:
    whole = read(HEADS[name])
    assert len(whole) == 1
    for pieces in cuts(HEADS[name]):
        assert read(*pieces) == whole


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 5))
def test_any_cut_of_several(steps: list[int], count: int) -> None:
    data = b"".join(get(f"/{number}") for number in range(count))
    places = [0]
    for step in steps:
        places.append(min(len(data), places[-1] + step))
    pieces = [data[start:end] for start, end in pairwise([*places, len(data)]) if start < end]
    found = read(*pieces)
    assert [path for _, path, _, _ in found] == [f"/{number}" for number in range(count)]


def test_what_is_behind_is_not_taken(reading: Reading) -> None:
    [(_, path, has_body, rest)] = reading.feed(post(b"the body" * 1000, "/a"))
    assert (path, has_body, rest) == ("/a", True, b"the body" * 1000)
    assert reading.reader.size == 0


def test_only_a_body_spends_the_parser(reading: Reading) -> None:
    """One for the first head; another for each head that follows a body."""
    reading.feed(get(), get(), post(b""), get())
    assert reading.parsers == 1
    reading.feed(post(b"x"))
    assert reading.parsers == 1
    assert [path for _, path, _, _ in reading.feed(get("/next"))] == ["/next"]
    assert reading.parsers == 2
    reading.feed(request("POST", "/", ("Host", "x"), ("Transfer-Encoding", "chunked")))
    reading.feed(b"\r\n" + get())
    assert reading.parsers == 3


def test_how_much_has_come(reading: Reading) -> None:
    assert reading.reader.size == 0
    reading.feed(b"\r\n")
    assert reading.reader.size == 0  # an empty line is no head
    reading.feed(b"GET / ")
    assert reading.reader.size == 6
    reading.feed(b"HTTP/1.1\r\nHost: x\r\n\r\n")
    assert reading.reader.size == 0


class TestLimits:
    """Each at its value and beyond it, whole and byte by byte."""

    @pytest.mark.parametrize(
        ("head", "status", "says"),
        [
            (request("GET", "/" + "a" * 2 * MAX_LINE), 414, "target is longer"),
            (get(X="a" * 2 * MAX_LINE), 431, "field is longer"),
            (get(**{f"X{n}": "a" for n in range(MAX_FIELDS)}), 431, "header fields"),
            (get(**{f"X{n}": "a" * 400 for n in range(6)}), 431, "head is longer"),
        ],
    )
    def test_too_much(self, head: bytes, status: int, says: str) -> None:
        for pieces in ([head], [head[at : at + 1] for at in range(len(head))]):
            error = refused(*pieces)
            assert error.status == status
            assert says in error.message

    @pytest.mark.parametrize(
        "head",
        [
            get(X="a" * (MAX_LINE - 10)),
            get(**{f"X{n}": "a" for n in range(MAX_FIELDS - 1)}),
            get(**{f"X{n}": "a" * 300 for n in range(6)}),
        ],
    )
    def test_enough(self, head: bytes) -> None:
        assert len(head) <= MAX_HEAD
        assert len(read(head)) == 1
        assert len(read(*[head[at : at + 1] for at in range(len(head))])) == 1

    def test_to_the_byte(self) -> None:
        fields = {f"X{n}": "a" * 400 for n in range(4)}
        head = get(**fields, Y="")
        head = get(**fields, Y="b" * (MAX_HEAD - len(head)))
        assert len(head) == MAX_HEAD
        assert len(read(head)) == 1
        error = refused(head.replace(b"Y: ", b"Y: b"))
        assert (error.status, "2000 bytes" in error.message) == (431, True)

    def test_is_of_a_head_and_not_of_a_connection(self) -> None:
        assert len(read(*[get(X="a" * 400)] * 50)) == 50
        assert len(read(get(X="a" * 400) * 50)) == 50

    def test_empty_lines_do_not_count(self) -> None:
        assert len(read(b"\r\n" * MAX_HEAD, b"\r\n" * MAX_HEAD + get())) == 1

    def test_without_an_end(self) -> None:
        with pytest.raises(BadRequest):
            read(b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * MAX_HEAD)


class TestOtherProtocols:
    """Their first lines are such that the parser takes them."""

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", 505),
            (b"DESCRIBE rtsp://x/a RTSP/1.0\r\nCSeq: 1\r\n\r\n", 505),
            (b"SOURCE /a ICE/1.0\r\nHost: x\r\n\r\n", 505),
            (b"GET / RTSP/1.0\r\n\r\n", 505),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ],
    )
    def test_are_not_spoken(self, data: bytes, status: int) -> None:
        for pieces in [[data], *cuts(data)]:
            error = refused(*pieces)
            assert error.status == status, pieces

    def test_of_tls_there_is_nothing_to_read(self) -> None:
        assert refused(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").status == 400


@pytest.mark.parametrize(
    "data",
    [
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    ],
)
def test_malformed(data: bytes) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        error = refused(*pieces)
        assert error.status == 400
        assert error.message.isprintable()
