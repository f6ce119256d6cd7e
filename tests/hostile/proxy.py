"""The proxy under attack: a process of its own, so that nothing of it is shared with the attack."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

START_SECONDS = 20.0

CONFIG = """
[[listeners]]
address = "127.0.0.1:{port}"

[proxy]
workers = 1
head_timeout = "30s"
response_timeout = "30s"
upstream_idle_timeout = "60s"
trusted_proxies = ["127.0.0.9"]

[access_log]
format = "off"

[[services]]
name = "hostile"
hosts = ["hostile.test", "*.wild.test"]
default_backend = true
endpoints = ["127.0.0.1:{endpoint}"]
redirects = ["old.test,http://hostile.test"]

[[services]]
name = "sticky"
hosts = ["sticky.test"]
sticky_session_cookie = "session"
endpoints = ["127.0.0.1:{endpoint}"]

[[services]]
name = "rooted"
hosts = ["rooted.test"]
context_root = "/app"
context_root_rewrite = true
endpoints = ["127.0.0.1:{endpoint}"]

[[services]]
name = "empty"
hosts = ["empty.test"]
endpoints = []

[[services]]
name = "plain"
hosts = ["plain.test"]
websocket_endpoints = []
endpoints = ["127.0.0.1:{endpoint}"]
"""

TRUSTED = "127.0.0.9"
"""The address of a client whose forwarding fields are believed."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when the process listens on the port; an AssertionError has what it said."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    said = log.read_text("utf-8", "replace")[-2000:]
    raise AssertionError(f"{process.args!r} does not listen on {port}: {said}")


class Proxy:
    """stickyproxy in front of one endpoint; a context manager."""

    def __init__(
        self, directory: Path, endpoint: int, python: str = sys.executable, *, tls: bool = False
    ) -> None:
        """``tls``: the endpoint speaks it."""
        self.port = free_port()
        self._log = directory / "proxy.log"
        self._log.touch()
        config = directory / "config.toml"
        text = CONFIG.format(port=self.port, endpoint=endpoint)
        if tls:
            text = text.replace("\nendpoints = ", "\nssl_backend = true\nendpoints = ")
        config.write_text(text)
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [python, "-m", "stickyproxy", "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONWARNINGS": "default"},
                cwd=directory,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text("utf-8", "replace")

    def __enter__(self) -> Proxy:
        wait_for(self._process, self.port, self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
