"""control/effective.py: the configuration without its secrets."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from stickyproxy.base.passwords import PasswordHash
from stickyproxy.config import settings
from stickyproxy.config.load import parse
from stickyproxy.control import effective
from stickyproxy.model import edits, health, listener, service, target, terms, timeouts, tls
from stickyproxy.model import settings as of_proxy
from tests.certificates import make_certificate

SECRET = "S3CRET-S3CRET-S3CRET"


def shown(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("".join(effective.pieces(parse(text))))
    return found


def test_defaults_are_told() -> None:
    found = shown("")
    assert found["listeners"][0]["address"] == "0.0.0.0:80"
    assert found["proxy"]["connect_timeout"] == 3.0
    assert found["admin"] is None
    assert found["services"] == []
    assert "providers.swarm" in found


def test_what_takes_a_restart_is_as_it_was() -> None:
    started = parse('[proxy]\nmax_headers = 100\n[admin]\naddress = "127.0.0.1:1"\n')
    now = parse('[proxy]\nmax_headers = 200\n[[services]]\nname = "demo"\nhosts = ["demo.local"]\n')
    found = json.loads("".join(effective.pieces(effective.in_force(started, now))))
    assert found["proxy"]["max_headers"] == 100
    assert found["admin"]["address"] == "127.0.0.1:1"
    assert [each["name"] for each in found["services"]] == ["demo"]


def test_a_service_has_the_options_of_its_policy() -> None:
    [row] = shown(
        """
        [[services]]
        name = "demo"
        hosts = ["demo.local"]
        sticky_session_cookie = "session"
        endpoints = ["127.0.0.1:1", "127.0.0.1:2"]
        """
    )["services"]
    assert row["policy"] == {"sticky_session_cookie": "session"}
    assert row["endpoints"] == ["127.0.0.1:1", "127.0.0.1:2"]


def test_no_secret_is_told(tmp_path: Path) -> None:
    made = make_certificate(["10.0.0.1"])
    (tmp_path / "cert.pem").write_text(made.chain)
    (tmp_path / "key.pem").write_text(made.key)
    hashed = str(PasswordHash.make(b"password", 10))
    text = f"""
        [proxy]
        secret = "{SECRET}"
        [admin]
        address = "127.0.0.1:1"
        change_token = "{SECRET}1"
        read_token = "{SECRET}2"
        [controller]
        address = "127.0.0.1:2"
        token = "{SECRET}3"
        [providers.controller]
        url = "https://127.0.0.1:2"
        token = "{SECRET}4"
        [[services]]
        name = "demo"
        hosts = ["demo.local"]
        endpoints = ["10.0.0.1:1"]
        request_headers_set = ["Authorization: {SECRET}"]
        basic_auth = ["alice:{hashed}"]
        [services.tls]
        ca = "{tmp_path}/cert.pem"
        cert = "{tmp_path}/cert.pem"
        key = "{tmp_path}/key.pem"
        """
    text = "".join(effective.pieces(parse(text)))
    assert SECRET not in text
    assert "PRIVATE" not in text
    assert made.key[40:80] not in text
    found = json.loads(text)
    assert found["proxy"]["pin_secret"] == "***"
    assert (found["admin"]["read_token"], found["admin"]["change_token"]) == ("***", "***")
    [row] = found["services"]
    assert row["tls"]["key"] == "***"
    assert row["terms"]["users"] == [["alice", "***"]]
    assert row["edits"]["request_set"] == [["Authorization", "***"]]
    assert hashed not in text


MODULES = (settings, of_proxy, edits, health, listener, service, target, terms, timeouts, tls)
HARMLESS = {
    *("tls_key", "key", "secret_file", "eab_key_id", "key_type"),
}
"""Names of files, and so on."""


@pytest.mark.parametrize("module", MODULES, ids=lambda each: each.__name__)
def test_whatever_sounds_like_a_secret_is_kept_out_of_the_repr(module: Any) -> None:
    for kind in vars(module).values():
        if not (isinstance(kind, type) and is_dataclass(kind)):
            continue
        for each in fields(kind):
            words = ("token", "secret", "password", "users", "key")
            if any(word in each.name for word in words) and each.name not in HARMLESS:
                assert not each.repr, f"{kind.__name__}.{each.name}"
