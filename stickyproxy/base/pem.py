"""PEM texts where Python's ``ssl`` wants files."""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def load_chain(context: ssl.SSLContext, chain: str, key: str) -> None:
    """Have ``context`` show this certificate. Raises ssl.SSLError, and ValueError for a key that is
    encrypted."""
    with _as_file(f"{chain}\n{key}\n") as path:
        context.load_cert_chain(path, password=_ask_nobody)


def _ask_nobody() -> str:
    """OpenSSL would ask for the password on the terminal."""
    raise ValueError("the key is encrypted")


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """The path of a file with this text: in memory alone, where the system has such files."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("stickyproxy")
        try:
            os.write(descriptor, text.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "chain.pem")
            path.write_text(text)
            yield str(path)
