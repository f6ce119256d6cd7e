"""The container's health check: what runs in it responds, and a proxy has heard of its services.
Exit status 0 if so.

    python3 -ES healthcheck.py [COMMAND ...]

It reads the configuration that COMMAND names, by default that of the container's first process,
and asks a controller, or a proxy's admin page, over HTTP. A proxy without an admin page is asked on
its first listener, in a protocol that is not HTTP: it refuses that by itself, whatever is
published (and logs it). Only 503 says that something is wrong: a proxy that knows no services yet
must not take the place of one that does. STICKYPROXY_HEALTH=host:port names another place to ask,
under /healthz.
Only the standard library, and started with ``-ES``: it runs every few seconds.
"""

import os
import socket
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT = 2.0
ENOUGH = 4096
"""Bytes of a response."""
CONFIG = "/etc/stickyproxy/config.toml"
ADMIN = "127.0.0.1:8081"
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
READYZ = HEALTHZ.replace(b"/healthz", b"/readyz")
REFUSED = b"GET /healthz RTSP/1.0\r\n\r\n"
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def main(command: Sequence[str]) -> int:
    """Any HTTP response will do, but for 503."""
    try:
        address, request = place(command or of_first_process())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        # What runs has read a good configuration, and goes on with that.
        sys.stderr.write(f"not checked, because there is no configuration: {error!r}\n")
        return 0
    try:
        with connect(address) as sock:
            sock.sendall(request)
            response = received(sock)
            if not response:
                raise ConnectionError("it closes the connection without a response")
            head, _, body = response.partition("\r\n\r\n")
            if head.split(" ")[1:2] == ["503"]:
                raise ConnectionError(body.strip())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{address}: {error}\n")
        return 1
    return 0


def of_first_process() -> list[str]:
    """Its command line."""
    return Path("/proc/1/cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")


def place(command: Sequence[str]) -> tuple[str, bytes]:
    """The address to ask, and what."""
    if named := os.environ.get("STICKYPROXY_HEALTH"):
        return named, HEALTHZ
    config = tomllib.loads(Path(config_file(command)).read_text("utf-8-sig"))
    if "controller" in command:
        return config["controller"]["address"], HEALTHZ
    if "admin" in config:
        return config["admin"].get("address", ADMIN), READYZ
    if config.get("proxy", {}).get("keeper"):
        raise ValueError("the listeners are the keeper's; configure [admin]")
    listeners: list[dict[str, Any]] = config.get("listeners") or [{"address": ":80"}]
    return listeners[0]["address"], REFUSED


def received(sock: socket.socket) -> str:
    """The response, or as much of it as matters: no other follows on its connection."""
    data = b""
    while len(data) < ENOUGH and (more := sock.recv(ENOUGH)):
        data += more
    return data.decode("ascii", "backslashreplace")


def config_file(command: Sequence[str]) -> str:
    """What a command names by ``--config FILE`` or ``--config=FILE``."""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == "--config":
            return following
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return CONFIG


def connect(address: str) -> socket.socket:
    """A connection to ``host:port`` or ``unix:/path``."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect(address.removeprefix("unix:").removeprefix("//"))
        return sock
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return socket.create_connection((EVERYWHERE.get(host, host), int(port)), TIMEOUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
