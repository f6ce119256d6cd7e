"""The proxy is replaced while it serves, and no client notices; nor does the last client of a proxy
that has no successor."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest

from tests.swarm import images, stage
from tests.swarm.engine import Swarm, eventually
from tests.swarm.load import Load

SIZE = 20_000_000
UPDATES = 5
NETWORK = "upgrades"

FILES = textwrap.dedent(f"""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Files(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            size = int(self.path.strip("/") or {SIZE})
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(b"x" * size)

    ThreadingHTTPServer(("", 8080), Files).serve_forever()
""")
"""An endpoint that sends as many bytes as the path says."""

SLOW = textwrap.dedent("""
    import socket, sys, time

    host, name, size, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(30)
    sock.connect((host, 80))
    sock.sendall(f"GET /{size} HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n".encode())
    data = sock.recv(4096)
    head, _, body = data.partition(b"\\r\\n\\r\\n")
    print(head.split(b"\\r\\n")[0].decode(), flush=True)
    got = len(body)
    try:
        while got < size and (data := sock.recv(65536)):
            got += len(data)
            time.sleep(len(data) / rate)
        print("got", got, flush=True)
    except OSError as error:
        print("got", got, error, flush=True)
""")
"""A client that takes so many bytes a second, and lets hardly any wait in its own kernel."""


@dataclass
class Download:
    """One under way."""

    swarm: Swarm
    size: int = SIZE
    rate: int = 1_000_000

    def begin(self) -> None:
        """Returns when the head of the response is there."""
        address = self.swarm.manager.address
        client = (sys.executable, "-c", SLOW, address, "files.local", self.size, self.rate)
        self._process = subprocess.Popen(
            self.swarm.as_client(*map(str, client)), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "HTTP/1.1 200 OK\n"

    def result(self) -> str:
        """What has become of it: the number of bytes, and the error if there was one."""
        said, _ = self._process.communicate(timeout=120)
        return said.strip().removeprefix("got ")


@pytest.fixture
def published(deployed: Swarm) -> Swarm:
    """The stack, the demo application, and a service of big files."""
    node = deployed.manager
    # Each new proxy has to join it before it takes over.
    node.docker("network", "create", "-d", "overlay", "--attachable", NETWORK)
    stage.create_demo(
        *(node, "hosts=demo.local", f"port={stage.DEMO_PORT}", "sticky_session_cookie=session"),
        network=NETWORK,
    )
    node.docker(
        *("service", "create", "--detach", "--name", "files", "--network", NETWORK, "--quiet"),
        *("--no-resolve-image", "--no-healthcheck", "--label=com.docker.lb.hosts=files.local"),
        *("--label=com.docker.lb.port=8080", "--entrypoint=python3", images.DEMO_IMAGE),
        *("-c", FILES),
    )
    eventually("every replica listens", lambda: stage.ready(deployed, "demo", 5))
    eventually(
        "sessions are dealt to all of them", lambda: stage.in_rotation(deployed, [node.address], 5)
    )
    eventually(
        "files are served",
        lambda: stage.ask(deployed, node.address, host="files.local", path="/5").body == "xxxxx",
    )
    return deployed


def update(swarm: Swarm, service: str) -> None:
    """Replace its task, and wait until that is done and the old one has gone."""
    node = swarm.manager
    before = set(node.running(service))
    node.docker("service", "update", "--detach", "--force", "--no-resolve-image", service)

    def is_done() -> bool:
        now = set(node.running(service))
        return bool(now) and not now & before and stage.service_settled(node, service, len(before))

    eventually(f"{service} is replaced", is_done, within=90)


def test_no_client_notices_an_upgrade(published: Swarm) -> None:
    """Sessions go on, new connections are accepted, and downloads under way come whole."""
    target = published.manager.address
    downloads = []
    with Load(published, [target]) as load:
        for _ in range(UPDATES):
            downloads.append(Download(published))
            downloads[-1].begin()
            update(published, "stickyproxy_proxy")
        load.watch(2)
    assert [each.result() for each in downloads] == [str(SIZE)] * UPDATES
    stage.told.append(f"{UPDATES} upgrades of the proxy: {load.report}")
    assert not load.report.failures
    assert not load.report.moves
