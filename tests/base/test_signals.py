"""base/signals.py, by real signals to this very process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from stickyproxy.base import signals


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """What the signals did before."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_stops_and_the_second_one_ends(number: signal.Signals) -> None:
    stop, ended = asyncio.Event(), asyncio.Event()
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    signals.on_stop(stop, end)
    async with asyncio.timeout(20):
        os.kill(os.getpid(), number)
        await stop.wait()
        assert statuses == []
        os.kill(os.getpid(), signal.SIGTERM)
        await ended.wait()
    assert statuses == [1]


async def test_a_hangup_is_ignored_until_there_is_something_to_call() -> None:
    signals.ignore_hangup()
    os.kill(os.getpid(), signal.SIGHUP)  # would end this process
    called = asyncio.Event()
    signals.on_hangup(called.set)
    assert not called.is_set()
    os.kill(os.getpid(), signal.SIGHUP)
    async with asyncio.timeout(20):
        await called.wait()
