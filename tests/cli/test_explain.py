"""``stickyproxy explain`` and ``stickyproxy simulate``: whom they ask, and what they print."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from stickyproxy.runtime.app import App

JSON = {"Content-Type": "application/json"}

CONFIG = """
[[listeners]]
address = "127.0.0.1:0"
[admin]
address = "unix:{folder}/admin.sock"
[access_log]
format = "off"
[proxy]
workers = 1
probe_new_endpoints = false
[[services]]
name = "demo"
hosts = ["demo.local"]
sticky_session_cookie = "session"
endpoints = ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file."""
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.fixture
def guarded(config: Path) -> Path:
    """One whose admin listener asks for a token, which is in the file ``token`` beside it."""
    (config.parent / "token").write_text("s3cret\n")
    text = config.read_text().replace('admin.sock"', 'admin.sock"\nread_token = "s3cret"')
    config.write_text(text)
    return config


@pytest.fixture
async def running(config: Path) -> AsyncIterator[str]:
    """The path of the admin socket of a proxy that runs by it."""
    app = App.from_file(config)
    await app.start()
    yield str(config.parent / "admin.sock")
    await app.stop(grace=0)


async def run(*arguments: str, said: str = "") -> tuple[int, str, str]:
    """Run a command; returns its exit status, output and messages. ``said``: its input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stickyproxy", *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate(said.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class TestWhomTheyAsk:
    @pytest.mark.parametrize(
        "command",
        [
            ("explain", "demo.local", "--cookie", "session=abc"),
            ("explain", "--curl", "curl https://demo.local/x -b session=abc"),
            ("simulate", "--scale", "demo=4", "--sessions", "96"),  # even, whoever is first
        ],
    )
    async def test_a_proxy_says_what_its_file_says(
        self, running: str, config: Path, command: tuple[str, ...]
    ) -> None:
        asked = (*command, "--config", str(config), "--json")
        by_proxy, by_file = await asyncio.gather(run(*asked), run(*asked, "--offline"))
        assert by_proxy == by_file
        assert by_proxy[0] == 0
        assert json.loads(by_proxy[1])

    async def test_what_a_proxy_does_not_understand(self, running: str) -> None:
        status, _, said = await run("simulate", "--scale", "x=4", "--admin", f"unix:{running}")
        assert (status, said) == (1, 'no service is called "x": write one of these: demo\n')

    @pytest.mark.parametrize("question", ["explain", "simulate"])
    @pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 60_000, b"1", b"[]"])
    async def test_what_is_no_question(self, running: str, question: str, body: bytes) -> None:
        connector = aiohttp.UnixConnector(running)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://admin/v1/{question}", data=body, headers=JSON) as answer,
        ):
            assert answer.status == 400
            assert (await answer.json())["error"]

    @pytest.mark.parametrize("question", ["explain", "simulate"])
    async def test_what_a_page_elsewhere_sends(self, running: str, question: str) -> None:
        """Browsers send such a request without asking first."""
        connector = aiohttp.UnixConnector(running)
        asked = '{"host": "demo.local"}'
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://admin/v1/{question}", data=asked) as answer,
        ):
            assert answer.status == 415
            assert "send Content-Type" in (await answer.json())["error"]

    @pytest.mark.parametrize(
        "command", [("services",), ("explain", "demo.local"), ("simulate", "--scale", "demo=4")]
    )
    async def test_who_asks_for_a_token_is_shown_it(
        self, guarded: Path, command: tuple[str, ...]
    ) -> None:
        admin = f"unix:{guarded.parent}/admin.sock"
        token = guarded.parent / "token"
        app = App.from_file(guarded)
        await app.start()
        try:
            by_file = await run(*command, "--config", str(guarded))
            by_token = await run(*command, "--admin", admin, "--token-file", str(token))
            status, _, said = await run(*command, "--admin", admin)
        finally:
            await app.stop(grace=0)
        assert (by_file[0], by_token[0], status) == (0, 0, 1)
        assert said.startswith("the token is missing or wrong")

    async def test_check_as_json(self, config: Path) -> None:
        status, text, _ = await run("check", "--config", str(config), "--json")
        found = json.loads(text)
        assert status == 0
        assert found["listeners"] == ["127.0.0.1:0"]
        assert [each["service"] for each in found["services"]] == ["demo"]

    async def test_no_proxy(self, config: Path) -> None:
        status, _, said = await run("explain", "demo.local", "--config", str(config))
        assert status == 1
        assert "no proxy answers on unix:" in said

    async def test_no_engine(self, tmp_path: Path) -> None:
        engine = f"unix://{tmp_path}/none.sock"
        status, _, said = await run("explain", "demo.local", "--engine", engine)
        assert status == 1
        assert "there is no engine at" in said


class TestWhatTheyAreTold:
    async def test_fields(self, config: Path) -> None:
        asked = ["explain", "http://127.0.0.1/x", "-H", "Host: demo.local", "-b", "session=abc"]
        asked += ["--method", "PUT", "--client", "::1", "--config", str(config), "--offline"]
        status, text, _ = await run(*asked)
        assert status == 0
        lines = text.splitlines()
        assert lines[0] == "PUT http://demo.local/x from ::1: forwarded"
        assert lines[4].startswith('  cookie session: "abc" is a value of the application, slot ')

    async def test_a_pasted_command(self, config: Path) -> None:
        pasted = "curl 'http://demo.local/' \\\n -X POST\n"
        asked = ("explain", "--curl", "-", "--config", str(config), "--offline")
        status, text, _ = await run(*asked, said=pasted)
        assert status == 0
        assert text.startswith("POST http://demo.local/ from 127.0.0.1")

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (["explain"], "Give a URL, or a curl command"),
            (["explain", "a.b", "--curl", "curl a.b"], "Give a URL, or a curl command"),
            (["explain", "a.b", "--offline"], "add --config FILE"),
            (["explain", "a.b", "-H", "x"], "'x' is no header field"),
        ],
    )
    async def test_what_is_wrong(self, asked: list[str], said: str) -> None:
        status, _, text = await run(*asked)
        assert status == 1
        assert said in text

    @pytest.mark.parametrize("scale", ["demo", "demo=-1"])
    async def test_no_scale(self, scale: str) -> None:
        status, _, text = await run("simulate", "--scale", scale)
        assert status == 2
        assert "is not a service and a number: write demo=10" in text
