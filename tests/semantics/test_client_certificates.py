"""What endpoints are told of a client's certificate."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.semantics.client_certificates import certificate_lines, distinguished_name


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ((), ""),
        (((("countryName", "DE"),), (("commonName", "jane"),)), "CN=jane,C=DE"),
        (((("commonName", "a"), ("userId", "b")),), "CN=a+UID=b"),
        (((("commonName", 'a,b+c"d\\e<f>g;h=i'),),), 'CN=a\\,b\\+c\\"d\\\\e\\<f\\>g\\;h\\=i'),
        (((("commonName", "#1 "),),), "CN=\\#1\\ "),
        (((("commonName", "a#b c"),),), "CN=a#b c"),
        (((("commonName", "Zoë\r\nX: y"),),), "CN=Zo\\C3\\AB\\0D\\0AX: y"),
        (((("emailAddress", "a@b.example"),),), "emailAddress=a@b.example"),
    ],
)
def test_subjects(subject: tuple[tuple[tuple[str, str], ...], ...], name: str) -> None:
    assert distinguished_name(subject) == name


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_any_name_can_be_read_again_and_ends_no_line(text: str) -> None:
    written = distinguished_name(((("commonName", text),),))
    assert written.isascii()
    assert written.isprintable()
    read = x509.Name.from_rfc4514_string(written)
    assert [each.value for each in read] == [text]


def test_lines() -> None:
    assert certificate_lines(b"\0\1", ()) == (
        b"Client-Cert: :AAE=:\r\n"
        b"X-Client-Cert-Subject: \r\n"
        b"X-Client-Cert-Fingerprint: "
        b"b413f47d13ee2fe6c845b2ee141af81de858df4ec549a58b7970bb96645bc8d2\r\n"
    )
