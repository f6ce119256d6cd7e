"""Hashes of passwords: scrypt (RFC 7914), written in the PHC string format."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

_WRITTEN = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9])"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{43,86})"
)
_MOST_MEMORY = 64 << 20  # bytes
_SALT = 16
_DIGEST = 32


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """What is known of a password."""

    log_n: int
    """Two to this is the cost; with the block size it says how much memory is needed."""
    block: int
    parallel: int
    salt: bytes
    digest: bytes = field(repr=False)

    @classmethod
    def parse(cls, written: str) -> PasswordHash:
        """Raises ValueError, which does not show it."""
        found = _WRITTEN.fullmatch(written)
        if found is None:
            raise ValueError("is no hash of scrypt: make one with stickyproxy hash-password")
        log_n, block, parallel = int(found[1]), int(found[2]), int(found[3])
        memory = 128 * block << min(log_n, 40)
        if not (log_n >= 10 and block and 1 <= parallel <= 4 and memory <= _MOST_MEMORY):
            raise ValueError(
                "costs too little or too much: make one with stickyproxy hash-password"
            )
        return cls(log_n, block, parallel, _decoded(found[4]), _decoded(found[5]))

    @classmethod
    def make(cls, password: bytes, log_n: int = 14) -> PasswordHash:
        """With a salt of its own; checking it takes 16 MiB and a twentieth of a second."""
        empty = cls(log_n, 8, 1, os.urandom(_SALT), bytes(_DIGEST))
        return cls(log_n, 8, 1, empty.salt, empty.hash(password))

    def hash(self, password: bytes) -> bytes:
        """The digest of a password in the same way. Lets other threads run."""
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=1 << self.log_n,
            r=self.block,
            p=self.parallel,
            maxmem=2 * _MOST_MEMORY,
            dklen=len(self.digest),
        )

    def matches(self, password: bytes) -> bool:
        """Takes as long whether it does or not."""
        return hmac.compare_digest(self.hash(password), self.digest)

    def __str__(self) -> str:
        salt, digest = (b64encode(each).decode().rstrip("=") for each in (self.salt, self.digest))
        return f"$scrypt$ln={self.log_n},r={self.block},p={self.parallel}${salt}${digest}"


def _decoded(text: str) -> bytes:
    """Raises ValueError."""
    return b64decode(text + "=" * (-len(text) % 4), validate=True)
