"""admin/access.py: who may change something."""

from __future__ import annotations

import pytest

from stickyproxy.admin.access import Access
from stickyproxy.base.addresses import Address

JSON = {"Content-Type": "application/json"}


def status(address: str, token: bytes = b"", **fields: str) -> int | None:
    """Of the refusal; None: there is none."""
    named = {name.replace("_", "-").title(): value for name, value in fields.items()}
    found = Access(Address.parse(address), token).refusal(JSON | named)
    return found and found[0]


class TestWithoutAToken:
    @pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "localhost:1"])
    @pytest.mark.parametrize("host", ["127.0.0.1:1", "[::1]:1", "localhost:1", "localhost"])
    def test_this_machine(self, address: str, host: str) -> None:
        assert status(address, host=host) is None

    def test_a_unix_socket(self) -> None:
        assert status("unix:/run/admin.sock", host="anything") is None

    @pytest.mark.parametrize("address", ["0.0.0.0:1", ":1", "[::]:1", "10.0.0.1:1", "proxy.lan:1"])
    def test_others_come_in(self, address: str) -> None:
        assert status(address, host="127.0.0.1:1") == 403

    @pytest.mark.parametrize("host", ["evil.example:1", "", "localhost.evil.example", "[", "1.2.3"])
    def test_a_name_that_leads_here(self, host: str) -> None:
        assert status("127.0.0.1:1", host=host) == 403

    def test_there_is_no_listener(self) -> None:
        assert Access(None).refusal(JSON | {"Host": "127.0.0.1"}) is not None


class TestWithAToken:
    @pytest.mark.parametrize("address", ["0.0.0.0:1", "127.0.0.1:1", "unix:/run/admin.sock"])
    def test_everywhere(self, address: str) -> None:
        assert status(address, b"abc", host="proxy.lan") == 401
        assert status(address, b"abc", host="proxy.lan", authorization="Bearer abd") == 401
        assert status(address, b"abc", host="proxy.lan", authorization="Bearer ab\udcff") == 401
        assert status(address, b"abc", host="proxy.lan", authorization="Bearer abc") is None


class TestPagesOfOthers:
    @pytest.mark.parametrize(
        "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
    )
    def test_what_needs_no_preflight(self, kind: str) -> None:
        assert status("127.0.0.1:1", host="127.0.0.1:1", content_type=kind) == 415

    def test_json_with_a_parameter(self) -> None:
        kind = "Application/JSON; charset=utf-8"
        assert status("127.0.0.1:1", host="127.0.0.1:1", content_type=kind) is None

    @pytest.mark.parametrize(
        ("origin", "refused"),
        [
            ("http://127.0.0.1:1", None),
            ("http://127.0.0.1:2", 403),
            ("http://127.0.0.1", 403),
            ("https://evil.example", 403),
            ("null", 403),
            ("", 403),
        ],
    )
    def test_origin(self, origin: str, refused: int | None) -> None:
        assert status("127.0.0.1:1", host="127.0.0.1:1", origin=origin) == refused
        host = "127.0.0.1:1"
        shown = "Bearer abc"
        assert status(host, b"abc", host=host, authorization=shown, origin=origin) == refused
