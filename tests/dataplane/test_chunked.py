"""dataplane/chunked.py: bodies in chunks (RFC 9112 section 7.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import h11
import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stickyproxy.dataplane.chunked import (
    CHUNKS_PER_TURN,
    MAX_EXTRA,
    MAX_LINE,
    ChunkedDecoder,
    ChunkError,
)
from tests.scripted import chunked


class Decoded:
    """What feeding these pieces, one after the other, has come to."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.decoder = ChunkedDecoder()
        self.turns = 0
        self.body = b""
        self.unfed = b""
        """What came in later reads than the end."""
        for piece in pieces:
            if self.decoder.done:
                self.unfed += piece
                continue
            self.decoder.feed(piece)
            while True:
                self.body += self.decoder.decode()
                self.turns += 1
                if not self.decoder.pending:
                    break


def decoded(data: bytes) -> bytes:
    """The body of which this is all. Raises ChunkError."""
    result = Decoded([data])
    assert result.decoder.done, f"{data!r} has no end"
    assert result.decoder.surplus == b""
    return result.body


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    inside = sorted({place % (len(data) + 1) for place in places} - {0, len(data)})
    return [data[start:end] for start, end in pairwise([0, *inside, len(data)])]


# --- what is valid -------------------------------------------------------------------------------

TOKEN = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8).map(str.encode)
QUOTED = st.text('\t !#[]~{}xyz;="\\', max_size=8).map(
    lambda text: b'"' + text.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'
)
EXTENSION = st.tuples(TOKEN, st.none() | TOKEN | QUOTED).map(
    lambda pair: b";" + pair[0] + (b"" if pair[1] is None else b"=" + pair[1])
)
TRAILER = st.tuples(TOKEN, st.binary(max_size=8)).map(
    lambda pair: pair[0] + b": " + bytes(byte for byte in pair[1] if byte > 31 and byte != 127)
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body, and how it may come over the wire."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=12))
    wire = b""
    for piece in pieces:
        digits = b"%x" % len(piece)
        if draw(st.booleans()):
            digits = digits.upper()
        zeros = b"0" * draw(st.integers(0, 3))
        extensions = b"".join(draw(st.lists(EXTENSION, max_size=2)))
        wire += zeros + digits + extensions + b"\r\n" + piece + b"\r\n"
    wire += b"0" * draw(st.integers(1, 4)) + b"".join(draw(st.lists(EXTENSION, max_size=2)))
    trailers = draw(st.lists(TRAILER, max_size=2))
    wire += b"\r\n" + b"".join(trailer + b"\r\n" for trailer in trailers) + b"\r\n"
    return b"".join(pieces), wire


@given(bodies(), st.lists(st.integers(0, 5000), max_size=20))
@example((b"abc", chunked(b"a", b"b", b"c")), list(range(50)))
def test_any_cut_gives_the_same(body_and_wire: tuple[bytes, bytes], places: list[int]) -> None:
    body, wire = body_and_wire
    result = Decoded(cut(wire, places))
    assert result.decoder.done
    assert result.body == body
    assert result.decoder.surplus == b""


@given(bodies())
def test_byte_by_byte(body_and_wire: tuple[bytes, bytes]) -> None:
    body, wire = body_and_wire
    assert Decoded(cut(wire, range(len(wire)))).body == body


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=200))
def test_what_an_encoder_made(pieces: list[bytes]) -> None:
    assert decoded(chunked(*pieces, trailers=[("X-Sum", "1")])) == b"".join(pieces)


@given(bodies(), st.binary(max_size=40), st.lists(st.integers(0, 5000), max_size=5))
def test_what_follows_is_left(
    body_and_wire: tuple[bytes, bytes], behind: bytes, places: list[int]
) -> None:
    body, wire = body_and_wire
    pieces = cut(wire + behind, places)
    result = Decoded(pieces)
    assert result.body == body
    assert result.decoder.done
    assert not result.decoder.pending
    assert result.decoder.surplus + result.unfed == behind


@given(bodies(), st.data())
def test_no_part_of_it_is_whole(body_and_wire: tuple[bytes, bytes], data: st.DataObject) -> None:
    _, wire = body_and_wire
    part = Decoded([wire[: data.draw(st.integers(0, len(wire) - 1))]])
    assert not part.decoder.done
    assert part.decoder.surplus == b""


# --- the grammar ---------------------------------------------------------------------------------

LAST = b"0\r\n\r\n"

GOOD = {
    "last-chunk alone": (LAST, b""),
    "many zeros": (b"000000\r\n\r\n", b""),
    "hex in both cases": (b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + LAST, b"0123456789" * 2),
    "leading zeros": (b"00003\r\nabc\r\n" + LAST, b"abc"),
    "15 digits": (b"000000000000003\r\nabc\r\n" + LAST, b"abc"),
    "CRLF inside the data": (b"4\r\n\r\n\r\n\r\n" + LAST, b"\r\n\r\n"),
    "last-chunk inside the data": (b"5\r\n" + LAST + b"\r\n" + LAST, LAST),
    "extension": (b"3;a\r\nabc\r\n" + LAST, b"abc"),
    "extension with a value": (b"3;a=b\r\nabc\r\n" + LAST, b"abc"),
    "extension with a quoted value": (b'3;a="b; \\" c"\r\nabc\r\n' + LAST, b"abc"),
    "several": (b'3;a;b=c;d="e"\r\nabc\r\n' + LAST, b"abc"),
    "of the last chunk": (b"0;a=b\r\n\r\n", b""),
    "trailer": (b"0\r\nX-Sum: 1\r\nY:\r\n\r\n", b""),
    "trailer with obs-text": (b"0\r\nX: \xff\tb\r\n\r\n", b""),
}

BAD = {
    "no size": b"\r\nabc\r\n",
    "not hexadecimal": b"g\r\n",
    "sign": b"+3\r\nabc\r\n",
    "minus": b"-3\r\nabc\r\n",
    "0x": b"0x3\r\nabc\r\n",
    "underscore": b"1_0\r\n0123456789012345\r\n",
    "blank before": b" 3\r\nabc\r\n",
    "blank behind": b"3 \r\nabc\r\n",
    "tab behind": b"3\t\r\nabc\r\n",
    "full-width digit": "\uff13\r\nabc\r\n".encode(),
    "16 digits": b"0000000000000003\r\nabc\r\n",
    "larger than 64 bits": b"10000000000000003\r\nabc\r\n",
    "bare LF after the size": b"3\nabc\r\n",
    "bare CR after the size": b"3\rabc\r\n" + LAST,
    "bare CR inside the size": b"3\r;a\r\nabc\r\n",
    "NUL": b"3\x00\r\nabc\r\n",
    "data too long": b"3\r\nabcd\r\n",
    "bare LF after the data": b"3\r\nabc\n" + LAST,
    "no line end after the data": b"3\r\nabc" + LAST,
    "CR and something else after the data": b"3\r\nabc\rX",
    "extension without a name": b"3;\r\nabc\r\n",
    "extension with blanks (BWS)": b"3 ; a = b\r\nabc\r\n",
    "extension without a value": b"3;a=\r\nabc\r\n",
    "extension with an open quote": b'3;a="b\r\nabc\r\n',
    "extension with a control character": b'3;a="\x01"\r\nabc\r\n',
    "bare LF in an extension": b"3;a\nb\r\nabc\r\n",
    "trailer without a colon": b"0\r\nX-Sum\r\n\r\n",
    "trailer with a blank before the colon": b"0\r\nX : y\r\n\r\n",
    "folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "trailer that begins with a blank": b"0\r\n X: y\r\n\r\n",
    "trailer with a control character": b"0\r\nX: \x01\r\n\r\n",
    "trailer with a bare LF": b"0\r\nX: y\nZ: a\r\n\r\n",
    "bare LF at the end": b"0\n\n",
    "LF for the empty line": b"0\r\n\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_valid(name: str) -> None:
    wire, body = GOOD[name]
    assert decoded(wire) == body
    assert Decoded(cut(wire, range(len(wire)))).body == body


@pytest.mark.parametrize("name", BAD)
def test_malformed(name: str) -> None:
    wire = BAD[name]
    with pytest.raises(ChunkError):
        decoded(wire)
    with pytest.raises(ChunkError):
        Decoded(cut(wire, range(len(wire))))


@pytest.mark.parametrize("good", [b"", b"3\r\nabc\r\n", b"1\r\na\r\n" * 500])
@pytest.mark.parametrize("name", BAD)
def test_malformed_behind_what_is_valid(good: bytes, name: str) -> None:
    """A chunk that was taken before, the short way, does not make the next one lenient."""
    with pytest.raises(ChunkError):
        decoded(good + BAD[name])


# --- limits --------------------------------------------------------------------------------------


class TestLimits:
    def test_a_line(self) -> None:
        name = b"a" * (MAX_LINE - len(b"0;\r\n"))
        assert decoded(b"0;" + name + b"\r\n\r\n") == b""
        with pytest.raises(ChunkError, match="too long"):
            decoded(b"0;" + name + b"a\r\n\r\n")

    def test_a_line_that_does_not_end(self) -> None:
        decoder = ChunkedDecoder()
        decoder.feed(b"0;" + b"a" * (MAX_LINE - 3))
        assert decoder.decode() == b""
        decoder.feed(b"a")
        with pytest.raises(ChunkError, match="too long"):
            decoder.decode()

    def test_extensions_in_all(self) -> None:
        line = b"1;" + b"a" * 1000 + b"\r\nx\r\n"
        allowed = MAX_EXTRA // 1001
        assert decoded(line * allowed + LAST) == b"x" * allowed
        with pytest.raises(ChunkError, match="too many bytes"):
            decoded(line * (allowed + 1) + LAST)

    def test_trailers_in_all(self) -> None:
        line = b"X: " + b"a" * 1021 + b"\r\n"  # 1,024 without its end
        assert decoded(b"0\r\n" + line * (MAX_EXTRA // 1024) + b"\r\n") == b""
        with pytest.raises(ChunkError, match="too many bytes"):
            decoded(b"0\r\n" + line * (MAX_EXTRA // 1024 + 1) + b"\r\n")


# --- work ----------------------------------------------------------------------------------------


class Counting(bytes):
    """Bytes that count how many of them are copied out."""

    copied = 0

    def __getitem__(self, key: object) -> bytes:  # type: ignore[override]
        piece = bytes.__getitem__(self, key)  # type: ignore[call-overload]
        Counting.copied += len(piece)
        return piece  # type: ignore[no-any-return]


class CountingDecoder(ChunkedDecoder):
    """Takes what it is fed as ``Counting``, its rest included."""

    def feed(self, data: bytes) -> None:
        super().feed(data)
        self._data = Counting(self._data)


def copied(wire: bytes) -> int:
    """Bytes copied to decode what came in one read."""
    Counting.copied = 0
    decoder = CountingDecoder()
    decoder.feed(wire)
    while not decoder.done:
        decoder.decode()
    return Counting.copied


class TestWork:
    @pytest.mark.parametrize("piece", [b"x", b"x" * 64, b"x" * 4096])
    def test_is_linear(self, piece: bytes) -> None:
        """Twice the bytes, twice the work: nothing is copied for each chunk that is left."""
        once = copied(chunked(*[piece] * 500))
        twice = copied(chunked(*[piece] * 1000))
        assert twice <= 2 * once + 100

    def test_no_byte_is_copied_often(self) -> None:
        wire = chunked(*[b"x"] * 10_000)
        assert copied(wire) <= 3 * len(wire)

    @pytest.mark.parametrize("count", [1, CHUNKS_PER_TURN, CHUNKS_PER_TURN + 1, 10_000])
    def test_a_turn_is_bounded(self, count: int) -> None:
        decoder = ChunkedDecoder()
        decoder.feed(chunked(*[b"x"] * count))
        sizes = []
        while not decoder.done:
            sizes.append(len(decoder.decode()))
        assert max(sizes) <= CHUNKS_PER_TURN
        assert sum(sizes) == count
        assert len(sizes) <= 3 * count // CHUNKS_PER_TURN + 3

    def test_a_turn_of_chunks_with_extensions_is_bounded(self) -> None:
        decoder = ChunkedDecoder()
        decoder.feed(b"1;a\r\nx\r\n" * 1000 + LAST)
        while not decoder.done:
            assert len(decoder.decode()) <= CHUNKS_PER_TURN

    def test_what_a_turn_brings_is_one_piece(self) -> None:
        decoder = ChunkedDecoder()
        decoder.feed(chunked(*[b"ab"] * 10))
        assert decoder.decode() == b"ab" * 10
        assert decoder.done

    def test_a_large_chunk_is_passed_on_as_it_comes(self) -> None:
        decoder = ChunkedDecoder()
        decoder.feed(b"100000\r\n" + b"x" * 70_000)
        assert decoder.decode() == b"x" * 70_000
        decoder.feed(b"y" * 1000)
        assert decoder.decode() == b"y" * 1000
        assert not decoder.done


# --- others --------------------------------------------------------------------------------------

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def by_h11(wire: bytes) -> bytes:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(HEAD + wire)
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA, f"h11 finds no end in {wire!r}"
        if isinstance(event, h11.Data):
            body += bytes(event.data)
    return body


class _Taken:
    def __init__(self) -> None:
        self.body = b""
        self.done = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.done = True


def by_httptools(wire: bytes) -> bytes:
    taken = _Taken()
    httptools.HttpRequestParser(taken).feed_data(HEAD + wire)
    assert taken.done, f"llhttp finds no end in {wire!r}"
    return taken.body


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from([b"\r", b"\n", b" ", b";", b"0", b"f", b""])),
    max_size=3,
)


def mutated(wire: bytes, mutations: Sequence[tuple[int, bytes]]) -> Iterator[bytes]:
    """The wire with bytes replaced, taken away or put in."""
    yield wire
    for place, byte in mutations:
        at = place % len(wire)
        yield wire[:at] + byte + wire[at + 1 :]
        yield wire[:at] + byte + wire[at:]


@given(bodies(), MUTATIONS)
def test_what_is_accepted_others_read_alike(
    body_and_wire: tuple[bytes, bytes], mutations: list[tuple[int, bytes]]
) -> None:
    """Two readings of one body are what smuggling is made of."""
    for wire in mutated(body_and_wire[1], mutations):
        try:
            result = Decoded([wire])
        except ChunkError:
            continue
        if result.decoder.done and not result.decoder.surplus:
            assert by_h11(wire) == result.body
            assert by_httptools(wire) == result.body
