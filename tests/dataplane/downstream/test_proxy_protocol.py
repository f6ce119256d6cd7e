"""Headers of the PROXY protocol: whatever comes, in whatever pieces."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stickyproxy.base.errors import BadProxyHeader
from stickyproxy.dataplane.downstream.proxy_protocol import (
    MAX_HEADER,
    Ends,
    ProxyHeader,
    proxy_header,
)

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"
    + bytes((192, 0, 2, 7, 198, 51, 100, 1))
    + struct.pack("!HH", 56324, 443)
)
ENDS = Ends("192.0.2.7", "198.51.100.1", 443)


@pytest.mark.parametrize("header", [V1, V2])
def test_it_is_known_once_it_is_whole(header: bytes) -> None:
    for end in range(len(header)):
        assert proxy_header(header[:end]) is None
    for rest in (b"", b"GET / HTTP/1.1\r\n", header):
        assert proxy_header(header + rest) == ProxyHeader(len(header), ENDS)


@given(st.binary(max_size=40), st.integers(0, len(V2)), st.booleans())
@example(b"\xff\xff", 14, True)
def test_any_bytes_give_a_header_an_error_or_a_question(data: bytes, at: int, second: bool) -> None:
    header = V2 if second else V1
    mutated = header[:at] + data + header[at:]
    with suppress(BadProxyHeader):
        found = proxy_header(mutated)
        if found is None:
            assert len(mutated) < MAX_HEADER
        else:
            assert 0 < found.size <= len(mutated)


@given(st.binary(min_size=4, max_size=20))
def test_no_question_is_open_for_ever(data: bytes) -> None:
    long = data * MAX_HEADER
    for start in (b"", b"PROXY ", V2[:12]):
        with suppress(BadProxyHeader):
            assert proxy_header(start + long) is not None
