"""The application of the stopping lab for WSGI servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

SECONDS = float(os.environ.get("SECONDS", "0.05"))
EAGER = "EAGER" in os.environ
"""Begin without having read the body, as an application may."""


def note(path: str) -> None:
    """Remember that a request is being carried out."""
    file = os.open(os.environ["CARRIED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, path.encode() + b"\n")
    os.close(file)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Note the request, take a while, answer."""
    if not EAGER:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    note(environ["PATH_INFO"])
    time.sleep(SECONDS)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
