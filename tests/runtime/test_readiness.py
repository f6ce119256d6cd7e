"""A proxy that does not know its services yet says so: to clients, to orchestrators and to people.

Real processes, told by real sockets.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from stickyproxy.config import codec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from tests.cli.test_main import TIMEOUT, Program, StartProgram, asked, document, programs, service
from tests.conftest import MakeEndpoint
from tests.scripted import get
from tests.test_healthcheck import check

NOBODY = 65534
"""A user that may open nothing."""


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder for everybody; those of pytest are their owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


class Site:
    """A proxy's configuration file and its admin page."""

    def __init__(
        self, folder: Path, provider: str, *, admin: bool = True, workers: int = 1
    ) -> None:
        self.config = folder / "config.toml"
        self.admin = f"unix:{folder}/admin.sock"
        page = f"[admin]\naddress = '{self.admin}'\n" if admin else ""
        self.config.write_text(document(page, provider, workers=workers))

    async def ready(self) -> tuple[int, str]:
        """What the admin page says under /readyz."""
        reader, writer = await asyncio.open_unix_connection(self.admin.removeprefix("unix:"))
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(TIMEOUT):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body.decode()

    async def healthy(self) -> int:
        """The exit status of the image's health check."""
        return (await check("stickyproxy", "serve", f"--config={self.config}"))[0]

    async def services(self, *options: str) -> tuple[int, str]:
        """(exit status, output) of ``stickyproxy services``."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stickyproxy", "services", "--admin", self.admin, *options),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()


async def says_it_is_starting(site: Site, program: Program, provider: str, reason: str) -> int:
    """The proxy listens, and knows nothing; returns its port."""
    port = await program.listening()
    answer = await asked(port, get(host="shop.local"))
    assert answer.status == 503
    assert answer.header("retry-after") == b"1"
    waiting = f"starting: not all services are known yet; waiting for the {provider}\n"
    assert answer.body == waiting.encode()
    status, said = await site.ready()
    assert status == 503
    assert said.startswith("not ready: ")
    assert reason in said
    assert await site.healthy() == 1
    status, said = await site.services()
    assert status == 3
    assert "out of touch" in said
    assert reason in said
    assert await site.services("--quiet") == (3, "")
    return port


def swarm(path: Path) -> str:
    return f"[providers.swarm]\nendpoint = 'unix://{path}'\n"


class TestEngine:
    @pytest.mark.parametrize("workers", [1, 2])
    async def test_that_is_not_there(
        self, start: StartProgram, tmp_path: Path, workers: int
    ) -> None:
        site = Site(tmp_path, swarm(tmp_path / "none.sock"), workers=workers)
        program = await start("serve", "--config", site.config)
        await says_it_is_starting(site, program, "Swarm", "there is no engine at")
        await program.stop()

    async def test_without_a_swarm(self, start: StartProgram, tmp_path: Path) -> None:
        site = Site(tmp_path, f"[providers.docker]\nendpoint = 'unix://{tmp_path}/none.sock'\n")
        program = await start("serve", "--config", site.config)
        await says_it_is_starting(site, program, "Docker engine", "there is no engine at")
        await program.stop()

    async def test_without_an_admin_page(self, start: StartProgram, tmp_path: Path) -> None:
        """The health check has to ask the proxy's own listener."""
        site = Site(tmp_path, swarm(tmp_path / "none.sock"), admin=False)
        program = await start("serve", "--config", site.config)
        port = await program.listening()
        text = site.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}")
        site.config.write_text(text)
        assert await site.healthy() == 1
        await program.stop()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    @pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
    async def test_that_this_user_may_not_use(self, public: Path) -> None:
        path = public / "docker.sock"
        site = Site(public, swarm(path))
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        probe = await asyncio.create_subprocess_exec(*drop, sys.executable, "-c", "import aiohttp")
        if await probe.wait():
            pytest.skip("nobody may not even run the Python that these tests run on")
        with socket.socket(socket.AF_UNIX) as engine:
            engine.bind(str(path))
            engine.listen()
            os.chmod(path, 0o600)
            process = await asyncio.create_subprocess_exec(
                *(*drop, sys.executable, "-m", "stickyproxy", "serve", "--config", site.config),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            program = Program(process)
            try:
                reason = f"may not use the engine at unix://{path}"
                await says_it_is_starting(site, program, "Swarm", reason)
                await program.stop()
            finally:
                await program.kill()


class TestController:
    def follow(self, port: int, cache: Path | None = None) -> str:
        lines = ["[providers.controller]", f"url = 'http://127.0.0.1:{port}'", "token = 'x'"]
        return "\n".join([*lines, *([f"cache_file = '{cache}'"] if cache else [])])

    async def test_without_a_cache(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        """It is ready as soon as the controller responds, and then knows what is unknown."""
        peer = await endpoint()
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            controller = reserved.getsockname()[1]
        site = Site(tmp_path, self.follow(controller))
        program = await start("serve", "--config", site.config)
        port = await says_it_is_starting(site, program, "controller", "cannot connect")
        await self.respond(controller, snapshot(peer.address))
        await program.err.says("it answers again")
        assert await site.ready() == (200, "ready\n")
        assert await site.healthy() == 0
        assert (await asked(port, get(host="shop.local"))).body == b"hello"
        assert (await asked(port, get(host="other.local"))).status == 404
        assert (await site.services())[0] == 0
        await program.stop()
        await self.runner.cleanup()

    async def test_with_a_cache(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        """What was known last is something to serve from; who asks is told that it may be old."""
        peer = await endpoint()
        cache = tmp_path / "cache.json"
        cache.write_bytes(codec.encode(snapshot(peer.address)))
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            controller = reserved.getsockname()[1]
        site = Site(tmp_path, self.follow(controller, cache))
        program = await start("serve", "--config", site.config)
        port = await program.listening()
        await program.err.says("cannot connect", anywhere=True)
        assert (await asked(port, get(host="shop.local"))).body == b"hello"
        assert (await asked(port, get(host="other.local"))).status == 404
        assert (await site.ready())[0] == 200
        assert await site.healthy() == 0
        status, said = await site.services()
        assert status == 3
        assert "(controller): out of touch" in said
        await program.stop()

    async def respond(self, port: int, known: Snapshot) -> None:
        """Be the controller from now on."""

        async def poll(request: web.Request) -> web.Response:
            data = codec.encode(known)
            if request.query["after"] == codec.version(data):
                await asyncio.sleep(float(request.query["wait"]))
                return web.Response(status=304)
            return web.Response(body=data)

        app = web.Application()
        app.router.add_get("/v1/snapshot", poll)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()


def snapshot(address: str, *problems: Problem) -> Snapshot:
    shop = ServiceSpec("shop", ("shop.local",), (EndpointSpec("t1", address),))
    return Snapshot("swarm", (shop,), problems, "realm")


class TestWithoutProviders:
    async def test_what_is_in_the_file_is_all(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        peer = await endpoint()
        site = Site(tmp_path, service("shop", [peer.address]))
        program = await start("serve", "--config", site.config)
        port = await program.listening()
        assert await site.ready() == (200, "ready\n")
        assert (await asked(port, get(host="other.local"))).status == 404
        status, said = await site.services("--json")
        assert status == 0
        assert [row["service"] for row in json.loads(said)] == ["shop"]
        assert await site.services("--quiet") == (0, "")
        await program.stop()
