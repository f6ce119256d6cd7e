"""Storage in the Swarm itself, which every manager has: records are kept as its configs.

Secrets of a Swarm cannot be read back: they would have to be mounted, and every certificate would
take an update of the service. Configs can be read by whoever may ask a manager, so records are
encrypted with a key that follows from a secret (HKDF, RFC 5869; AES-256-GCM). A config cannot be
changed either: each version of a record is a config of its own, and since names are unique in a
Swarm, the next version can be made once only.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import SwarmSettings
from stickyproxy.providers.acme.storage import Stored
from stickyproxy.providers.engine.client import ERRORS, ConfigsOfSwarm, explained

LABEL = "stickyproxy.acme"
"""Of our configs; its value says whose they are."""
_PREFIX = "stickyproxy-acme"
_NONCE = 12


class SwarmStore:
    """Encrypted configs, for all managers of a Swarm."""

    shared = True

    def __init__(self, settings: SwarmSettings, secret: bytes) -> None:
        """``secret``: all who are to share the records have the same."""
        self._settings = settings
        cluster = (settings.service_cluster or "").encode()
        self._cipher = AESGCM(_derived(secret, b"records", cluster))
        self._owner = _derived(secret, b"owner", cluster).hex()[:8]
        """Who has another secret, or another cluster, has other records."""
        self._configs: ConfigsOfSwarm | None = None
        self._name = re.compile(rf"{_PREFIX}-{self._owner}-([a-z0-9-]{{1,32}})\.v([0-9]{{1,9}})")

    def read(self) -> Mapping[str, Stored]:
        """The latest version of each record. One that cannot be decrypted is not ours."""
        with self._explained():
            found: dict[str, Stored] = {}
            for name, (number, config) in self._latest().items():
                with suppress(InvalidTag, ValueError):
                    sealed = base64.b64decode(config["Spec"]["Data"])
                    found[name] = Stored(self._opened(name, number, sealed), str(number))
            return found

    def write(self, name: str, data: bytes, version: str) -> str:
        """Make the next version of a record; see ``Store``."""
        number = int(version or "0") + 1
        with self._explained():
            sealed = self._sealed(name, number, data)
            made = self._swarm().create(self._full_name(name, number), sealed, self._label())
            if not made:
                return ""  # somebody else has made it
            versions = self._versions(name)
            if max(versions) > number:
                # What we knew was so old that its successor is gone already.
                self._swarm().remove(versions[number])
                return ""
            for older in sorted(versions.keys() - {number}):
                self._swarm().remove(versions[older])
            return str(number)

    def remove(self, name: str) -> None:
        """Remove a record."""
        with self._explained():
            for config in self._versions(name).values():
                self._swarm().remove(config)

    def close(self) -> None:
        """Close the connections."""
        configs, self._configs = self._configs, None
        if configs is not None:
            configs.close()

    def _latest(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """(version, config) of each record."""
        latest: dict[str, tuple[int, dict[str, Any]]] = {}
        for config in self._swarm().list(self._label()):
            if match := self._name.fullmatch(config["Spec"]["Name"]):
                name, number = match[1], int(match[2])
                if name not in latest or number > latest[name][0]:
                    latest[name] = number, config
        return latest

    def _versions(self, name: str) -> dict[int, str]:
        """Ids of the configs of a record, by version."""
        found = {}
        for config in self._swarm().list(self._label()):
            match = self._name.fullmatch(config["Spec"]["Name"])
            if match is not None and match[1] == name:
                found[int(match[2])] = str(config["ID"])
        return found

    def _full_name(self, name: str, number: int) -> str:
        return f"{_PREFIX}-{self._owner}-{name}.v{number}"

    def _label(self) -> dict[str, str]:
        return {LABEL: self._owner}

    def _sealed(self, name: str, number: int, data: bytes) -> bytes:
        """Encrypted, and bound to its name and version."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, data, self._full_name(name, number).encode())

    def _opened(self, name: str, number: int, sealed: bytes) -> bytes:
        """The inverse. Raises InvalidTag, ValueError."""
        nonce, rest = sealed[:_NONCE], sealed[_NONCE:]
        return self._cipher.decrypt(nonce, rest, self._full_name(name, number).encode())

    def _swarm(self) -> ConfigsOfSwarm:
        if self._configs is None:
            self._configs = ConfigsOfSwarm(self._settings)
        return self._configs

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            self.close()
            raise ProviderError(explained(self._settings.endpoint, error)) from error


def _derived(secret: bytes, *purpose: bytes) -> bytes:
    """A key of 32 bytes, for one purpose."""
    info = b"\0".join((b"stickyproxy acme storage 1", *purpose))
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(secret)
