"""dataplane/upstream/http1.py: responses, however they come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stickyproxy.base.errors import UpstreamProtocolError
from stickyproxy.dataplane.chunked import CHUNKS_PER_TURN
from stickyproxy.dataplane.upstream.http1 import (
    MAX_HEAD_BYTES,
    MAX_INTERIMS,
    Expect,
    ResponseReader,
)
from stickyproxy.semantics.response import ResponseHead
from tests.scripted import chunked, ok, respond

CHUNKED = ("Transfer-Encoding", "chunked")


class Receiver:
    """Writes down what it is told; pieces of a body together."""

    def __init__(self, *, bodiless: bool = False) -> None:
        self.bodiless = bodiless
        self.heads: list[int] = []
        self.interims: list[int] = []
        self.pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def interim(self, head: ResponseHead) -> None:
        assert not self.heads
        self.interims.append(head.status)

    def head(self, head: ResponseHead) -> None:
        self.heads.append(head.status)

    def data(self, data: bytes) -> None:
        assert self.heads
        self.pieces.append(data)

    def end(self) -> None:
        raise NotImplementedError

    flush = writable = end

    def failed(self, error: Exception) -> None:
        raise NotImplementedError


class Reading:
    """One response, read from these pieces."""

    def __init__(self, *pieces: bytes, bodiless: bool = False) -> None:
        self.receiver = Receiver(bodiless=bodiless)
        self.reader = ResponseReader()
        self.reader.expect = Expect.HEAD
        self.rest = b""
        for piece in pieces:
            self.feed(piece)

    def feed(self, piece: bytes) -> None:
        self.rest += self.reader.take(piece, self.receiver)
        while self.reader.pending:
            self.reader.resume(self.receiver)

    def result(self) -> tuple[object, ...]:
        receiver, reader = self.receiver, self.reader
        return (
            *(tuple(receiver.interims), tuple(receiver.heads), receiver.body),
            *(reader.expect, reader.keep_alive, self.rest),
        )


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The data cut in two at every byte, and into single bytes."""
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]
    yield [data[at : at + 1] for at in range(len(data))]


EARLY = respond("103 Early Hints", ("Link", "</a>"))
CONTINUE = respond("100 Continue")
SWITCH = respond("101 Switching Protocols", ("Upgrade", "x"), ("Connection", "Upgrade"))

WHOLE = {
    "length": (ok(b"hello"), (200,), b"hello", True),
    "no body": (ok(), (200,), b"", True),
    "chunked": (respond("200 OK", CHUNKED, body=chunked(b"a", b"bc")), (200,), b"abc", True),
    "204": (respond("204 No Content", ("Content-Length", "5")), (204,), b"", True),
    "304": (respond("304 Not Modified", ("Content-Length", "5")), (304,), b"", True),
    "304 in chunks": (respond("304 Not Modified", CHUNKED), (304,), b"", True),
    "close": (ok(b"hello", Connection="close"), (200,), b"hello", False),
    "interims": (CONTINUE + EARLY + EARLY + ok(b"a"), (200,), b"a", True),
    # RFC 9112 section 6.3: it ends at its empty line, whatever its fields say
    "interim with a length": (
        respond("103 Early Hints", ("Content-Length", "5")) + ok(b"a"),
        (200,),
        b"a",
        True,
    ),
    "interim in chunks": (respond("102 Processing", CHUNKED) + ok(b"a"), (200,), b"a", True),
    "http/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", (200,), b"a", False),
}


@pytest.mark.parametrize("name", WHOLE)
def test_any_cut_gives_the_same(name: str) -> None:
    data, heads, body, keep = WHOLE[name]
    whole = Reading(data)
    assert tuple(whole.receiver.heads) == heads
    assert whole.receiver.body == body
    assert (whole.reader.expect, whole.reader.keep_alive) == (Expect.NOTHING, keep)
    for pieces in cuts(data):
        assert Reading(*pieces).result() == whole.result(), pieces


@pytest.mark.parametrize("name", WHOLE)
def test_one_after_the_other(name: str) -> None:
    data, heads, body, keep = WHOLE[name]
    reading = Reading(data)
    for _ in range(3):
        reading.receiver = Receiver()
        reading.reader.expect = Expect.HEAD
        reading.feed(data)
        assert tuple(reading.receiver.heads) == heads
        assert reading.receiver.body == body
        assert reading.reader.keep_alive is keep


def test_until_close() -> None:
    reading = Reading(respond("200 OK", body=b"some"), b" more")
    assert reading.receiver.body == b"some more"
    assert (reading.reader.expect, reading.reader.keep_alive) == (Expect.CLOSE, False)


@pytest.mark.parametrize(
    "data",
    [
        respond("200 OK", ("Content-Length", "5")),
        respond("200 OK", CHUNKED),
        respond("200 OK"),
    ],
)
def test_of_a_head_request(data: bytes) -> None:
    reading = Reading(data, bodiless=True)
    assert reading.reader.expect is Expect.NOTHING
    assert reading.receiver.body == b""


@pytest.mark.parametrize(
    ("data", "bodiless"),
    [
        (ok(b"hello") + b"x", False),
        (ok() + ok(), False),
        (respond("200 OK", CHUNKED, body=chunked(b"a")) + b"x", False),
        (respond("204 No Content") + b"x", False),
        (ok(b"hello"), True),
    ],
)
def test_what_nobody_asked_for_ends_the_connection(data: bytes, bodiless: bool) -> None:
    reading = Reading(data, bodiless=bodiless)
    assert (reading.reader.expect, reading.reader.keep_alive) == (Expect.NOTHING, False)
    assert b"x" not in reading.receiver.body


def test_what_follows_a_switch_is_given_back() -> None:
    assert Reading(SWITCH + b"\x00of another").rest == b"\x00of another"
    for pieces in cuts(SWITCH):
        assert Reading(*pieces).receiver.heads == [101]


class TestLimits:
    def test_interims(self) -> None:
        assert Reading(CONTINUE * MAX_INTERIMS + ok(b"a")).receiver.body == b"a"
        with pytest.raises(UpstreamProtocolError, match="interim"):
            Reading(CONTINUE * (MAX_INTERIMS + 1))
        with pytest.raises(UpstreamProtocolError, match="interim"):
            Reading(*[CONTINUE] * (MAX_INTERIMS + 1))

    def test_are_of_a_response_and_not_of_a_connection(self) -> None:
        reading = Reading()
        for _ in range(3):
            reading.receiver = Receiver()
            reading.reader.expect = Expect.HEAD
            reading.feed(CONTINUE * MAX_INTERIMS + ok(b"a"))

    @pytest.mark.parametrize("status", ["200 OK", "103 Early Hints"])
    def test_bytes_of_a_head(self, status: str) -> None:
        head = respond(status, ("X", "a" * 60_000))
        missing = MAX_HEAD_BYTES - len(head)
        largest = respond(status, ("X", "a" * (60_000 + missing)))
        assert len(largest) == MAX_HEAD_BYTES
        Reading(largest)
        for pieces in ([largest + b""], [largest[:100], largest[100:]]):
            Reading(*pieces)
        with pytest.raises(UpstreamProtocolError, match="too long"):
            Reading(respond(status, ("X", "a" * (60_001 + missing))))

    def test_of_a_head_that_does_not_end(self) -> None:
        with pytest.raises(UpstreamProtocolError, match="too long"):
            Reading(b"HTTP/1.1 200 OK\r\nX: ", *[b"a" * 1000] * 70)

    def test_of_interims_in_all(self) -> None:
        hints = respond("103 Early Hints", ("Link", "a" * 8000))
        with pytest.raises(UpstreamProtocolError, match="too long"):
            Reading(*[hints] * 9)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: y\n\n",
        b"HTTP/1.1 200 OK\r\nX: y\nZ: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        respond("200 OK", CHUNKED, body=b"x\r\n"),
        respond("200 OK", CHUNKED, body=b"1\r\nab\r\n"),
        respond("200 OK", CHUNKED, ("Content-Length", "5")),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        Reading(data)
    with pytest.raises(UpstreamProtocolError):
        Reading(*[data[at : at + 1] for at in range(len(data))])


def test_what_is_no_response_is_known_at_its_first_byte() -> None:
    """It need not end its lines for that."""
    with pytest.raises(UpstreamProtocolError):
        Reading(b"X")


def test_chunks_of_one_read_come_a_turn_at_a_time() -> None:
    reading = Reading(respond("200 OK", CHUNKED))
    receiver, reader = reading.receiver, reading.reader
    reader.take(chunked(*[b"x"] * 3 * CHUNKS_PER_TURN), receiver)
    assert receiver.pieces == [b"x" * CHUNKS_PER_TURN]
    turns = 1
    while reader.pending:
        reader.resume(receiver)
        turns += 1
    assert turns == 4
    assert receiver.pieces == [b"x" * CHUNKS_PER_TURN] * 3
    assert reader.expect is Expect.NOTHING
