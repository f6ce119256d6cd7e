"""dataplane/downstream/body.py: from the client's bytes to the handler."""

from __future__ import annotations

import pytest

from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane.chunked import CHUNKS_PER_TURN
from stickyproxy.dataplane.downstream.body import RequestBody
from stickyproxy.semantics.request import UNKNOWN
from tests.scripted import chunked


class Handler:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str | BadRequest] = []

    def body(self, data: bytes) -> None:
        self.told.append(data)

    def body_ended(self) -> None:
        self.told.append("ended")

    def body_failed(self, error: BadRequest) -> None:
        self.told.append(error)

    def begin(self) -> None:
        raise NotImplementedError

    client_slow = client_ready = client_lost = begin


class TestOfKnownLength:
    def test_is_kept_until_somebody_wants_it(self) -> None:
        body, handler = RequestBody(6), Handler()
        body.feed(b"ab")
        body.feed(b"cd")
        assert (body.kept, body.complete, body.ended, body.whole()) == (4, False, False, None)
        body.start(handler)
        assert handler.told == [b"abcd"]
        assert body.kept == 0
        body.feed(b"ef")
        assert handler.told == [b"abcd", b"ef", "ended"]
        assert body.complete
        assert body.ended

    def test_that_came_whole(self) -> None:
        body, handler = RequestBody(4), Handler()
        body.feed(b"abcd")
        assert body.whole() == body.whole() == b"abcd"
        body.start(handler)
        assert handler.told == [b"abcd", "ended"]

    def test_ends_where_it_ends(self) -> None:
        body, handler = RequestBody(4), Handler()
        body.start(handler)
        body.feed(b"abcdGET / HTTP/1.1")
        assert handler.told == [b"abcd", "ended"]
        assert body.surplus == b"GET / HTTP/1.1"

    def test_nothing_is_pending_ever(self) -> None:
        body = RequestBody(4)
        body.feed(b"ab")
        assert not body.pending

    @pytest.mark.parametrize("size", range(1, 8))
    def test_in_pieces_of_any_size(self, size: int) -> None:
        body, handler, data = RequestBody(20), Handler(), bytes(range(20))
        body.start(handler)
        for at in range(0, 20, size):
            body.feed(data[at : at + size])
        assert handler.told.pop() == "ended"
        assert b"".join(piece for piece in handler.told if isinstance(piece, bytes)) == data


class TestInChunks:
    def test_passes_without_its_coding(self) -> None:
        body, handler = RequestBody(UNKNOWN), Handler()
        body.start(handler)
        body.feed(chunked(b"abc", b"de"))
        assert handler.told == [b"abcde", "ended"]

    def test_that_came_whole(self) -> None:
        body = RequestBody(UNKNOWN)
        body.feed(chunked(b"abc", b"de") + b"next")
        assert (body.whole(), body.surplus) == (b"abcde", b"next")

    def test_that_is_empty(self) -> None:
        body, handler = RequestBody(UNKNOWN), Handler()
        body.feed(chunked())
        assert body.whole() == b""
        body.start(handler)
        assert handler.told == ["ended"]

    def test_a_turn_at_a_time(self) -> None:
        body, handler = RequestBody(UNKNOWN), Handler()
        body.start(handler)
        body.feed(chunked(*[b"x"] * 3 * CHUNKS_PER_TURN))
        turns = 1
        while body.pending:
            body.resume()
            turns += 1
        assert turns == 4  # the last one brings the end
        assert handler.told == [b"x" * CHUNKS_PER_TURN] * 3 + ["ended"]

    def test_that_is_malformed(self) -> None:
        body, handler = RequestBody(UNKNOWN), Handler()
        body.start(handler)
        body.feed(b"1\r\na\r\n")
        body.feed(b"nonsense\r\n")
        first, error = handler.told
        assert first == b"a"
        assert isinstance(error, BadRequest)
        assert error.status == 400
        assert "malformed request body" in error.message
        assert body.error is error
        assert (body.ended, body.complete, body.pending) == (True, False, False)

    def test_that_is_malformed_before_somebody_wants_it(self) -> None:
        body, handler = RequestBody(UNKNOWN), Handler()
        body.feed(b"1\r\na\r\n")
        body.feed(b"nonsense\r\n")
        assert body.error is not None
        assert body.whole() is None
        body.start(handler)
        assert handler.told == [b"a", body.error]


class TestUnwanted:
    @pytest.mark.parametrize("length", [12, UNKNOWN])
    def test_is_read_and_counted_and_passed_to_nobody(self, length: int) -> None:
        body, handler = RequestBody(length), Handler()
        data = b"a" * 12 if length == 12 else chunked(b"a" * 12)
        body.feed(data[:8])
        body.start(handler)
        before = list(handler.told)
        body.discard()
        body.feed(data[8:] + b"next")
        assert handler.told == before
        assert body.complete
        assert body.surplus == b"next"
        assert body.kept > 0
        body.discard()
        assert body.kept == 0
