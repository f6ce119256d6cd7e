"""base/addresses.py: what people write, split and joined."""

from __future__ import annotations

import pytest

from stickyproxy.base.addresses import Address, join_host_port, split_host_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.5:8080", "10.0.0.5", 8080),
        ("[2001:db8::1]:80", "[2001:db8::1]", 80),
        ("[fe80::1%eth0]:80", "[fe80::1%eth0]", 80),
        (":0", "", 0),
        ("app.example:65535", "app.example", 65535),
    ],
)
def test_split(text: str, host: str, port: int) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no port"),
        ("localhost", "has no port"),
        ("[::1]", "has no port"),
        ("::1:80", "is ambiguous"),
        ("localhost:", "has no valid port"),
        ("localhost:65536", "has no valid port"),
        ("localhost:-1", "has no valid port"),
        ("localhost:¹", "has no valid port"),
    ],
)
def test_what_cannot_be_split_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        split_host_port(text)


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [("10.0.0.5", 80, "10.0.0.5:80"), ("::1", 80, "[::1]:80"), ("", 80, ":80")],
)
def test_join(host: str, port: int, text: str) -> None:
    assert join_host_port(host, port) == text


@pytest.mark.parametrize("text", ["10.0.0.5:80", "[2001:db8::1]:80", ":80", "unix:/run/app.sock"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(Address.parse(text)) == text
