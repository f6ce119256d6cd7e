"""providers/threads.py: calls that block, and who waits for them."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from stickyproxy.providers.threads import CallThreads


class TestCallThreads:
    async def test_runs_in_one_other_thread_in_turn(self) -> None:
        thread = CallThreads("test")
        order: list[int] = []

        def call(number: int) -> int:
            order.append(number)
            return threading.get_ident()

        try:
            calls = (thread.run(partial(call, number)) for number in range(9))
            threads = set(await asyncio.gather(*calls))
        finally:
            thread.stop()
        assert order == list(range(9))
        assert len(threads) == 1
        assert threading.get_ident() not in threads

    async def test_raises_what_the_call_raised(self) -> None:
        thread = CallThreads("test")
        try:
            with pytest.raises(ZeroDivisionError):
                await thread.run(lambda: 1 // 0)
            assert await thread.run(lambda: 1) == 1
        finally:
            thread.stop()

    async def test_a_call_that_hangs_does_not_hold_its_caller(self) -> None:
        thread = CallThreads("test")
        held = threading.Event()
        task = asyncio.create_task(thread.run(held.wait))
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await task
        finally:
            held.set()
            thread.stop()

    async def test_as_many_calls_at_a_time_as_there_are_threads(self) -> None:
        threads = CallThreads("test", 3)
        all_there = threading.Barrier(3)
        try:
            async with asyncio.timeout(20):
                places = await asyncio.gather(*(threads.run(all_there.wait) for _ in range(3)))
        finally:
            threads.stop()
        assert sorted(places) == [0, 1, 2]
