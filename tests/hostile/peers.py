"""nginx and HAProxy as readers: what reached our endpoint is sent through them to another one.

They may refuse a request that others take, but must not find one that is not there: what arrives
behind them is, in order, a part of what was read here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.hostile.arena import Arena, Fault
from tests.hostile.differ import Read
from tests.hostile.proxy import free_port, wait_for

NGINX = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    client_body_buffer_size 2m;
    large_client_header_buffers 8 64k;
    keepalive_requests 100000;
    lingering_close off;
    server {{
        listen 127.0.0.1:{port};
        underscores_in_headers on;
        location / {{
            proxy_pass http://127.0.0.1:{endpoint};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 256
    tune.bufsize 131072
    tune.http.maxhdr 512
defaults
    mode http
    timeout connect 3s
    timeout client 20s
    timeout server 20s
    http-reuse never
frontend in
    bind 127.0.0.1:{port}
    default_backend out
backend out
    server one 127.0.0.1:{endpoint}
"""


class Peer:
    """One of them, running; a context manager."""

    def __init__(self, name: str, binary: str, directory: Path) -> None:
        self.name = name
        self._arena = Arena()
        self._arena.proxy_port = free_port()
        self._log = directory / "output.log"
        self._log.touch()
        config = directory / "config"
        text = NGINX if name == "nginx" else HAPROXY
        values = {"port": self._arena.proxy_port, "endpoint": self._arena.endpoint_port}
        config.write_text(text.format(directory=directory, **values))
        command = (
            [binary, "-c", str(config), "-e", f"{directory}/error.log"]
            if name == "nginx"
            else [binary, "-db", "-f", str(config)]
        )
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def __enter__(self) -> Peer:
        wait_for(self._process, self._arena.proxy_port, self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._arena.close()

    def check(self, stream: bytes, expected: Sequence[Read]) -> None:
        """Raises Fault if requests arrive behind it that were not read here."""
        arrived = self._arena.replay(stream)
        left = iter(expected)
        for request in arrived:
            key = (request.method, request.target, request.body, request.values("host"))
            if not any(_key(read) == key for read in left):
                raise Fault(f"{self.name} reads {key!r} in {stream!r}, we read {expected!r}")


def _key(read: Read) -> tuple[bytes, bytes, bytes, list[bytes]]:
    hosts = [value for name, value in read.fields if name == b"host"]
    return (read.start[0], read.start[1], read.body, hosts)


def installed() -> list[tuple[str, str]]:
    """Name and binary of those that are here."""
    path = "/usr/sbin:/usr/local/sbin"
    names = ("nginx", "haproxy")
    found = [(name, shutil.which(name) or shutil.which(name, path=path)) for name in names]
    return [(name, binary) for name, binary in found if binary is not None]
