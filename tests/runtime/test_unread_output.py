"""Standard output and standard error that are pipes which nobody reads, or not fast enough.

The access log goes to the first by default, the log to the second. Neither may stop the proxy.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.test_main import Output, document
from tests.scripted import RawClient, get

TIMEOUT = 60.0
"""Seconds that any wait may take; far more than any of them needs."""

WORKERS = pytest.mark.parametrize("workers", [1, 2])
USERS = 8
BATCH = 50
"""Requests that a user sends at once."""


class Proxy:
    """A proxy whose pipes the test reads when it likes."""

    def __init__(self, process: Process, out: int, err: int | None) -> None:
        self.process = process
        self.out = out
        """The end of standard output that is for reading."""
        self.err = err
        """The same of standard error, unless it is always read: then see ``told``."""
        self.port = 0
        self.told: Output | None = None

    async def ask(self, count: int) -> None:
        """Have so many requests answered."""
        turns, rest = divmod(count, USERS * BATCH)
        assert rest == 0

        async def user() -> None:
            async with await RawClient.connect(self.port) as client:
                for _ in range(turns):
                    await client.send(get("/x" * 40) * BATCH)
                    for _ in range(BATCH):
                        assert (await client.response()).status == 404

        async with asyncio.TaskGroup() as users:
            for _ in range(USERS):
                users.create_task(user())

    async def stop(self) -> None:
        """SIGTERM must end it well."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT):
            assert await self.process.wait() == 0
            if self.told is not None:
                await self.told.reading

    async def all_of(self, fd: int) -> bytes:
        """What comes out of a pipe until the process and its workers are gone."""
        return await asyncio.to_thread(_read_all, fd)

    @property
    def lost(self) -> int:
        """How many lines it says were lost."""
        assert self.told is not None
        counts = re.findall(r"(\d+) lines? of the access log .* lost", self.told.text)
        return sum(map(int, counts))


def _read_all(fd: int) -> bytes:
    received = b""
    while data := os.read(fd, 65536):
        received += data
    return received


def whole(received: bytes) -> list[bytes]:
    """The lines of an access log, none of which may be mixed with another one."""
    assert received.endswith(b"\n")
    lines = received.split(b"\n")[:-1]
    form = re.compile(
        rb'127\.0\.0\.1 - - \[[^]]{26}\] "GET (/x){40} HTTP/1\.1" 404 \d+ "-" "-" '
        rb'- "-" "-" \d+\.\d{3} none [0-9a-f]{32} \d+\.\d{3} no-route'
    )
    assert [each for each in lines if not form.fullmatch(each)] == []
    ids = {each.split()[-3] for each in lines}
    assert len(ids) == len(lines)
    return lines


def fill(pipe: int) -> None:
    """Leave no room in a pipe that has this end for reading. Ours is an open file of its own: the
    flag is not seen by others."""
    fd = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(fd, b"\n")
    os.close(fd)


@asynccontextmanager
async def serving(config: Path, *, reads_err: bool = True) -> AsyncIterator[Proxy]:
    """A proxy that is ready; killed at the end, if it is still there."""
    async with AsyncExitStack() as stack:
        out, out_write = os.pipe()
        stack.callback(os.close, out)
        err, err_write = (None, PIPE) if reads_err else os.pipe()
        if err is not None:
            stack.callback(os.close, err)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stickyproxy", "serve", "--config", str(config)),
            stdout=out_write,
            stderr=err_write,
        )
        stack.push_async_callback(end, process)
        os.close(out_write)
        proxy = Proxy(process, out, err)
        serves = r" on 127\.0\.0\.1:(\d+)$"
        if err is None:
            assert process.stderr is not None
            proxy.told = Output(process.stderr)
            proxy.port = int((await proxy.told.says(serves))[1])
        else:
            os.close(err_write)
            text = ""
            async with asyncio.timeout(TIMEOUT):
                while (match := re.search(serves, text, re.MULTILINE)) is None:
                    data = await asyncio.to_thread(os.read, err, 65536)
                    assert data, text
                    text += data.decode()
            proxy.port = int(match[1])
        yield proxy


async def end(process: Process) -> None:
    """Kill it; its workers notice."""
    if process.returncode is None:
        process.kill()
        await process.wait()


class TestAccessLog:
    @WORKERS
    async def test_nobody_reads_it(self, tmp_path: Path, workers: int) -> None:
        """All is answered, SIGTERM ends it, and each request left a line or was counted."""
        config = tmp_path / "config.toml"
        config.write_text(document(access_log=(), workers=workers))
        async with serving(config) as proxy:
            await proxy.ask(20_000)
            await proxy.stop()
            assert proxy.told is not None
            assert "the access log is not written as fast as it grows" in proxy.told.text
            assert "no sign of life" not in proxy.told.text
            lines = whole(await proxy.all_of(proxy.out))
            assert len(lines) + proxy.lost == 20_000
            assert proxy.lost > 0

    @WORKERS
    async def test_the_reader_comes_back(self, tmp_path: Path, workers: int) -> None:
        config = tmp_path / "config.toml"
        config.write_text(document(access_log=(), workers=workers))
        async with serving(config) as proxy:
            await proxy.ask(20_000)
            reading = asyncio.create_task(proxy.all_of(proxy.out))
            assert proxy.told is not None
            await proxy.told.says("lines of the access log on standard output lost: nobody reads")
            await proxy.ask(400)
            await proxy.stop()
            assert len(whole(await reading)) + proxy.lost == 20_400

    @WORKERS
    async def test_the_reader_is_slow(self, tmp_path: Path, workers: int) -> None:
        config = tmp_path / "config.toml"
        config.write_text(document(access_log=(), workers=workers))
        async with serving(config) as proxy:
            received = b""
            for _ in range(25):
                await proxy.ask(800)
                received += await asyncio.to_thread(os.read, proxy.out, 5000)
            reading = asyncio.create_task(proxy.all_of(proxy.out))
            await proxy.stop()
            assert len(whole(received + await reading)) + proxy.lost == 20_000

    @WORKERS
    async def test_the_reader_is_gone(self, tmp_path: Path, workers: int) -> None:
        config = tmp_path / "config.toml"
        config.write_text(document(access_log=(), workers=workers))
        async with serving(config) as proxy:
            os.dup2(os.open(os.devnull, os.O_RDONLY), proxy.out)
            await proxy.ask(20_000)
            await proxy.stop()
            assert proxy.told is not None
            error = "the access log on standard output cannot be written: Broken pipe"
            assert 1 <= proxy.told.text.count(error) <= workers
            assert proxy.lost == 20_000

    async def test_a_named_pipe_without_a_reader(self, tmp_path: Path) -> None:
        config, fifo = tmp_path / "config.toml", tmp_path / "access.fifo"
        os.mkfifo(fifo)
        config.write_text(document(access_log=[f'path = "{fifo}"']))
        async with serving(config) as proxy:
            await proxy.ask(400)
            proxy.process.send_signal(signal.SIGHUP)
            await proxy.ask(400)
            await proxy.stop()


class TestLog:
    @WORKERS
    async def test_nobody_reads_it(self, tmp_path: Path, workers: int) -> None:
        """It is reloaded, goes on and ends, though it cannot say so."""
        config = tmp_path / "config.toml"
        config.write_text(document(access_log=(), workers=workers))
        async with serving(config, reads_err=False) as proxy:
            assert proxy.err is not None
            fill(proxy.err)
            for turn in range(5):
                proxy.process.send_signal(signal.SIGHUP)
                config.write_text(f"nonsense {turn}")
                await proxy.ask(400)
            await proxy.stop()
