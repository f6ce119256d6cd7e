"""A browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.admin.live.fixture import Fixture

CHROMIUM = Path("/usr/bin/chromium")

_HAS_CHROMIUM = CHROMIUM.exists()

PATIENCE = 30_000.0
"""Milliseconds that the slowest step may take; far more than it needs."""

expect.set_options(timeout=PATIENCE)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Chromium. Skips where there is none; in CI that is a failure."""
    if not _HAS_CHROMIUM:
        message = f"there is no {CHROMIUM}: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            # As root it has no sandbox; and /dev/shm is small in containers.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        yield browser
        await browser.close()


class OpenPage(Protocol):
    """What the fixture ``open_page`` is."""

    async def __call__(self, url: str, **options: Any) -> Page:
        """The page there, in a window with these options."""


@pytest.fixture
async def open_page(browser: Browser) -> AsyncIterator[OpenPage]:
    """Opens pages. At the end: whatever a page said to its console is a failure, except that
    something was not to be had, and so is a request to anybody else."""
    said: list[str] = []
    async with AsyncExitStack() as stack:

        async def open_page(url: str, **options: Any) -> Page:
            window: dict[str, Any] = {"viewport": {"width": 1400, "height": 900}, "locale": "en-GB"}
            context = await browser.new_context(**(window | options))
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: said.append(f"error: {error}"))
            page.on("console", lambda line: said.append(line.text))
            page.on(
                "request",
                lambda asked: None if asked.url.startswith(url) else said.append(asked.url),
            )
            await page.goto(url)
            return page

        yield open_page
    assert [line for line in said if not line.startswith("Failed to load resource")] == []


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    """An admin listener that says what it is told to."""
    made = Fixture()
    await made.start()
    yield made
    await made.stop()
