"""base/passwords.py: what is written of passwords."""

from __future__ import annotations

import hashlib

import pytest

from stickyproxy.base.passwords import PasswordHash


def test_it_is_read_as_it_was_written() -> None:
    made = PasswordHash.make(b"sesame", log_n=10)
    assert PasswordHash.parse(str(made)) == made
    assert made.matches(b"sesame")
    assert not made.matches(b"sesam")
    assert made.salt != PasswordHash.make(b"sesame", log_n=10).salt


def test_it_is_scrypt() -> None:
    """RFC 7914 section 12, second vector, in part."""
    digest = hashlib.scrypt(b"password", salt=b"NaCl", n=1024, r=8, p=16, dklen=32)
    assert digest.hex().startswith("fdbabe1c9d3472007856e7190d01e9fe")
    assert PasswordHash(10, 8, 16, b"NaCl", digest).matches(b"password")


@pytest.mark.parametrize(
    "cost", ["ln=9,r=8,p=1", "ln=20,r=8,p=1", "ln=99,r=99,p=9", "ln=14,r=0,p=1"]
)
def test_what_costs_too_little_or_too_much(cost: str) -> None:
    written = str(PasswordHash.make(b"sesame", log_n=10)).replace("ln=10,r=8,p=1", cost)
    with pytest.raises(ValueError, match="costs too little or too much"):
        PasswordHash.parse(written)


@pytest.mark.parametrize("written", ["", "sesame", "$2y$10$abc", "$scrypt$ln=14,r=8,p=1$a$b"])
def test_what_is_no_hash(written: str) -> None:
    with pytest.raises(ValueError, match="is no hash of scrypt"):
        PasswordHash.parse(written)
