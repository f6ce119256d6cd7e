"""semantics/response.py: what the head of a response says, and what passes of it."""

from __future__ import annotations

import h11
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stickyproxy.base.errors import UpstreamProtocolError
from stickyproxy.semantics.response import CHUNKED, UNTIL_CLOSE, ResponseHead

OK = b"HTTP/1.1 200 OK"


def head(*lines: bytes, first: bytes = OK) -> ResponseHead:
    return ResponseHead(b"\r\n".join((first, *lines)))


class TestStatusLine:
    """RFC 9112 section 4."""

    @pytest.mark.parametrize(
        ("line", "http11", "status", "reason"),
        [
            (b"HTTP/1.1 200 OK", True, 200, b"OK"),
            (b"HTTP/1.0 200 OK", False, 200, b"OK"),
            (b"HTTP/1.1 200 ", True, 200, b""),
            (b"HTTP/1.1 200", True, 200, b""),  # without the space, as many servers have it
            (b"HTTP/1.1 404 Not \xe4 Found\there", True, 404, b"Not \xe4 Found\there"),
            (b"HTTP/1.1 999 X", True, 999, b"X"),
            (b"HTTP/1.1 100 Continue", True, 100, b"Continue"),
        ],
    )
    def test_valid(self, line: bytes, http11: bool, status: int, reason: bytes) -> None:
        found = head(first=line)
        assert (found.http11, found.status, found.reason) == (http11, status, reason)

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"HTTP/1.1",
            b"HTTP/1.1 ",
            b"HTTP/1.1 20 OK",
            b"HTTP/1.1 099 Low",
            b"HTTP/1.1 000 None",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 2x0 OK",
            b"HTTP/1.1  200 OK",
            b" HTTP/1.1 200 OK",
            b"HTTP/1.1\t200 OK",
            b"HTTP/1.2 200 OK",
            b"HTTP/2.0 200 OK",
            b"HTTP/1.11 200 OK",
            b"http/1.1 200 OK",
            b"ICY 200 OK",
            b"HTTP/1.1 200 O\x00K",
            b"HTTP/1.1 200 O\nK",
            b"HTTP/1.1 200 O\rK",
            b"HTTP/1.1 200 OK\x7f",
            "HTTP/1.1 \uff1200 OK".encode(),
        ],
    )
    def test_malformed(self, line: bytes) -> None:
        with pytest.raises(UpstreamProtocolError, match="status line"):
            head(first=line)


class TestFraming:
    """RFC 9112 section 6.3."""

    @pytest.mark.parametrize(
        ("lines", "length", "kept"),
        [
            ((), UNTIL_CLOSE, []),
            ((b"Content-Length: 0",), 0, [b"Content-Length: 0"]),
            ((b"content-length:5",), 5, [b"Content-Length: 5"]),
            ((b"Content-Length:\t 5 \t",), 5, [b"Content-Length: 5"]),
            ((b"Content-Length: 0005",), 5, [b"Content-Length: 5"]),
            (
                (b"Content-Length: 9223372036854775807",),
                (1 << 63) - 1,
                [b"Content-Length: 9223372036854775807"],
            ),
            ((b"Transfer-Encoding: chunked",), CHUNKED, []),
            ((b"transfer-encoding:CHUNKED ",), CHUNKED, []),
            ((b"Content_Length: 5",), UNTIL_CLOSE, []),
        ],
    )
    def test_valid(self, lines: tuple[bytes, ...], length: int, kept: list[bytes]) -> None:
        found = head(*lines)
        assert (found.length, found.lines) == (length, kept)

    @pytest.mark.parametrize(
        ("lines", "reason"),
        [
            ((b"Content-Length: ",), "not a number"),
            ((b"Content-Length: -1",), "not a number"),
            ((b"Content-Length: +1",), "not a number"),
            ((b"Content-Length: 1 1",), "not a number"),
            ((b"Content-Length: 1, 1",), "not a number"),
            ((b"Content-Length: 0x1",), "not a number"),
            ((b"Content-Length: 1_0",), "not a number"),
            (("Content-Length: \uff15".encode(),), "not a number"),
            ((b"Content-Length: 9223372036854775808",), "not a number"),
            ((b"Content-Length: 18446744073709551615",), "not a number"),
            ((b"Content-Length: 00000000000000000001",), "not a number"),
            ((b"Content-Length: 5", b"Content-Length: 5"), "twice"),
            ((b"Content-Length: 5", b"content-length: 6"), "twice"),
            ((b"Content-Length: 5", b"Transfer-Encoding: chunked"), "twice"),
            ((b"Transfer-Encoding: chunked", b"Content-Length: 5"), "twice"),
            ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "twice"),
            ((b"Transfer-Encoding: gzip, chunked",), "not chunked"),
            ((b"Transfer-Encoding: chunked, chunked",), "not chunked"),
            ((b"Transfer-Encoding: identity",), "not chunked"),
            ((b"Transfer-Encoding: \x0bchunked",), "no header field"),
            ((b"Transfer-Encoding:",), "not chunked"),
        ],
    )
    def test_faulty(self, lines: tuple[bytes, ...], reason: str) -> None:
        with pytest.raises(UpstreamProtocolError, match=reason):
            head(*lines)

    def test_no_transfer_coding_in_http_1_0(self) -> None:
        with pytest.raises(UpstreamProtocolError, match=r"HTTP/1\.0"):
            head(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK")


class TestFields:
    """RFC 9112 section 5, RFC 9110 sections 5 and 7.6.1."""

    def test_pass_in_their_order_and_spelling(self) -> None:
        lines = [b"Server: a", b"x-odd:  b ", b"X-Odd: c", b'ETag: "1"', b"Empty:"]
        assert head(*lines).lines == lines

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"no colon",
            b": no name",
            b"Name : blank before the colon",
            b" folded: line",
            b"\tfolded",
            b"Na me: a",
            b"N\xe4me: a",
            b"Name: nul\x00",
            b"Name: bare\nLF",
            b"Name: bare\rCR",
            b"Name: del\x7f",
        ],
    )
    def test_malformed(self, line: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            head(line)

    @pytest.mark.parametrize(
        "line",
        [
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers",
            b"Trailer: X-Sum",
            b"Transfer_Encoding: chunked",
        ],
    )
    def test_of_the_connection_alone_are_dropped(self, line: bytes) -> None:
        assert head(line, b"X: y").lines == [b"X: y"]

    def test_that_connection_names_are_dropped(self) -> None:
        found = head(b"X-A: 1", b"Connection: x-a, X-B", b"x-b: 2", b"X-C: 3", b"X-A: 4")
        assert found.lines == [b"X-C: 3"]

    def test_that_frame_cannot_be_named(self) -> None:
        found = head(b"Content-Length: 5", b"Connection: content-length")
        assert (found.length, found.lines) == (5, [b"Content-Length: 5"])

    def test_our_own_kind_is_set_apart(self) -> None:
        found = head(b"X-Proxy-Id: p", b"X: y", b"x-upstream-addr: a")
        assert found.lines == [b"X: y"]
        assert found.info == (b"X-Proxy-Id: p", b"x-upstream-addr: a")

    def test_cookies_pass_and_their_values_are_known(self) -> None:
        lines = [b"Set-Cookie: a=1; Path=/", b"set-cookie:\tb=2 "]
        found = head(*lines)
        assert found.lines == lines
        assert found.set_cookies == (b"a=1; Path=/", b"b=2")

    @pytest.mark.parametrize("value", [b"X-A", b"close, x-a"])
    def test_a_connection_field_comes_at_any_place(self, value: bytes) -> None:
        for lines in ((b"Connection: " + value, b"X-A: 1"), (b"X-A: 1", b"Connection: " + value)):
            assert head(*lines).lines == []


class TestConnection:
    """RFC 9112 section 9.3."""

    @pytest.mark.parametrize(
        ("first", "lines", "keep"),
        [
            (OK, (), True),
            (OK, (b"Connection: close",), False),
            (OK, (b"Connection: CLOSE",), False),
            (OK, (b"Connection: keep-alive",), True),
            (OK, (b"Connection: keep-alive, close",), False),
            (OK, (b"Connection: close", b"Connection: keep-alive"), False),
            (OK, (b"Connection: keep-alive", b"Connection: close"), False),
            (b"HTTP/1.0 200 OK", (), False),
            (b"HTTP/1.0 200 OK", (b"Connection: keep-alive",), True),
            (b"HTTP/1.0 200 OK", (b"Connection: keep-alive, close",), False),
            (b"HTTP/1.0 200 OK", (b"Connection: close", b"Connection: keep-alive"), False),
        ],
    )
    def test_goes_on(self, first: bytes, lines: tuple[bytes, ...], keep: bool) -> None:
        assert head(*lines, first=first).keep_alive is keep

    def test_switches(self) -> None:
        found = head(
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            first=b"HTTP/1.1 101 Switching Protocols",
        )
        assert found.switches
        assert found.upgrade == (b"Upgrade: websocket",)
        assert found.lines == []


# --- others --------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        *("Content-Length", "content-length", "Transfer-Encoding", "Connection", "Set-Cookie"),
        *("X-A", "Server", "Keep-Alive", "Content_Length", "Trailer"),
    ]
) | st.text("aZ-_!#0", min_size=1, max_size=6)
VALUES = (
    st.sampled_from(["chunked", "close", "keep-alive", "x-a", "0", "12", "012", "5, 5", "gzip"])
    | st.text('\t az09,;="\x01\x7fé', max_size=10)
    | st.integers(0, 1 << 65).map(str)
)
LINES = st.lists(
    st.tuples(NAMES, st.sampled_from([": ", ":", " : ", ":\t"]), VALUES).map("".join), max_size=5
)
FIRST = st.sampled_from(
    ["HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 304 ", "HTTP/1.1 500 No", "HTTP/1.1 99 X"]
)


@given(FIRST, LINES)
def test_what_is_accepted_another_reads_alike(first: str, lines: list[str]) -> None:
    """Where the body ends and whether the connection goes on is seen as h11 sees it."""
    text = "\r\n".join((first, *lines))
    try:
        found = ResponseHead(text.encode("latin-1"))
    except UpstreamProtocolError:
        return
    # h11 counts a length up to 20 digits and takes no "HTTP/1.1 304" to be without a body.
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(text.encode("latin-1") + b"\r\n\r\n")
    event = connection.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == found.status
    assert event.reason == found.reason
    values = dict(event.headers)
    if found.length >= 0:
        assert int(values[b"content-length"]) == found.length
        assert b"transfer-encoding" not in values
    elif found.length == CHUNKED:
        assert values[b"transfer-encoding"].lower() == b"chunked"
    else:
        assert not {b"content-length", b"transfer-encoding"} & values.keys()


@given(FIRST, LINES, st.binary(max_size=20))
def test_nothing_passes_that_would_end_a_line(first: str, lines: list[str], odd: bytes) -> None:
    raw = "\r\n".join((first, *lines)).encode("latin-1") + b"\r\nX: " + odd
    assume(b"\r\n" not in odd)
    try:
        found = ResponseHead(raw)
    except UpstreamProtocolError:
        return
    for line in (found.reason, *found.lines, *found.info, *found.upgrade):
        assert not set(line) & {0, 10, 13}
