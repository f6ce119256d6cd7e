"""semantics/headers.py: what is done with each field, and what a host and a target are."""

from __future__ import annotations

import pytest

from stickyproxy.semantics.headers import (
    REQUEST_KINDS,
    RESPONSE_KINDS,
    RESPONSE_LINES,
    Classifier,
    Kind,
    LineClassifier,
    named_in_connection,
    normalise_host,
    printable,
    seconds,
    split_absolute,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"Accept", Kind.PASS),
        (b"HOST", Kind.HOST),
        (b"connection", Kind.CONNECTION),
        (b"Keep-Alive", Kind.DROP),
        (b"TE", Kind.DROP),
        (b"Proxy", Kind.DROP),
        (b"HTTP2-Settings", Kind.DROP),
        (b"Cookie", Kind.COOKIE),
        (b"X-Forwarded-For", Kind.FORWARDED),
        (b"X_Forwarded-For", Kind.DROP),
        (b"Upgrade", Kind.UPGRADE),
        (b"X-Upstream-Addr", Kind.PASS),
    ],
)
def test_fields_of_requests(name: bytes, kind: int) -> None:
    assert REQUEST_KINDS[name] == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"Server", Kind.PASS),
        (b"SET-COOKIE", Kind.SET_COOKIE),
        (b"Content-Length", Kind.CONTENT_LENGTH),
        (b"X-Upstream-Addr", Kind.INFO),
        (b"X-Forwarded-For", Kind.PASS),
    ],
)
def test_fields_of_responses(name: bytes, kind: int) -> None:
    assert RESPONSE_KINDS[name] == kind
    assert RESPONSE_LINES[name + b": value"] == kind


def test_a_client_that_invents_names_fills_no_memory() -> None:
    kinds = Classifier({b"host": Kind.HOST})
    assert {kinds[b"x-%d" % number] for number in range(5000)} == {Kind.PASS}
    assert len(kinds) <= 1024
    assert kinds[b"hOsT"] == Kind.HOST


def test_an_endpoint_that_invents_lines_fills_no_memory() -> None:
    lines = LineClassifier(Classifier({b"host": Kind.HOST}))
    assert {lines[b"x: %d" % number] for number in range(5000)} == {Kind.PASS}
    assert lines[b"host: " + 1000 * b"x"] == Kind.HOST
    assert len(lines) <= 1024
    assert max(map(len, lines)) <= 128


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (b"close", set()),
        (b"keep-alive, X-Foo", {b"x-foo"}),
        (b"\tX-Foo ,, x-bar", {b"x-foo", b"x-bar"}),
        (b"Host, Content-Length, Transfer-Encoding, Cookie", set()),
    ],
)
def test_fields_named_in_connection(value: bytes, names: set[bytes]) -> None:
    assert named_in_connection(value) == names


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        (b"Shop.Local", b"shop.local"),
        (b"shop.local.:8080", b"shop.local"),
        (b"[2001:DB8::1]:80", b"[2001:db8::1]"),
        (b"", b""),
        (b"shop.local:", b"shop.local"),
        (b"shop.local:123456", None),
        (b"user@shop.local", None),
        (b"shop local", None),
        (b"shop.local\n", None),
    ],
)
def test_hosts(host: bytes, normal: bytes | None) -> None:
    assert normalise_host(host) == normal


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"http://shop.local/x?y", (b"shop.local", b"/x?y")),
        (b"HTTPS://shop.local", (b"shop.local", b"/")),
        (b"http://shop.local?y", (b"shop.local", b"/?y")),
        (b"http://user@shop.local/", None),
        (b"ftp://shop.local/", None),
        (b"/x", None),
    ],
)
def test_targets_in_absolute_form(target: bytes, parts: tuple[bytes, bytes] | None) -> None:
    assert split_absolute(target) == parts


def test_printable() -> None:
    assert printable(b"a\r\n\xff") == r"a\r\n\xff"
    assert printable(b"x" * 300) == "x" * 200 + "..."


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [(0.0, b"0.000"), (0.0049, b"0.004"), (0.9999, b"0.999"), (12.5, b"12.500")],
)
def test_seconds(elapsed: float, text: bytes) -> None:
    assert seconds(elapsed) == text
