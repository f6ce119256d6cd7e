"""stickyproxy hash-password."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stickyproxy.base.passwords import PasswordHash


def run(name: str, typed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stickyproxy", "hash-password", name]
    return subprocess.run(
        command, input=typed, capture_output=True, text=True, timeout=60, check=False
    )


def test_it_prints_a_user() -> None:
    name, _, written = run("anne", "sesame: open\n").stdout.strip().partition(":")
    assert name == "anne"
    assert PasswordHash.parse(written).matches(b"sesame: open")


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [("a:b", "sesame", "is no name"), ("", "sesame", "is no name"), ("anne", "\n", "is empty")],
)
def test_what_is_no_user(name: str, typed: str, said: str) -> None:
    ended = run(name, typed)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert said in ended.stderr
