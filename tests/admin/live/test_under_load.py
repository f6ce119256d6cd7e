"""The live page in front of the demo: a proxy of several workers, under load, whose replicas stop
and start."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Locator, expect

from tests.admin.live.conftest import OpenPage
from tests.cli.test_main import READY, TIMEOUT, Program, StartProgram, programs
from tests.scripted import get
from tests.test_acceptance import Connection

LIVE = r"^  (http://127\.0\.0\.1:\d+/) "
WITHIN = 1.0
"""Seconds from what is typed to what the page shows."""
ROUNDS = 10
"""Of which one has to be so quick: other programs may keep this machine busy."""


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


class Visitors:
    """Clients that keep their cookies and ask one thing after the other."""

    def __init__(self) -> None:
        self.answers = 0
        self.failed: list[int] = []

    @asynccontextmanager
    async def asking(self, port: int, count: int) -> AsyncIterator[None]:
        """So many of them, in the background."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(port)) for _ in range(count)]
            yield
            for task in tasks:
                task.cancel()

    async def _ask(self, port: int) -> None:
        connection = await Connection.open(port)
        cookies: dict[str, str] = {}
        try:
            while True:
                sent = "; ".join(f"{name}={value}" for name, value in cookies.items())
                fields = {"Cookie": sent} if sent else {}
                answer = await connection.ask(get("/ping", "demo.local", **fields))
                cookies |= answer.cookies
                self.answers += 1
                if answer.status != 200:
                    self.failed.append(answer.status)
                await asyncio.sleep(0.01)  # a pace: some hundred requests per second in all
        finally:
            await connection.close()


async def seconds_until(element: Locator, text: str, program: Program, line: str) -> float:
    """How long it takes from typing this line until the element says so."""
    began = asyncio.get_running_loop().time()
    await program.type(line)
    async with asyncio.timeout(TIMEOUT):
        await element.evaluate(_SAYS, text)
    return round(asyncio.get_running_loop().time() - began, 3)


_SAYS = """(element, text) => new Promise((resolve) => {
  const look = () => element.textContent === text && resolve();
  new MutationObserver(look).observe(element, { childList: true });
  look();
})"""
"""To look again and again would take its time, too."""


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_replica_that_stops_and_starts_is_seen_within_a_second(
    start: StartProgram, open_page: OpenPage, workers: int
) -> None:
    program = await start("demo", "--port", "0", "--replicas", "3", "--workers", str(workers))
    port = int((await program.out.says(READY))[1])
    page = await open_page((await program.out.says(LIVE))[1])
    visitors = Visitors()
    async with visitors.asking(port, 16):
        demo = page.locator(".service")
        third = demo.locator(".endpoint").nth(2).locator("> .state")
        await expect(third).to_have_text("usable")
        await expect(demo.locator(".head .rate b")).to_have_text(re.compile("^[1-9]"))
        stopped, started = [], []
        for _ in range(ROUNDS):
            stopped.append(await seconds_until(third, "down", program, "stop 3"))
            await expect(demo.locator(".head .state")).to_have_text("2 of 3 in use")
            await program.out.says("^demo-3 is stopped.$")
            started.append(await seconds_until(third, "usable", program, "start 3"))
            await expect(demo.locator(".head .state")).to_have_text("3 of 3 in use")
            if min(stopped) < WITHIN and min(started) < WITHIN:
                break
        assert min(stopped) < WITHIN, stopped
        assert min(started) < WITHIN, started
        await expect(page.locator("#legend")).to_contain_text("pinned")
        # An order, on the real thing.
        await page.get_by_role("button", name="Drain: demo/1").click()
        await page.locator("#ask-yes").click()
        first = demo.locator(".endpoint").nth(0).locator("> .state")
        await expect(first).to_have_text("draining")
        await page.keyboard.press("u")
        await expect(first).to_have_text("usable")
    assert visitors.failed == []
    assert visitors.answers > 0
    print(f"seconds until seen: stopped {stopped}, started {started}")
    await program.stop()
