"""deploy/healthcheck.py, as the image runs it: against the program, by its configuration."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.test_main import TIMEOUT, StartProgram, document, programs

SCRIPT = Path(__file__).parent.parent / "deploy" / "healthcheck.py"


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


async def check(*command: str | Path, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """(exit status, what it says)."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-ES", SCRIPT, *command),
        stderr=asyncio.subprocess.PIPE,
        env=environ or {},
    )
    async with asyncio.timeout(TIMEOUT):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize("admin", ["[admin]\naddress = 'unix:{tmp}/admin.sock'", ""])
async def test_a_proxy(start: StartProgram, tmp_path: Path, admin: str) -> None:
    """With an admin page and, as by default, without."""
    config = tmp_path / "config.toml"
    path = f"{tmp_path}/proxy.sock"
    text = document(admin.format(tmp=tmp_path), listener=f"unix:{path}", workers=1)
    config.write_text(text)
    command = ("stickyproxy", "serve", "--config", config)
    status, said = await check(*command)
    assert status == 1
    assert "No such file" in said
    program = await start("serve", "--config", config)
    await program.err.says(" on unix:")
    assert await check(*command) == (0, "")
    assert await check("docker-init", "--", "stickyproxy", f"--config={config}") == (0, "")
    program.signal(signal.SIGSTOP)
    status, said = await check(*command)
    assert status == 1
    assert "timed out" in said
    program.signal(signal.SIGCONT)
    await program.stop()
    assert (await check(*command))[0] == 1


async def test_a_controller(tmp_path: Path, start: StartProgram) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        "[controller]\naddress = '127.0.0.1:0'\ntoken = 'x'\n"
        f"[providers.swarm]\nendpoint = 'unix://{tmp_path}/none.sock'\n"
    )
    program = await start("controller", "--config", config)
    match = await program.err.says(r"controller on 127\.0\.0\.1:(\d+)$")
    config.write_text(f"[controller]\naddress = '0.0.0.0:{match[1]}'\n")
    assert await check("stickyproxy", "controller", "--config", config) == (0, "")
    elsewhere = {"STICKYPROXY_HEALTH": f"127.0.0.1:{match[1]}"}
    assert await check("anything", environ=elsewhere) == (0, "")
    await program.stop()
    assert (await check("anything", environ=elsewhere))[0] == 1


@pytest.mark.parametrize(
    "content", [None, "nonsense", "listeners = 3", "[proxy]\nkeeper = '/x.sock'"]
)
async def test_a_file_that_was_broken_later(tmp_path: Path, content: str | None) -> None:
    """The proxy serves on by its last good one."""
    config = tmp_path / "config.toml"
    if content is not None:
        config.write_text(content)
    status, said = await check("serve", "--config", config)
    assert status == 0
    assert said.startswith("not checked")
