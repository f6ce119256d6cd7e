from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stickyproxy.semantics.cookies import (
    attributes,
    companion_cookie,
    companion_deletion,
    expires_now,
    generated_cookie,
    has_lifetime,
    pin_cookie,
    set_cookie_name,
    values,
    without_pins,
)

NOW = datetime(2024, 5, 17, 12, 0, 0, tzinfo=UTC).timestamp()

# Bytes that mean something to a parser of cookies, in any mixture.
_PIECES = [
    b"session",
    b"session_lb",
    b"sp1.",
    b"sp1.00",
    b'"',
    b"=",
    b";",
    b"; ",
    b" ",
    b"\t",
    b"a",
]
cookie_bytes = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=4)).map(b"".join)


class TestCookieField:
    """RFC 6265 section 4.2.1, read leniently."""

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            (b"", []),
            (b"session=a", [b"a"]),
            (b"other=b; session=a", [b"a"]),
            (b"session=a;session=b", [b"a", b"b"]),
            (b"\tsession =\ta ;", [b"a"]),
            (b"session=", [b""]),
            (b"session=a=b", [b"a=b"]),
            (b'session="a b"', [b'"a b"']),
            (b"session", []),
            (b"Session=a", []),
            (b"session_lb=a", []),
            (b"xsession=a", []),
            (b"x session=a", []),
            (b"x=session=a", []),
            (b"session session=a", []),
            (b"x=session; session=a", [b"a"]),
            (b"session=session; session=b", [b"session", b"b"]),
        ],
    )
    def test_values(self, header: bytes, expected: list[bytes]) -> None:
        assert values(header, b"session") == tuple(expected)

    @given(cookie_bytes, st.sampled_from([b"session", b"a", b"aa", b"session_lb", b""]))
    @example(b"aaa=1", b"aa")
    def test_values_are_those_of_the_plain_algorithm(self, header: bytes, name: bytes) -> None:
        """Split everything; look at every cookie."""
        expected = []
        for cookie in header.split(b";"):
            key, equals, value = cookie.partition(b"=")
            if equals and key.strip(b" \t") == name:
                expected.append(value.strip(b" \t"))
        assert values(header, name) == tuple(expected)


class TestWithoutPins:
    NAMES = frozenset((b"session", b"session_lb"))

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            (b"session=sp1.00", None),
            (b"session=sp1.00; session_lb=sp1.00;", None),
            (b'session="sp1.00"', None),
            (b"session=sp1.00; a=1", b"a=1"),
            (b"a=1; session=sp1.00", b"a=1"),
            (b"a=1; session=sp1.00; b=2", b"a=1; b=2"),
            (b"a=1;session=sp1.00;b=2", b"a=1;b=2"),
            (b"session_lb=sp1.00; session=app", b"session=app"),
            (b"session=sp1.00; session=app; session=sp1.11", b"session=app"),
            (b"session = sp1.forged; a=1", b"a=1"),
            (b" ; session=sp1.00 ; ", None),
        ],
    )
    def test_pins_go(self, header: bytes, expected: bytes | None) -> None:
        assert without_pins(header, self.NAMES) == expected

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"session=app; ;; a=1 ",
            b"other=sp1.00",
            b"session=app; other=sp1.00; ",
            b"session=xsp1.00",
            b"session sp1.00",
            b"sp1.00",
        ],
    )
    def test_none(self, header: bytes) -> None:
        assert without_pins(header, self.NAMES) == header

    @given(cookie_bytes)
    def test_nothing_else_is_lost(self, header: bytes) -> None:
        left = without_pins(header, self.NAMES) or b""
        for name in self.NAMES:
            pins = (b"sp1.", b'"sp1.')
            kept = [value for value in values(header, name) if not value.startswith(pins)]
            assert list(values(left, name)) == kept
        for name in (b"a", b"sp1.", b"sp1.00"):
            assert values(left, name) == values(header, name)


class TestSetCookieField:
    """RFC 6265 section 5.2."""

    @pytest.mark.parametrize(
        ("value", "name"),
        [
            (b"session=abc", b"session"),
            (b" session = abc; Path=/", b"session"),
            (b"session=; Max-Age=0", b"session"),
            (b"session", b""),
            (b"session; a=b", b""),
            (b"=abc", b""),
            (b"", b""),
        ],
    )
    def test_name(self, value: bytes, name: bytes) -> None:
        assert set_cookie_name(value) == name

    @pytest.mark.parametrize(
        ("value", "tail"),
        [
            (b"session=abc", b""),
            (b"session=abc; Path=/; HttpOnly", b"; Path=/; HttpOnly"),
            (b"session=abc;", b";"),
            (b'session="a;b"', b';b"'),
        ],
    )
    def test_attributes_start_at_the_first_semicolon(self, value: bytes, tail: bytes) -> None:
        assert attributes(value) == tail

    @given(st.binary())
    def test_nothing_raises(self, value: bytes) -> None:
        set_cookie_name(value)
        has_lifetime(value)
        expires_now(value, NOW)
        expires_now(b"a=b; Expires=" + value, NOW)
        expires_now(b"a=b; Max-Age=" + value, NOW)
        assert attributes(value) in value


class TestMaxAge:
    """RFC 6265 section 5.2.2, and 5.3: it wins over Expires."""

    @pytest.mark.parametrize(
        "tail",
        [
            b"Max-Age=0",
            b"max-age = -1",
            b"Max-Age=000",
            b"Max-Age=-" + b"9" * 5000,
            b"Max-Age=0; Expires=Fri, 17 May 2030 00:00:00 GMT",
            b"Max-Age=60; Max-Age=0",
        ],
    )
    def test_deletes(self, tail: bytes) -> None:
        assert expires_now(b"session=; Path=/; " + tail, NOW)

    @pytest.mark.parametrize(
        "tail",
        [
            b"Path=/",
            b"Max-Age=60",
            b"Max-Age=" + b"9" * 5000,
            b"Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            b"Max-Age=0; Max-Age=60",
            b"Max-Age",
            b"Max-Age=",
            b"Max-Age=-",
            b"Max-Age=0x0",
            b"X-Max-Age=0",
        ],
    )
    def test_does_not_delete(self, tail: bytes) -> None:
        assert not expires_now(b"session=; Path=/; " + tail, NOW)

    def test_a_malformed_one_is_ignored(self) -> None:
        assert expires_now(b"a=; Max-Age=soon; Expires=Thu, 01 Jan 1970 00:00:00 GMT", NOW)

    @pytest.mark.parametrize("tail", [b"; Max-Age=60", b"; EXPIRES=whenever", b";max-age"])
    def test_lifetime(self, tail: bytes) -> None:
        assert has_lifetime(b"session=abc" + tail)

    @pytest.mark.parametrize("tail", [b"", b"; Path=/", b"; Path=expires", b"=expires"])
    def test_no_lifetime(self, tail: bytes) -> None:
        assert not has_lifetime(b"session=abc" + tail)


class TestCookieDate:
    """RFC 6265 section 5.1.1."""

    @pytest.mark.parametrize(
        "date",
        [
            b"Thu, 01 Jan 1970 00:00:00 GMT",
            b"Thu, 01-Jan-1970 00:00:00 GMT",
            b"Thursday, 01-Jan-70 00:00:00 GMT",
            b"Thu Jan  1 00:00:00 1970",
            b"1 jAnUaRy 1970 0:0:0",
            b"Fri, 17 May 2024 12:00:00 GMT",
            b"Fri, 17 May 24 11:59:59 GMT",
            b"00:00:00 31 12 dec 1601",
            b"Mon, 01 Jan 1990 00:00:00.123 GMT",
        ],
    )
    def test_past(self, date: bytes) -> None:
        assert expires_now(b"session=; Expires=" + date, NOW)

    @pytest.mark.parametrize(
        "date",
        [
            b"Fri, 17 May 2024 12:00:01 GMT",
            b"Fri, 31 Dec 9999 23:59:59 GMT",
            b"Sat, 01 Jan 69 00:00:00 GMT",  # 2069
        ],
    )
    def test_future(self, date: bytes) -> None:
        assert not expires_now(b"session=; Expires=" + date, NOW)

    @pytest.mark.parametrize(
        "date",
        [
            b"",
            b"0",
            b"Thu, 01 Jan 1970",
            b"00:00:00 GMT",
            b"Thu, 01 Foo 1970 00:00:00 GMT",
            b"Thu, 31 Feb 1970 00:00:00 GMT",
            b"Thu, 00 Jan 1970 00:00:00 GMT",
            b"Thu, 01 Jan 1970 24:00:00 GMT",
            b"Thu, 01 Jan 1970 00:60:00 GMT",
            b"Thu, 01 Jan 1970 00:00:000 GMT",
            b"Thu, 01 Jan 1600 00:00:00 GMT",
            b"Thu, 01 Jan 19700 00:00:00 GMT",
        ],
    )
    def test_none_at_all(self, date: bytes) -> None:
        """Then there is no Expires, and the cookie lives on."""
        assert not expires_now(b"session=; Expires=" + date, NOW)


class TestRendering:
    def test_pin(self) -> None:
        cookie = pin_cookie(b"session", b"sp1.00", b"/shop", secure=False)
        assert cookie == b"session=sp1.00; Path=/shop; HttpOnly; SameSite=Lax"

    def test_pin_for_a_tls_client(self) -> None:
        cookie = pin_cookie(b"session", b"sp1.00", b"/", secure=True)
        assert cookie == b"session=sp1.00; Path=/; HttpOnly; SameSite=Lax; Secure"

    def test_pin_under_a_host_prefix(self) -> None:
        """RFC 6265bis section 4.1.3.2: such a cookie has the path / or none of it is kept."""
        cookie = pin_cookie(b"__Host-session", b"sp1.00", b"/shop", secure=True)
        assert b"; Path=/; " in cookie

    @pytest.mark.parametrize(
        ("app", "companion"),
        [
            (b"session=abc", b"session_lb=sp1.00; HttpOnly"),
            (b"session=abc; Path=/; httponly", b"session_lb=sp1.00; Path=/; httponly"),
            (
                b"session=abc;Max-Age=60;Domain=example.com; SameSite=None; Secure",
                b"session_lb=sp1.00;Max-Age=60;Domain=example.com; SameSite=None; Secure; HttpOnly",
            ),
        ],
    )
    def test_companion_has_the_attributes_of_the_apps_cookie(
        self, app: bytes, companion: bytes
    ) -> None:
        assert companion_cookie(b"session_lb", b"sp1.00", app) == companion

    def test_companion_deletion(self) -> None:
        deletion = companion_deletion(b"session_lb", b"session=; Max-Age=0; Path=/a")
        assert deletion == b"session_lb=; Max-Age=0; Path=/a"

    @pytest.mark.parametrize(
        ("ttl", "path", "cookie"),
        [
            (3600.0, b"/app", b'user="00ff"; Max-Age=3600; Path=/app; HttpOnly'),
            (0, b"/", b'user="00ff"; Path=/; HttpOnly'),
            (60, None, b'user="00ff"; Max-Age=60; HttpOnly'),
            (0, None, b'user="00ff"; HttpOnly'),
            (0.5, None, b'user="00ff"; Max-Age=1; HttpOnly'),
        ],
    )
    def test_generated(self, ttl: float, path: bytes | None, cookie: bytes) -> None:
        assert generated_cookie(b"user", b"00ff", ttl, path) == cookie
