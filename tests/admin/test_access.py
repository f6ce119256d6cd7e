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


class TestWhatIsLacking:
    """What an operator is told at the start."""

    @pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "unix:/run/admin.sock"])
    def test_nothing_on_this_machine(self, address: str) -> None:
        assert list(Access(Address.parse(address)).lacking()) == []

    def test_both_tokens(self) -> None:
        read, change = Access(Address.parse(":1")).lacking()
        assert "set read_token_file in [admin]" in read
        assert "set change_token_file in [admin]" in change

    def test_the_one_for_changes(self) -> None:
        [change] = Access(Address.parse(":1"), read_token=b"abc").lacking()
        assert "set change_token_file in [admin]" in change

    def test_nothing_as_who_may_change_may_look(self) -> None:
        assert list(Access(Address.parse(":1"), b"abc").lacking()) == []


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


def reading(address: str, change: bytes = b"", read: bytes = b"", **fields: str) -> int | None:
    """Of the refusal to show something of ``/v1/``."""
    named = {name.title(): value for name, value in fields.items()}
    found = Access(Address.parse(address), change, read_token=read).refusal_to_show(named)
    return found and found[0]


class TestReading:
    def test_this_machine(self) -> None:
        assert reading("127.0.0.1:1", host="127.0.0.1:1") is None
        assert reading("127.0.0.1:1", host="evil.example:1") == 403
        assert reading("127.0.0.1:1", b"change", host="localhost:1") is None
        assert reading("unix:/run/admin.sock", host="anything") is None

    @pytest.mark.parametrize("address", ["0.0.0.0:1", "127.0.0.1:1", "unix:/run/admin.sock"])
    def test_with_a_token(self, address: str) -> None:
        for token, status in (("read", None), ("change", None), ("", 401), ("reads", 401)):
            shown = f"Bearer {token}"
            got = reading(address, b"change", b"read", host="127.0.0.1", authorization=shown)
            assert got == status
        assert reading(address, b"change", b"read", host="127.0.0.1") == 401
        assert reading(address, b"", b"read", host="127.0.0.1", authorization="Bearer ") == 401

    def test_others_come_in(self) -> None:
        assert reading("0.0.0.0:1", host="10.0.0.1") == 403
        assert reading("0.0.0.0:1", b"change", host="10.0.0.1") == 401
        shown = "Bearer change"
        assert reading("0.0.0.0:1", b"change", host="10.0.0.1", authorization=shown) is None

    def test_the_token_for_reading_changes_nothing(self) -> None:
        fields = JSON | {"Host": "127.0.0.1", "Authorization": "Bearer read"}
        access = Access(Address.parse("0.0.0.0:1"), b"change", read_token=b"read")
        assert access.refusal_to_ask(fields) is None
        refused = access.refusal(fields)
        assert refused is not None
        assert refused[0] == 401
        refused = Access(Address.parse("0.0.0.0:1"), read_token=b"read").refusal(fields)
        assert refused is not None
        assert refused[0] == 403

    def test_pages_that_were_there_before(self) -> None:
        open_to_all = Access(Address.parse("0.0.0.0:1"))
        assert open_to_all.refusal_to_show_pages({"Host": "proxy.lan"}) is None
        local = Access(Address.parse("127.0.0.1:1"))
        assert local.refusal_to_show_pages({"Host": "localhost:1"}) is None
        assert local.refusal_to_show_pages({"Host": "evil.example"}) is not None
        closed = Access(Address.parse("0.0.0.0:1"), read_token=b"read")
        assert closed.refusal_to_show_pages({"Host": "proxy.lan"}) is not None
        shown = {"Host": "proxy.lan", "Authorization": "Bearer read"}
        assert closed.refusal_to_show_pages(shown) is None
