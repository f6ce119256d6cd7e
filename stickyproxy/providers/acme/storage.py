"""Where accounts, certificates and failures are kept: as small records, each with a version.

Several processes may use one store. ``write`` is a compare-and-swap: it does nothing if somebody
else has written meanwhile, and so it is what they agree by.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stickyproxy.base.errors import ProviderError
from stickyproxy.base.files import write_whole


@dataclass(frozen=True, slots=True)
class Stored:
    """What was read."""

    data: bytes
    version: str


class Store(Protocol):
    """Records by name: letters, digits and hyphens, at most 32 of them. All methods block, and
    raise ProviderError."""

    shared: bool
    """Whether processes on other machines may use it too."""

    def read(self) -> Mapping[str, Stored]:
        """All of them."""

    def write(self, name: str, data: bytes, version: str) -> str:
        """Replace the record of that version; empty: there is none yet. Returns the new version,
        or nothing if there is another record than that."""

    def remove(self, name: str) -> None:
        """Remove a record."""

    def close(self) -> None:
        """Let go of whatever is open; raises nothing."""


class DirectoryStore:
    """Files in a directory, for the processes of one machine."""

    shared = False

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def read(self) -> Mapping[str, Stored]:
        """All of them."""
        with self._explained():
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = {}
            for path in self._path.glob("*.json"):
                if (record := _read(path)) is not None:
                    found[path.stem] = record
            return found

    def write(self, name: str, data: bytes, version: str) -> str:
        """Replace a record; see ``Store``."""
        path = self._path / f"{name}.json"
        with self._explained(), self._locked():
            before = _read(path)
            if ("" if before is None else before.version) != version:
                return ""
            for leftover in self._path.glob(".*.json.*"):  # nobody else writes just now
                leftover.unlink()
            write_whole(path, data)
            return _version(data)

    def remove(self, name: str) -> None:
        """Remove a record."""
        with self._explained(), self._locked(), suppress(FileNotFoundError):
            (self._path / f"{name}.json").unlink()

    def close(self) -> None:
        """There is nothing open."""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise ProviderError(
                f"{self._path} cannot be used ({reason}): give this user a directory that it may "
                "write to, and name it as storage in [acme]"
            ) from error


def _read(path: Path) -> Stored | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return Stored(data, _version(data))


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
