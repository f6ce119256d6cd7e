"""Who a client says it is, by name and password (RFC 7617).

A hash of a password is meant to be expensive. So what was right once is known again by a keyed
digest, in a cache that is bounded and that only what is right gets into; and what is not known is
hashed outside of the event loop.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode
from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b

from stickyproxy.base.passwords import PasswordHash

_REMEMBERED = 1024
_LONGEST = 1024
"""Bytes of a field that are taken for credentials."""


class BasicAuth:
    """The users of a service."""

    def __init__(self, users: tuple[tuple[str, str], ...]) -> None:
        """``users``: (name, hash)."""
        self._users = {name.encode(): PasswordHash.parse(written) for name, written in users}
        self._nobody = next(iter(self._users.values()))
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()

    def knows(self, credentials: bytes) -> bool:
        """Whether these, the value of an Authorization field, were found to be right."""
        digest = self._digest(credentials)
        if digest not in self._right:
            return False
        self._right.move_to_end(digest)
        return True

    def check(self, credentials: bytes) -> bool:
        """Whether these are right. Expensive, and as expensive if there is no such user; may be
        called in any thread."""
        scheme, _, encoded = credentials.partition(b" ")
        if scheme.lower() != b"basic" or len(encoded) > _LONGEST:
            return False
        try:
            name, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
        except binascii.Error:
            return False
        if not colon:
            return False
        user = self._users.get(name)
        return (user or self._nobody).matches(password) and user is not None

    def remember(self, credentials: bytes) -> None:
        """They are right."""
        self._right[self._digest(credentials)] = None
        if len(self._right) > _REMEMBERED:
            self._right.popitem(last=False)

    def _digest(self, credentials: bytes) -> bytes:
        return blake2b(credentials, key=self._key, digest_size=16).digest()

    def __repr__(self) -> str:
        return f"<BasicAuth of {len(self._users)} users>"


@lru_cache(maxsize=1024)
def basic_auth(users: tuple[tuple[str, str], ...]) -> BasicAuth:
    """The same for the same users, so that what is remembered outlives a table."""
    return BasicAuth(users)
