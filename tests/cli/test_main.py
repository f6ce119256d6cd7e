"""The program as a user has it: ``python -m stickyproxy`` in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from stickyproxy.cli import main as cli
from tests.certificates import client_context, make_ca, make_certificate, write_pem
from tests.conftest import MakeClient, MakeEndpoint
from tests.scripted import EndpointConnection, RawClient, Response, get, ok

TIMEOUT = 20.0
"""Seconds that any wait may take; far more than any of them needs."""

# --- programs ------------------------------------------------------------------------------------


class Output:
    """What a program writes to one of its pipes, read as it comes."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self.text = ""
        self._searched = 0
        self._news = asyncio.Event()
        self.reading = asyncio.create_task(self._read(stream), name="output of a program")

    async def says(self, pattern: str, *, anywhere: bool = False) -> re.Match[str]:
        """Wait for the pattern; the next call searches behind what was found. ``anywhere``: it may
        also be before that."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while True:
                    start = 0 if anywhere else self._searched
                    match = re.compile(pattern, re.MULTILINE).search(self.text, start)
                    if match is not None:
                        self._searched = max(self._searched, match.end())
                        return match
                    assert not self.reading.done(), f"{pattern!r} is not in {self.text!r}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited in vain for {pattern!r} in {self.text!r}") from None

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65536):
            self.text += data.decode()
            self._news.set()
        self._news.set()


class Program:
    """A running ``stickyproxy``."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.out = Output(process.stdout)
        self.err = Output(process.stderr)
        self.process = process

    async def type(self, line: str) -> None:
        """What its user types, with a return."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; returns the exit status, or minus the signal that killed it."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self.process.wait()
                await asyncio.gather(self.out.reading, self.err.reading)
        except TimeoutError:
            raise AssertionError(f"it does not end; it said {self.err.text!r}") from None
        assert self.process.returncode is not None
        return self.process.returncode

    async def stop(self) -> None:
        """End it as an administrator would; it must end well."""
        self.signal(signal.SIGTERM)
        assert await self.ended() == 0, self.err.text

    async def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()

    async def listening(self) -> int:
        """The port that ``serve`` says it listens on."""
        match = await self.err.says(r" on (?:127\.0\.0\.1|\[::1\]):(\d+)$")
        return int(match[1])


class StartProgram(Protocol):
    """What the fixture ``start`` is."""

    async def __call__(
        self, *arguments: str | Path, environ: Mapping[str, str] | None = None
    ) -> Program:
        """``stickyproxy`` with these arguments; ``environ`` is added to the environment."""


@asynccontextmanager
async def programs() -> AsyncIterator[StartProgram]:
    """Starts programs; what is left of them at the end is killed."""
    started: list[Program] = []

    async def start(*arguments: str | Path, environ: Mapping[str, str] | None = None) -> Program:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stickyproxy",
            *map(str, arguments),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, **(environ or {})},
        )
        started.append(Program(process))
        return started[-1]

    try:
        yield start
    finally:
        for program in started:
            await program.kill()


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


def service(name: str, endpoints: Iterable[str], *keys: str) -> str:
    """A ``[[services]]`` table on the host ``<name>.local``; ``keys`` are further lines."""
    listed = ", ".join(f'"{address}"' for address in endpoints)
    return "\n".join(
        (
            "[[services]]",
            f'name = "{name}"',
            f'hosts = ["{name}.local"]',
            f"endpoints = [{listed}]",
            *keys,
            "",
        )
    )


def document(
    *services: str,
    listener: str = "127.0.0.1:0",
    proxy: Iterable[str] = (),
    access_log: Iterable[str] = ('format = "off"',),
    workers: int = 1,
) -> str:
    """A configuration file; ``proxy`` and ``access_log`` are lines of these tables. One worker,
    because each has turns of its own, and tests count them; for more see test_supervisor."""
    return "\n".join(
        (
            "[[listeners]]",
            f'address = "{listener}"',
            "[proxy]",
            f"workers = {workers}",
            "probe_new_endpoints = false",  # which would be one more connection
            *proxy,
            "[access_log]",
            *access_log,
            *services,
        )
    )


async def refused(port: int) -> None:
    """Wait until nobody listens there any more."""
    with contextlib.suppress(ConnectionRefusedError):
        async with asyncio.timeout(TIMEOUT):
            while True:
                # A connection that nobody had accepted when the listener closed is reset.
                with contextlib.suppress(ConnectionResetError):
                    async with await RawClient.connect(port) as user:
                        await user.eof()


async def asked(port: int, data: bytes) -> Response:
    """The answer to this request on a connection of its own."""
    async with await RawClient.connect(port) as user:
        await user.send(data)
        return await user.response()


# --- what needs no server ------------------------------------------------------------------------


class TestVersion:
    async def test_is_what_interlock_showed(self, start: StartProgram) -> None:
        program = await start("--version", environ={"STICKYPROXY_COMMIT": "f1f2f3f4f5f6"})
        assert await program.ended() == 0
        assert re.fullmatch(
            r"stickyproxy/\d+\.\d+\.\d+ \(f1f2f3f4\) (linux|darwin)/[a-z0-9_]+\n", program.out.text
        )
        assert program.err.text == ""


class TestUsage:
    """``--help`` and wrong arguments; all of it happens before anything else is done."""

    @pytest.mark.parametrize(
        ("command", "mentions"),
        [
            ("", ["serve", "check", "demo", "demo-app", "config.example.toml", "--version"]),
            ("serve", ["--config FILE", "SIGHUP", "SIGTERM"]),
            ("check", ["--config FILE", "exit status 1"]),
            ("demo", ["--port", "8080", "--replicas", "--policy", "ip_hash", "--no-cookie"]),
            ("demo-app", ["--listen ADDR", ":8080", "--no-cookie", "METADATA"]),
        ],
    )
    def test_help(
        self, command: str, mentions: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main([*command.split(), "--help"])
        assert end.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        assert said.startswith(f"usage: stickyproxy {command}".rstrip())
        for word in mentions:
            assert word in said

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ("", "COMMAND"),
            ("run", "'run'"),
            ("serve", "--config"),
            ("check", "--config"),
            ("demo --port 65536", "'65536' is not a port: write a number from 1 to 65535"),
            ("demo --port http", "'http' is not a port"),
            ("demo --replicas 0", "'0' is not a number from 1 to 100"),
            ("demo --policy sticky", "'sticky'"),
        ],
    )
    def test_wrong_arguments(
        self, arguments: str, says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(arguments.split())
        assert end.value.code == 2
        assert says in capsys.readouterr().err

    async def test_of_the_program(self, start: StartProgram) -> None:
        program = await start("nonsense")
        assert await program.ended() == 2
        assert "invalid choice: 'nonsense'" in program.err.text


class TestCheck:
    async def test_a_good_file(self, start: StartProgram, tmp_path: Path) -> None:
        config = tmp_path / "config.toml"
        config.write_text(
            """
            [[listeners]]
            address = "127.0.0.1:8080"
            [[listeners]]
            address = "unix:/run/stickyproxy.sock"

            [[services]]
            name = "shop"
            hosts = ["shop.example", "*.shop.example"]
            sticky_session_cookie = "session"
            endpoints = ["10.0.0.2:80", "10.0.0.1:80", "[2001:db8::1]:80"]
            redirects = ["old.example,http://shop.example"]

            [[services]]
            name = "api"
            hosts = ["shop.example"]
            context_root = "/api"
            context_root_rewrite = true
            hash_header = "X-User"
            endpoints = ["10.0.0.3:80"]

            [[services]]
            name = "rest"
            default_backend = true
            ip_hash = true
            """
        )
        program = await start("check", "--config", config)
        assert await program.ended() == 0
        assert program.err.text == ""
        assert program.out.text.splitlines() == [
            "listeners: 127.0.0.1:8080, unix:/run/stickyproxy.sock",
            "*.shop.example",
            "  / -> shop, cookie session, else round robin",
            "    10.0.0.1:80",
            "    10.0.0.2:80",
            "    [2001:db8::1]:80",
            "old.example",
            "  / -> 302 http://shop.example",
            "shop.example",
            "  /api (stripped) -> api, hash of header X-User",
            "    10.0.0.3:80",
            "  / -> shop, cookie session, else round robin",
            "    10.0.0.1:80",
            "    10.0.0.2:80",
            "    [2001:db8::1]:80",
            "(any other host)",
            "  / -> rest, ip hash",
            "    (no endpoints)",
        ]

    async def test_what_cannot_have_been_meant(self, start: StartProgram, tmp_path: Path) -> None:
        """A redirect of a host that a service has, and two services on one host."""
        config = tmp_path / "config.toml"
        config.write_text(
            document(
                service("shop", ["10.0.0.1:80"], 'redirects = ["shop.local,https://shop.local"]'),
                service("zoo", ["10.0.0.2:80"]).replace("zoo.local", "shop.local"),
            )
        )
        program = await start("check", "--config", config)
        assert await program.ended() == 0
        assert program.err.text.splitlines() == [
            "warning: service zoo: shares shop.local with service shop: requests go to the "
            "endpoints of both; if that is meant, set share to true on both",
            "warning: service shop: redirects shop.local, where a service is published: it has no "
            "effect",
        ]

    async def test_certificates_that_cannot_be_used(
        self, start: StartProgram, tmp_path: Path
    ) -> None:
        """One of another key, and one that only browsers do not like."""
        shop, other = make_certificate(["shop.local"]), make_certificate([], common_name="b.local")
        for name, text in {
            "shop.pem": shop.chain,
            "other.pem": other.chain,
            "other.key": other.key,
        }.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o600)
        config = tmp_path / "config.toml"
        config.write_text(
            document(service("shop", ["10.0.0.1:80"]))
            + "".join(
                f'[[certificates]]\ncert = "{tmp_path}/{cert}"\nkey = "{tmp_path}/other.key"\n'
                for cert in ("shop.pem", "other.pem")
            )
        )
        program = await start("check", "--config", config)
        assert await program.ended() == 1
        error, warning = program.err.text.splitlines()
        assert error.startswith(
            f"error: certificate {tmp_path}/shop.pem: the key does not fit the certificate: "
        )
        assert warning.startswith(
            f"warning: certificate {tmp_path}/other.pem: names b.local as its common name alone"
        )
        assert "KEY" not in program.out.text + program.err.text

    async def test_what_services_ask_of_tls_in_vain(
        self, start: StartProgram, tmp_path: Path
    ) -> None:
        """No listener speaks it, and nobody orders certificates."""
        config = tmp_path / "config.toml"
        asks = ("ssl_only = true", "acme = true")
        config.write_text(document(service("shop", ["10.0.0.1:80"], *asks)))
        program = await start("check", "--config", config)
        assert await program.ended() == 1
        found = sorted(program.err.text.splitlines())
        assert [line.partition(":")[0] for line in found] == ["error", "warning"]
        assert "asks for a certificate by ACME, and nobody orders one" in found[0]
        assert "no listener speaks TLS" in found[1]

    async def test_names_are_printed_as_they_are(self, start: StartProgram, tmp_path: Path) -> None:
        config = tmp_path / "config.toml"
        config.write_text(
            '[[services]]\nname = "capp"\nhosts = ["c.example"]\nendpoints = ["capp:8080"]\n'
        )
        program = await start("check", "--config", config)
        assert await program.ended() == 0
        assert program.out.text.splitlines()[-2:] == ["  / -> capp, round robin", "    capp:8080"]

    async def test_tls_that_nobody_speaks(self, start: StartProgram, tmp_path: Path) -> None:
        """No matter behind a proxy that is trusted, nor for a controller, which has no listener."""
        config = tmp_path / "config.toml"
        text = """
            [[services]]
            name = "shop"
            hosts = ["shop.example"]
            endpoints = ["10.0.0.1:80"]
            ssl_only = true
            """
        controller = '[controller]\naddress = "127.0.0.1:8082"\ntoken = "some long random text"'
        config.write_text(text)
        program = await start("check", "--config", config)
        assert await program.ended() == 0
        assert program.err.text.startswith("warning: service shop: ssl_only: redirects clients to ")
        for more in ('[proxy]\ntrusted_proxies = ["10.0.0.0/8"]', controller):
            config.write_text(f"{more}\n{text}")
            program = await start("check", "--config", config)
            assert (await program.ended(), program.err.text) == (0, "")

    async def test_every_error_of_a_bad_file(self, start: StartProgram, tmp_path: Path) -> None:
        config = tmp_path / "config.toml"
        config.write_text(
            """
            [[listeners]]
            address = "127.0.0.1"
            [proxy]
            grace_perod = "3s"
            connect_timeout = 3
            [[services]]
            name = "shop"
            hosts = ["shop.example"]
            sticky_sesion_cookie = "session"
            endpoints = ["10.0.0.1:80", "10.0.0.1:80"]
            """
        )
        program = await start("check", "--config", config)
        assert await program.ended() == 1
        assert program.out.text == ""
        errors = program.err.text.splitlines()
        assert all(error.startswith(f"{config}: ") for error in errors), errors
        found = {error.split(": ", 2)[1]: error.split(": ", 2)[2] for error in errors}
        assert len(found) == len(errors)
        assert set(found) == {
            "listeners[0].address",
            "proxy.grace_perod",
            "proxy.connect_timeout",
            "services[0] (shop).sticky_sesion_cookie",
            "services[0] (shop).endpoints[1]",
        }
        assert "grace_period" in found["proxy.grace_perod"]
        assert "sticky_session_cookie" in found["services[0] (shop).sticky_sesion_cookie"]

    @pytest.mark.parametrize("command", ["check", "serve"])
    async def test_no_file(self, start: StartProgram, tmp_path: Path, command: str) -> None:
        config = tmp_path / "config.toml"
        program = await start(command, "--config", config)
        assert await program.ended() == 1
        assert program.err.text == f"{config}: cannot be read: No such file or directory\n"
        assert program.out.text == ""


# --- serve ---------------------------------------------------------------------------------------


class TestTakenPort:
    async def test_is_said_clearly(self, start: StartProgram, tmp_path: Path) -> None:
        config = tmp_path / "config.toml"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            config.write_text(document(listener=address))
            serve = await start("serve", "--config", config)
            port = address.rpartition(":")[2]
            demo = await start("demo", "--replicas", "1", "--port", port, "--admin-port", "0")
            page = await start("demo", "--replicas", "1", "--port", "0", "--admin-port", port)
            demo_app = await start("demo-app", "--listen", address)
            for program in (serve, demo, page, demo_app):
                assert await program.ended() == 1
        remedy = "another program listens there; stop it, or choose another port"
        assert serve.err.text == f"cannot listen on {address}: {remedy}\n"
        assert demo.err.text == (
            f"cannot listen on {address}: {remedy} (stickyproxy demo --port PORT)\n"
        )
        assert page.err.text.startswith(f"cannot listen on {address}: ")
        assert page.err.text.endswith(" (stickyproxy demo --admin-port PORT)\n")
        assert demo_app.err.text == (
            f"cannot listen on {address}: address already in use; "
            "choose another port, or stop what listens there\n"
        )


class TestListeners:
    async def test_ipv6(self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path) -> None:
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::1", 0))
            except OSError:
                pytest.skip("this machine has no IPv6")
        peer = await endpoint()
        config = tmp_path / "config.toml"
        config.write_text(document(service("demo", [peer.address]), listener="[::1]:0"))
        program = await start("serve", "--config", config)
        async with await RawClient.connect(await program.listening(), "::1") as user:
            await user.send(get())
            assert (await user.response()).body == b"hello"
        assert peer.requests[0].header("x-forwarded-for") == b"::1"
        await program.stop()

    async def test_unix_socket(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        peer = await endpoint()
        path, config = tmp_path / "proxy.sock", tmp_path / "config.toml"
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))  # and not unlinked: a stale file
        config.write_text(document(service("demo", [peer.address]), listener=f"unix:{path}"))
        first = await start("serve", "--config", config)
        await first.err.says(f" on unix:{path}$")
        assert await over_unix(path) == b"hello"
        assert peer.requests[0].header("x-forwarded-for") == b"unix:"

        second = await start("serve", "--config", config)
        assert await second.ended() == 1
        assert second.err.text == (
            f"cannot listen on unix:{path}: "
            "another program listens there; stop it, or choose another port\n"
        )
        assert await over_unix(path) == b"hello"
        await first.stop()
        assert not path.exists()

    async def test_unix_socket_that_vanishes(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        peer = await endpoint()
        path, config = tmp_path / "proxy.sock", tmp_path / "config.toml"
        config.write_text(document(service("demo", [peer.address]), listener=f"unix:{path}"))
        program = await start("serve", "--config", config)
        await program.err.says(f" on unix:{path}$")
        assert await over_unix(path) == b"hello"
        path.unlink()
        await program.stop()

    async def test_a_file_is_no_stale_socket(self, start: StartProgram, tmp_path: Path) -> None:
        path, config = tmp_path / "precious", tmp_path / "config.toml"
        path.write_text("data")
        config.write_text(document(listener=f"unix:{path}"))
        program = await start("serve", "--config", config)
        assert await program.ended() == 1
        assert program.err.text.startswith(f"cannot listen on unix:{path}: ")
        assert "Traceback" not in program.err.text
        assert path.read_text() == "data"


async def over_unix(path: Path, target: str = "/") -> bytes:
    """The body of the answer to a GET over that unix socket."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(get(target, Connection="close"))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    return body


class TestController:
    async def test_what_is_not_for_it(self, start: StartProgram, tmp_path: Path) -> None:
        """Is said and does no harm."""
        config = tmp_path / "config.toml"
        config.write_text(
            "[controller]\naddress = '127.0.0.1:0'\ntoken = 'x'\n"
            f"[providers.swarm]\nendpoint = 'unix://{tmp_path}/none.sock'\nproxy_service = 'lb'\n"
            "[providers.controller]\nurl = 'http://127.0.0.1:1'\ntoken = 'x'\n"
            f"[[services]]\nname = 'demo'\nhosts = ['demo.local']\n"
        )
        program = await start("controller", "--config", config)
        await program.err.says("controller on")
        program.signal(signal.SIGHUP)
        await program.err.says("a controller reads its file once")
        await program.stop()
        ignored = re.findall(r"WARNING (\S+) is for proxies", program.err.text)
        assert ignored == ["[[services]]", "[providers.controller]"]
        assert "controller: http://" not in program.err.text, "it follows nobody"


class TestStopping:
    async def test_requests_under_way_are_finished(
        self, start: StartProgram, endpoint: MakeEndpoint, client: MakeClient, tmp_path: Path
    ) -> None:
        may_answer = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            while (request := await conn.request()) is not None:
                if request.target == b"/slow":
                    await may_answer.wait()
                await conn.send(ok(b"hello"))

        peer = await endpoint(script)
        config = tmp_path / "config.toml"
        config.write_text(document(service("demo", [peer.address])))
        program = await start("serve", "--config", config)
        port = await program.listening()
        idle = await client(port)
        await idle.send(get())
        assert (await idle.response()).status == 200
        user = await client(port)
        await user.send(get("/slow"))
        await peer.wait_requests(2)

        program.signal(signal.SIGTERM)
        await refused(port)
        assert await idle.closed() == "eof"
        assert not user.unread()
        may_answer.set()
        response = await user.response()
        assert (response.status, response.body) == (200, b"hello")
        assert response.closes
        assert await user.closed() == "eof"
        assert await program.ended() == 0

    async def test_the_grace_period_ends(
        self, start: StartProgram, endpoint: MakeEndpoint, client: MakeClient, tmp_path: Path
    ) -> None:
        async def never(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.eof()

        peer = await endpoint(never)
        config = tmp_path / "config.toml"
        config.write_text(
            document(service("demo", [peer.address]), proxy=['grace_period = "100ms"'])
        )
        program = await start("serve", "--config", config)
        user = await client(await program.listening())
        await user.send(get())
        await peer.wait_requests(1)
        program.signal(signal.SIGINT)
        await user.closed()
        assert await program.ended() == 0
        assert "1 connections did not finish within 0.1 s and were cut" in program.err.text
        await peer.wait_open(0)

    async def test_a_second_signal_ends_at_once(
        self, start: StartProgram, endpoint: MakeEndpoint, client: MakeClient, tmp_path: Path
    ) -> None:
        async def never(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.eof()

        peer = await endpoint(never)
        config = tmp_path / "config.toml"
        config.write_text(document(service("demo", [peer.address]), proxy=['grace_period = "1h"']))
        program = await start("serve", "--config", config)
        user = await client(await program.listening())
        await user.send(get())
        await peer.wait_requests(1)
        program.signal(signal.SIGTERM)
        await program.err.says("stopping: requests under way get 3600 s")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 1
        await user.closed()


class TestReload:
    """A good file swaps routes and disturbs nobody; a bad one changes nothing."""

    @pytest.mark.parametrize("how", ["signal", "written", "replaced"])
    async def test_the_file_changes(
        self,
        start: StartProgram,
        endpoint: MakeEndpoint,
        client: MakeClient,
        tmp_path: Path,
        how: str,
    ) -> None:
        may_answer = asyncio.Event()

        async def old_script(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await may_answer.wait()
            await conn.send(ok(b"old"))
            await conn.eof()

        async def new_script(conn: EndpointConnection) -> None:
            while await conn.request() is not None:
                await conn.send(ok(b"new"))

        same, old, new = await endpoint(), await endpoint(old_script), await endpoint(new_script)
        config = tmp_path / "config.toml"
        proxy = ['upstream_idle_timeout = "60s"']
        kept = service("kept", [same.address])
        config.write_text(document(kept, service("moved", [old.address]), proxy=proxy))
        program = await start("serve", "--config", config)
        port = await program.listening()

        def change(text: str) -> None:
            if how == "replaced":
                (tmp_path / "next").write_text(text)
                (tmp_path / "next").replace(config)
            else:
                config.write_text(text)
            if how == "signal":
                program.signal(signal.SIGHUP)

        user, waiting = await client(port), await client(port)
        await user.send(get(host="kept.local"))
        assert (await user.response()).body == b"hello"
        await waiting.send(get(host="moved.local"))
        await old.wait_requests(1)

        moved, added = service("moved", [new.address]), service("added", [new.address])
        change(document(kept, moved, added, proxy=proxy))
        await program.err.says("configuration reloaded: 3 services")
        for host, body in (("kept", b"hello"), ("moved", b"new"), ("added", b"new")):
            await user.send(get(host=f"{host}.local"))
            assert (await user.response()).body == body
        may_answer.set()
        assert (await waiting.response()).body == b"old"
        await old.wait_open(0)  # nobody needs its connection any more

        change(document(kept, "[[services]]", 'nmae = "x"', proxy=proxy))
        await program.err.says(
            "the configuration was not reloaded; the last good one stays in force:"
        )
        await program.err.says(re.escape(f"{config}: services[1].nmae: "))
        for host, body in (("kept", b"hello"), ("moved", b"new")):
            await user.send(get(host=f"{host}.local"))
            assert (await user.response()).body == body
        await waiting.send(get(host="added.local"))
        assert (await waiting.response()).body == b"new"

        assert same.connections == 1, "an unchanged service keeps its connections"
        await program.stop()

    async def test_signal_alone(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        """SIGHUP reads the file whether it looks changed or not."""
        peer = await endpoint()
        config = tmp_path / "config.toml"
        config.write_text(document(service("demo", [peer.address])))
        program = await start("serve", "--config", config)
        port = await program.listening()
        assert (await asked(port, get())).status == 200
        program.signal(signal.SIGHUP)
        await program.err.says("configuration reloaded: 1 services")
        config.unlink()
        program.signal(signal.SIGHUP)
        await program.err.says("not reloaded")
        await program.err.says("No such file or directory")
        assert (await asked(port, get())).status == 200
        await program.stop()

    async def test_what_needs_a_restart_is_said(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        peer = await endpoint()
        config = tmp_path / "config.toml"
        config.write_text(document(service("demo", [peer.address])))
        program = await start("serve", "--config", config)
        port = await program.listening()
        assert (await asked(port, get())).status == 200
        config.write_text(
            document(
                service("demo", [peer.address]),
                listener="127.0.0.2:0",
                proxy=["hide_info_headers = true"],
            )
        )
        await program.err.says(r"changes to \[\[listeners\]\], \[proxy\] take effect after")
        response = await asked(port, get())
        assert response.status == 200
        assert response.header("x-proxy-id") is not None
        await program.stop()


# --- the demo ------------------------------------------------------------------------------------

READY = (
    r"^stickyproxy is ready on http://127\.0\.0\.1:(\d+), host demo\.local, policy (\w+), "
    r"(\d+) replicas"
)


def instance(response: Response) -> str:
    """Which replica answered."""
    assert response.status == 200, response
    return str(json.loads(response.body)["instance"])


class TestDemo:
    @pytest.mark.skipif(shutil.which("curl") is None, reason="the demo prints curl commands")
    async def test_the_printed_commands(self, start: StartProgram, tmp_path: Path) -> None:
        program = await start("demo", "--port", "0")
        ready = await program.out.says(READY)
        assert ready.groups()[1:] == ("cookie", "5")
        await program.out.says("Ctrl-C ends it")
        first, twenty, turns = re.findall(r"^  (.*curl .*)$", program.out.text, re.MULTILINE)

        async def typed(command: str) -> tuple[str, str]:
            shell = await asyncio.create_subprocess_exec(
                "sh", "-c", command, cwd=tmp_path, stdout=PIPE, stderr=PIPE
            )
            async with asyncio.timeout(TIMEOUT):
                out, err = await shell.communicate()
            assert shell.returncode == 0, err
            return out.decode(), err.decode()

        def instances(out: str) -> list[str]:
            return re.findall(r'"instance":"(demo-\d)"', out)

        out, err = await typed(first)
        [pinned] = instances(out)
        assert len(re.findall(r"^< x-upstream-addr: 127\.0\.0\.1:\d+\r?$", err, re.MULTILINE)) == 1
        out, _ = await typed(twenty)
        assert instances(out) == [pinned] * 20
        out, _ = await typed(turns)
        assert Counter(instances(out)) == {f"demo-{n}": 2 for n in range(1, 6)}
        program.signal(signal.SIGINT)
        assert await program.ended() == 0, program.err.text

    @pytest.mark.parametrize("policy", ["cookie", "ip_hash", "consistent_hash", "round_robin"])
    async def test_policies(self, start: StartProgram, client: MakeClient, policy: str) -> None:
        program = await start(
            "demo", "--port", "0", "--policy", policy, "--replicas", "3", "--no-cookie"
        )
        ready = await program.out.says(READY)
        assert ready.groups()[1:] == (policy, "3")
        user = await client(int(ready[1]))

        async def ping(cookie: str | None) -> Response:
            await user.send(get("/ping") if cookie is None else get("/ping", Cookie=cookie))
            return await user.response()

        first = await ping(None)
        cookie = (first.header("set-cookie") or b"").decode()
        strangers = [instance(await ping(None)) for _ in range(6)]
        if policy == "cookie":
            assert re.fullmatch("session=[^;]+; Path=/; HttpOnly; SameSite=Lax", cookie)
        elif policy == "consistent_hash":
            assert re.fullmatch('session="[0-9a-f]{16}"; Max-Age=60; HttpOnly', cookie)
        else:
            assert not cookie
        if policy == "ip_hash":
            assert set(strangers) == {instance(first)}
        elif policy != "consistent_hash":
            assert Counter(strangers) == {f"demo-{n}": 2 for n in range(1, 4)}
        if cookie:
            for _ in range(6):
                again = await ping(cookie.partition(";")[0])
                assert instance(again) == instance(first)
                assert again.header("set-cookie") is None
        await program.stop()

    async def test_the_browser_sees_it_too(self, start: StartProgram) -> None:
        """Its Host is the address; and the replicas' own cookie is theirs."""
        program = await start("demo", "--port", "0", "--replicas", "2")
        ready = await program.out.says(READY)
        address = f"127.0.0.1:{ready[1]}"
        page = await asked(int(ready[1]), get("/", host=address))
        assert page.status == 200
        assert page.header("content-type") == b"text/html; charset=utf-8"
        ping = await asked(int(ready[1]), get("/ping", host=address))
        names = [value.partition(b"=")[0] for value in ping.values("set-cookie")]
        assert names == [b"session", b"session_lb"]
        await program.stop()

    async def test_replicas_stop_and_start_as_typed(
        self, start: StartProgram, client: MakeClient
    ) -> None:
        program = await start("demo", "--port", "0", "--replicas", "2", "--policy", "round_robin")
        port = int((await program.out.says(READY))[1])
        user = await client(port)
        answering = set()

        async def answers() -> set[str]:
            for _ in range(4):
                await user.send(get("/ping", "demo.local"))
                answering.add(instance(await user.response()))
            return answering

        assert await answers() == {"demo-1", "demo-2"}
        await program.type("stop 2")
        await program.out.says("^demo-2 is stopped.$")
        answering.clear()
        assert await answers() == {"demo-1"}
        await program.type("stop 2")
        await program.out.says("^demo-2 is not running.$")
        await program.type("  START demo-2 ")
        await program.out.says("^demo-2 is running again.$")
        answering.clear()
        async with asyncio.timeout(TIMEOUT):
            while await answers() != {"demo-1", "demo-2"}:
                pass
        await program.type("start 2")
        await program.out.says("^demo-2 is running.$")
        await program.type("stop 3")
        await program.out.says("^There is no replica 3: they are 1 to 2.$")
        await program.type("freeze")
        await program.out.says("^Type stop 3, or start 3")
        await program.stop()

    async def test_ends_though_somebody_may_type(self, start: StartProgram) -> None:
        program = await start("demo", "--port", "0", "--workers", "2")
        await program.out.says(READY)
        await program.type("half a li")
        await program.stop()


class TestDemoApp:
    async def test_answers(self, start: StartProgram) -> None:
        program = await start(
            "demo-app",
            "--listen",
            "127.0.0.1:0",
            "--instance",
            "seven",
            "--no-cookie",
            environ={"VERSION": "2.0", "METADATA": "blue", "TITLE": "Shop"},
        )
        ready = await program.out.says(
            r"^demo replica seven is ready on http://127\.0\.0\.1:(\d+)$"
        )
        port = int(ready[1])
        response = await asked(port, get("/ping"))
        assert json.loads(response.body) == {
            "instance": "seven",
            "version": "2.0",
            "metadata": "blue",
        }
        assert response.header("set-cookie") is None
        assert b"Shop" in (await asked(port, get("/"))).body
        await program.stop()

    async def test_speaks_tls(self, start: StartProgram, tmp_path: Path) -> None:
        ca = make_ca()
        file = write_pem(make_certificate(["127.0.0.1"], ca), tmp_path)
        files = ("--tls-cert", str(file), "--tls-key", str(file))
        program = await start("demo-app", "--listen", "127.0.0.1:0", *files)
        ready = await program.out.says(r" is ready on https://127\.0\.0\.1:(\d+)$")
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(ready[1]), ssl=client_context(ca)
        )
        writer.write(get("/ping"))
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await program.stop()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--tls-key", "x"], "--tls-key has no meaning without --tls-cert"),
            (["--tls-cert", "/nowhere"], "no certificate can be read from /nowhere: No such file"),
            (["--tls-cert", __file__], f"no certificate can be read from {__file__}: "),
        ],
    )
    async def test_no_certificate(self, start: StartProgram, options: list[str], said: str) -> None:
        program = await start("demo-app", "--listen", "127.0.0.1:0", *options)
        assert await program.ended() == 1
        assert said in program.err.text

    async def test_no_address(self, start: StartProgram) -> None:
        program = await start("demo-app", "--listen", "localhost")
        assert await program.ended() == 1
        assert "write it like 127.0.0.1:9001, [::1]:9001 or :9001" in program.err.text
